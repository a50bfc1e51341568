"""The command of ``klasy weave FILE -- COMMAND``: a process that waits to become it until the aspects are woven."""

from __future__ import annotations

import os
import sys

from klasy.errors import InputError, UsageError, one_line
from klasy.match.filter import Filter
from klasy.plain import TYPE_CHECKING, replace, suppress

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from typing import Self

    from klasy.cli.interrupts import Interrupts
else:
    import _signal as signal

_CANNOT_RUN = 126
# What Python ignores and other programs do not expect to be ignored.
_USUAL = (signal.SIGPIPE, signal.SIGXFSZ)


class Command:
    """A child of this process. Close it: a child that was never let go ends without having run anything."""

    def __init__(self, words: Sequence[str]) -> None:
        """Raises UsageError, or InputError where there is no such program."""
        if not words:
            raise UsageError("there is no command behind '--'")
        self.name = one_line(os.path.basename(words[0]) or words[0])
        self._program = _find(words[0])
        self._words = list(words)
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        waiting, self._gate = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._become(waiting)
        os.close(waiting)

    def _become(self, waiting: int) -> None:
        """In the child: wait for the gate to open, then run. Never returns."""
        try:
            os.close(self._gate)
            if os.read(waiting, 1):
                for number in _USUAL:
                    signal.signal(number, signal.SIG_DFL)
                os.execv(self._program, self._words)
        except OSError as error:
            print(f"klasy: cannot run {self.name}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(_CANNOT_RUN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gate >= 0:  # it never began
            os.close(self._gate)
            self._gate = -1
            self.wait()

    def start(self) -> None:
        """Let it run."""
        with suppress(BrokenPipeError):  # somebody has killed it
            os.write(self._gate, b"\n")
        os.close(self._gate)
        self._gate = -1

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is None

    def end(self) -> None:
        """Ask it to end, if it has not."""
        if self.running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def finish(self, interrupts: Interrupts) -> int:
        """When the aspects are out again: wait for its end; its exit status. It is told of a signal that has come."""
        if interrupts.requested and interrupts.requested != signal.SIGINT:  # Ctrl-C comes to it by itself
            self.end()
        return self.wait()

    def wait(self) -> int:
        """Its exit status, as a shell would tell it: 128 + N if signal N has ended it."""
        while self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code


def watched(command: Command, wanted: Filter | None) -> Filter:
    """The filter for a command and its children, and for what else is asked. Raises SystemRefusal."""
    from klasy.cli.filters import in_first_namespace

    in_first_namespace("pid")
    return replace(wanted or Filter(), pids=(command.pid,), children=True, command=command.name)


def _find(name: str) -> str:
    """The program of a command, looked for as a shell does."""
    folders = [""] if "/" in name else [f"{folder or '.'}/" for folder in os.get_exec_path()]
    refused = False
    for folder in folders if name else ():
        path = folder + name
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            refused = True
    why = "it is not executable" if refused else "there is no such program"
    raise InputError(f"cannot run '{one_line(name)}': {why}")
