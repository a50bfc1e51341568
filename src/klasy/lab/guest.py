"""A running guest: begin it, run commands in it, end it. The library's face of the lab.

The other side of the conversation, and its protocol, is agent.sh.
"""

from __future__ import annotations

import compileall
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from pathlib import Path

import klasy
from klasy import pack
from klasy.lab.fetch import debug_file, kernel_files
from klasy.lab.host import LabError, say
from klasy.lab.machine import EMPTY_DISK, HOST_FILES, GuestDied, Machine, Medium, Memory
from klasy.lab.snapshot import restore, snapshot
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from klasy.lab.fetch import UnpackedKernel
    from klasy.lab.kernels import LabKernel

BOOT_SECONDS = 180.0  # 6 on an idle machine; a machine may be busy with other guests
# cache=loose: the guest keeps what it once read of the host's files; it lives too briefly to see them change.
P9_OPTIONS = "msize=262144,cache=loose"


class CommandTimeout(LabError):
    """A command ran longer than it was allowed and was killed; the guest is still usable."""


class Finished(NamedTuple):
    """A command that ended in the guest; ``returncode`` is as in a shell: 128+N when signal N killed it."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Its standard output as text."""
        return self.stdout.decode(errors="replace")

    @property
    def err(self) -> str:
        """Its standard error as text."""
        return self.stderr.decode(errors="replace")


class Guest:
    """A guest, as a context manager; ``run`` as many commands as you like, one at a time.

    >>> with Guest(kernels.DEFAULT) as guest:                    # doctest: +SKIP
    ...     print(guest.run(["uname", "-r"]).out)

    It begins from a kept state where there is one (see `klasy.lab.snapshot`), else, and with ``fresh_boot`` or
    ``on_console`` (which gets its kernel's log), it boots. Entering raises LabError when it does not come up.
    Without ``host_files`` it has a small root of its own instead of the host's: see `klasy.lab.closure`. With
    ``debug_info`` it has its kernel's debug information, which is fetched if it was not before.
    """

    def __init__(
        self,
        kernel: LabKernel,
        *,
        host_files: bool = True,
        fresh_boot: bool = False,
        debug_info: bool = False,
        boot_timeout: float = BOOT_SECONDS,
        on_console: Callable[[bytes], None] | None = None,
    ) -> None:
        self._kernel = kernel
        self._host_files = host_files
        self._debug_info = debug_info
        self._fresh_boot = fresh_boot or on_console is not None
        self._boot_timeout = boot_timeout
        self._on_console = on_console
        self._machine: Machine | None = None
        self._streams: dict[str, _Stream] = {}

    def __enter__(self) -> Guest:
        try:
            files = kernel_files(self._kernel)
            debug = debug_file(self._kernel, files) if self._debug_info else None
            self._begin(files)
            if debug is not None:
                self._install_debug(debug)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def console(self) -> str:
        """The end of what the guest's kernel and init said so far."""
        return self._running.console

    def run(
        self,
        command: Sequence[str] | str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Finished:
        """Run ``command`` (a list of words, or a shell script) as root and collect its output; its input is empty.

        ``env`` is added to the guest's own environment. Raises CommandTimeout after ``timeout`` seconds, GuestDied
        when the guest does.
        """
        out, err = bytearray(), bytearray()
        status = self.stream(command, out.extend, err.extend, cwd=cwd, env=env, timeout=timeout)
        return Finished(status, bytes(out), bytes(err))

    def stream(
        self,
        command: Sequence[str] | str,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        *,
        stdin: int | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run ``command``, handing on its output as it comes, and return its exit status.

        ``stdin`` is a descriptor whose bytes become its standard input; a guest takes one such command in its life.
        """
        mark = secrets.token_hex(16)
        script = _script(command, cwd or os.getcwd(), {**base_environment(self._kernel.name), **(env or {})}).encode()
        self._streams = {"out": _Stream(mark.encode(), on_stdout), "err": _Stream(mark.encode(), on_stderr)}
        machine = self._running
        machine.send("ctl", f"run {mark} {len(script)} {'null' if stdin is None else 'port'}\n".encode() + script)
        if stdin is not None:
            threading.Thread(target=_feed, args=(stdin, machine.port("in")), daemon=True).start()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            status = self._expect(f"exit {mark} ", deadline)
        except TimeoutError:
            self._kill_command(mark)
            self._drain()
            shown = command if isinstance(command, str) else shlex.join(command)
            raise CommandTimeout(f"the command ran longer than {timeout:g} s and was killed: {shown}") from None
        self._drain()
        return int(status)

    def close(self) -> None:
        """End the guest at once; what it wrote is lost. Harmless when repeated."""
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    @property
    def _running(self) -> Machine:
        if self._machine is None:
            raise LabError("the guest is not running")
        return self._machine

    def _begin(self, kernel: UnpackedKernel) -> None:
        # Compiling is 20 times slower in the guest, which could not keep the result either.
        compileall.compile_dir(Path(klasy.__file__).parent, quiet=2)
        if not pack.is_current():
            pack.write_pack()
        if not self._fresh_boot:
            try:
                self._begin_kept(kernel)
                return
            except (LabError, OSError) as error:
                say(f"no guest could begin from a kept state ({error}); booting one")
                self.close()
        self._machine = Machine(kernel, self._medium(), on_output=self._output, on_console=self._on_console)
        deadline = time.monotonic() + self._boot_timeout
        try:
            self._expect("loaded", deadline)
            self._hand_over(kernel, deadline)
        except TimeoutError:
            raise GuestDied(f"the guest did not come up within {self._boot_timeout:g} s", self.console) from None

    def _install_debug(self, file: Path) -> None:
        """Have the kernel's debug information where its package would put it."""
        folder = "/usr/lib/debug/boot"
        done = self.run(f"mkdir -p {folder} && ln -sf {shlex.quote(str(file.resolve()))} {folder}/", cwd="/")
        if done.returncode:
            raise LabError(f"the guest could not take the debug information: {done.err.strip()}")

    def _begin_kept(self, kernel: UnpackedKernel) -> None:
        kept = snapshot(kernel, HOST_FILES if self._host_files else EMPTY_DISK, self._boot_timeout)
        deadline = time.monotonic() + self._boot_timeout
        try:
            memory = Memory(kept.memory, shared=False)
            self._machine = Machine(kernel, self._medium(), memory=memory, on_output=self._output)
            restore(self._machine, kept, deadline)
            self._hand_over(kernel, deadline)
        except (LabError, TimeoutError) as error:
            kept.forget()
            last_words = self.console.strip().splitlines()[-1:] if self._machine is not None else []
            raise LabError("; ".join([str(error) or "it did not come to life in time", *last_words])) from error

    def _medium(self) -> Medium:
        if self._host_files:
            return HOST_FILES
        from klasy.lab.closure import closure

        return Medium("disk", closure(Path.cwd()))

    def _hand_over(self, kernel: UnpackedKernel, deadline: float) -> None:
        """Tell init what is this guest's own, and see it through to the agent."""
        medium = f"9p {P9_OPTIONS} {kernel.modules.resolve()}" if self._host_files else "tar"
        self._running.send("ctl", f"{int(time.time())} {medium}\n".encode())
        self._expect("ready", deadline)

    def _expect(self, prefix: str, deadline: float | None) -> str:
        """The rest of the agent's next line, which must begin with ``prefix``."""
        line = self._running.line("ctl", deadline)
        if not line.startswith(prefix):
            raise LabError(f"the guest's agent answered {line!r}, not {prefix!r}")
        return line.removeprefix(prefix)

    def _output(self, port: str, data: bytes) -> None:
        if port in self._streams:
            self._streams[port].feed(data)

    def _drain(self) -> None:
        """Hand on what the command wrote before it ended and is still on its way."""
        while not all(stream.ended for stream in self._streams.values()):
            self._running.pump()

    def _kill_command(self, mark: str) -> None:
        self._running.send("kill", b"KILL\n")
        try:
            self._expect(f"exit {mark} ", time.monotonic() + 20)
        except TimeoutError:
            raise GuestDied("a command could not be killed; the guest hangs", self.console) from None


class _Stream:
    """One output of a command: passes bytes on until the mark that the agent puts behind them."""

    def __init__(self, mark: bytes, sink: Callable[[bytes], None]) -> None:
        self._mark = mark
        self._sink = sink
        self._held = b""
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Pass on what cannot be the beginning of the mark; hold the rest back. What follows the mark is nobody's."""
        if self.ended:
            return
        data = self._held + data
        at = data.find(self._mark)
        self.ended = at >= 0
        if not self.ended:
            at = len(data)
            for size in range(min(len(self._mark) - 1, len(data)), 0, -1):
                if self._mark.startswith(data[-size:]):
                    at -= size
                    break
        self._held = data[at:]
        if at:
            self._sink(data[:at])


def _feed(source: int, port: socket.socket) -> None:
    """Copy ``source`` to the guest until it ends; a thread's work, as both ends may block for as long as they like."""
    try:
        port.sendall(b"connected\n")
        while data := os.read(source, 65536):
            port.sendall(data)
        port.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the guest is gone, or the source unreadable: the command sees no more input


def base_environment(kernel: str) -> dict[str, str]:
    """The environment of a command in the guest: ours first on PATH, and the few variables worth handing on."""
    scripts = os.path.dirname(sys.executable)
    passed = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(("KLASY_", "LC_")) or key in ("LANG", "TERM", "NO_COLOR")
    }
    return passed | {
        "PATH": f"{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root" if os.geteuid() == 0 else "/tmp",  # what we may not read here, the guest's root may not there
        "USER": "root",
        "SHELL": "/bin/sh",
        "KLASY_LAB": kernel,
    }


def _script(command: Sequence[str] | str, cwd: str, env: Mapping[str, str]) -> str:
    """The shell script that the agent runs: sets the scene, then becomes ``command``."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in env.items()]
    lines.append(f"cd {shlex.quote(cwd)} || exit 126")
    lines.append(command if isinstance(command, str) else "exec " + shlex.join(command))
    return "\n".join(lines) + "\n"
