"""Runs ``klasy`` commands in children of the test's own process: as the console script does, without its slow start."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from klasy.__main__ import interrupt
from klasy.cli.main import COMMANDS, _load, entry_point
from klasy.kernel.live import running_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Prepare = Callable[[], object]

CLONE_NEWNS = 0x0002_0000
SECONDS = 120.0  # a command is given: the guest may be slow

# Imported once, here, and not by each child.
for _command in COMMANDS:
    _load(_command)
for _module in ("kernel.live", "kernel.hidden", "weaver.build", "weaver.session", "log.format_json", "log.format_text"):
    import_module(f"klasy.{_module}")


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Done(NamedTuple):
    """A command that has ended; ``status`` as a shell has it."""

    status: int
    out: str
    err: str


class Running:
    """A command under way."""

    def __init__(
        self,
        argv: tuple[str, ...],
        prepare: Prepare | None,
        stdin: str | None,
        stdout: int | None,
        close: Iterable[int],
    ) -> None:
        self._out, self._err, given = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115  # closed in wait()
        given.write((stdin or "").encode())
        given.seek(0)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none meets the child before it is a command
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in close:
                os.close(descriptor)
            _become(
                argv, prepare, (given.fileno(), self._out.fileno() if stdout is None else stdout, self._err.fileno())
            )
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        given.close()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return _contents(self._out)

    @property
    def err(self) -> str:
        """What it has said on standard error so far."""
        return _contents(self._err)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so; it fails where the command has ended before."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            ended, _ = os.waitpid(self.pid, os.WNOHANG)
            assert not ended, f"it has ended: {self.out}{self.err}"
            assert time.monotonic() < deadline, f"it takes too long: {self.out}{self.err}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> Done:
        """Its end."""
        deadline = time.monotonic() + SECONDS
        while True:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"it does not end: {self.out}{self.err}")
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(status)
        done = Done(code if code >= 0 else 128 - code, self.out, self.err)
        self._out.close()
        self._err.close()
        return done


def start(
    *argv: str,
    prepare: Prepare | None = None,
    stdin: str | None = None,
    stdout: int | None = None,
    close: Iterable[int] = (),
) -> Running:
    """Begin a command. ``prepare`` is called in its process first; ``stdout`` may be a descriptor; it has none of
    ``close``."""
    return Running(argv, prepare, stdin, stdout, close)


def klasy_command(
    *argv: str, prepare: Prepare | None = None, stdin: str | None = None, stdout: int | None = None
) -> Done:
    """Run a command to its end."""
    return start(*argv, prepare=prepare, stdin=stdin, stdout=stdout).wait()


def good(*argv: str, stdin: str | None = None) -> Done:
    """The same of a command that is to have nothing to complain of."""
    done = klasy_command(*argv, stdin=stdin)
    assert done.status == 0, done
    return done


def _become(argv: tuple[str, ...], prepare: Prepare | None, descriptors: tuple[int, int, int]) -> NoReturn:
    """What the child does."""
    status: object = 99
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        running_kernel.cache_clear()  # a command has seen nothing yet of what the tests before it saw
        sys.argv = ["klasy", *argv]
        if prepare is not None:
            prepare()
        try:
            entry_point()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 0)


def _contents(file) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode()


# --- what a command may find prepared ---------------------------------------------------------------------------------


def as_nobody() -> None:
    """Be an ordinary user."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def mounts(*commands: str) -> Prepare:
    """Have other mounts than the rest of the system, by shell commands in a namespace of one's own."""

    def prepare() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        script = "\n".join(["set -e", "mount --make-rprivate /", *commands])
        subprocess.run(["sh", "-c", script], check=True)

    return prepare
