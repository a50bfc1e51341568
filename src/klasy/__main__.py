"""The command ``klasy``, and ``python -m klasy``."""

import atexit
import gc
import os
import sys

from klasy import startup

TYPE_CHECKING = False  # as typing has it, which takes long to import
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:
    import _signal as signal  # all of it but the enumerations, which take ten times as long to import


_raised: list[KeyboardInterrupt] = []  # by the handler of Ctrl-C


def entry_point() -> None:
    """Run the command line, importing from the pack of klasy's modules; ends the process."""
    # Importing makes many objects and no garbage. Each 700 of them (the default) to look for some cost 11 of the 200
    # million instructions of a weave; 100,000 are some 20 MB at most that a long-running command keeps too long.
    gc.set_threshold(100_000)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing yet to be ended in an orderly way
    try:
        _run()
    except KeyboardInterrupt as end:  # so early or late that no command was there to tell of it
        _end(128 + (end.args[0] if end.args else signal.SIGINT))


def interrupt(number: int, _: "FrameType | None") -> None:
    """End the command in an orderly way at Ctrl-C: the first counts. More of them would end just that orderly way."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    _raised.append(KeyboardInterrupt())
    raise _raised[-1]


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt once more where that came to nothing: Python drops what is raised in a weak reference's callback, as in
    those by which it forgets the locks of modules that it has imported.
    """
    if unraisable.exc_value not in _raised:
        sys.__unraisablehook__(unraisable)
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))  # waits where that is held
    signal.setitimer(signal.ITIMER_REAL, 0.001)  # by then the callback is over


def _run() -> None:
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_closed_streams()
    finder = startup.install()
    from klasy.cli.main import entry_point as run

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        sys.unraisablehook = _unraisable
        signal.signal(signal.SIGINT, interrupt)
    try:
        run()
    except SystemExit as end:
        status = end.code
    # What a guest of the lab writes is thrown away with it; there the host keeps the pack.
    if finder.stale and not sys.dont_write_bytecode and "KLASY_LAB" not in os.environ:
        _command_is_over()
        from klasy.pack import write_pack

        write_pack()
    _end(status)


def _end(status: object) -> None:
    """End the process, without taking apart first what goes with it: that takes a tenth of a short command's time."""
    if not isinstance(status, int) or sys.getprofile() or sys.gettrace():  # who measures klasy has still to report
        sys.exit(status)  # type: ignore[arg-type]
    from klasy.plain import suppress

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or full: the command has said so
            stream.flush()
    _command_is_over()
    atexit._run_exitfuncs()
    os._exit(status)


def _command_is_over() -> None:
    """From now on no signal changes how it ended, or leaves half of what is kept for the next one: that is a moment."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _open_closed_streams() -> None:
    """Have all three standard streams where the shell closed one (``>&-``).

    What is written to it or read from it fails, as with other programs; of errors nobody wants to know. And no file
    that is opened later comes to be a standard stream.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    entry_point()
