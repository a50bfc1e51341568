"""A running guest: boot QEMU, run commands in it, end it.

QEMU's character devices are socket pairs made here, so nothing lies in the file system and the guest ends with its
host's process. The other side of the conversation, and its protocol, is agent.sh.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shlex
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from klasy.lab.fetch import kernel_files
from klasy.lab.host import LabError, find_tool, need_tool
from klasy.lab.initramfs import initramfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from klasy.lab.kernels import LabKernel

PORTS = ("ctl", "kill", "in", "out", "err")
MEMORY_MIB = 2560
CPUS = 2
BOOT_SECONDS = 120.0
# cache=loose: the guest keeps what it once read of the host's files; it lives too briefly to see them change.
P9_OPTIONS = "msize=262144,cache=loose"
CONSOLE_KEPT = 256 * 1024


class GuestDied(LabError):
    """The guest ended, or never came up. ``console`` is the end of its kernel's log."""

    def __init__(self, message: str, console: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.console = console


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
    """A booted guest, as a context manager; ``run`` as many commands as you like, one at a time.

    >>> with Guest(kernels.DEFAULT) as guest:                    # doctest: +SKIP
    ...     print(guest.run(["uname", "-r"]).out)
    """

    def __init__(
        self,
        kernel: LabKernel,
        *,
        boot_timeout: float = BOOT_SECONDS,
        on_console: Callable[[bytes], None] | None = None,
    ) -> None:
        self._kernel = kernel
        self._boot_timeout = boot_timeout
        self._on_console = on_console
        self._console = bytearray()
        self._control = bytearray()
        self._ends: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._sinks: dict[str, _Stream | None] = {"out": None, "err": None}

    def __enter__(self) -> Guest:
        try:
            self._boot()
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
        return self._console.decode(errors="replace")

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
        streams = [_Stream(mark.encode(), on_stdout), _Stream(mark.encode(), on_stderr)]
        self._sinks = {"out": streams[0], "err": streams[1]}
        self._send("ctl", f"run {mark} {len(script)} {'null' if stdin is None else 'port'}\n".encode() + script)
        if stdin is not None:
            threading.Thread(target=_feed, args=(stdin, self._ends["in"]), daemon=True).start()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            status = self._answer(f"exit {mark} ", deadline)
        except TimeoutError:
            self._kill_command(mark)
            shown = command if isinstance(command, str) else shlex.join(command)
            raise CommandTimeout(f"the command ran longer than {timeout:g} s and was killed: {shown}") from None
        while not all(stream.ended for stream in streams):
            self._pump(None)
        return int(status)

    def close(self) -> None:
        """End the guest at once; what it wrote is lost. Harmless when repeated."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        self._selector.close()
        for end in self._ends.values():
            end.close()
        self._ends.clear()

    def _boot(self) -> None:
        qemu = need_tool("qemu-system-x86_64", "qemu-system-x86", "the lab")
        kernel = kernel_files(self._kernel)
        append = "console=ttyS0 panic=-1" + ("" if self._on_console else " quiet")
        argv = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += [
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            str(CPUS),
            "-m",
            str(MEMORY_MIB),
        ]
        argv += ["-kernel", str(kernel.image), "-initrd", str(initramfs(kernel)), "-append", append]
        argv += ["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]
        argv += ["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]
        argv += ["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]
        theirs = []
        for name in ("console", *PORTS):
            ours, other = socket.socketpair()
            self._ends[name] = ours
            theirs.append(other)
            argv += ["-chardev", f"socket,id={name},fd={other.fileno()}"]
            if name == "console":
                argv += ["-serial", f"chardev:{name}"]
            else:
                argv += ["-device", f"virtserialport,chardev={name},name=klasy.{name}"]
            if name in ("console", "ctl", "out", "err"):
                self._selector.register(ours, selectors.EVENT_READ, name)
        # A process of ours that is killed outright takes QEMU along. The kernel watches the thread that forked, so only
        # the main one, which lives as long as the process, may ask for it.
        if threading.current_thread() is threading.main_thread() and (setpriv := find_tool("setpriv")):
            argv = [setpriv, "--pdeathsig", "KILL", *argv]
        self._qemu = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[end.fileno() for end in theirs],
            start_new_session=True,  # a terminal's Ctrl-C is ours to handle
        )
        for end in theirs:
            end.close()
        assert self._qemu.stderr is not None
        self._selector.register(self._qemu.stderr, selectors.EVENT_READ, "console")
        try:
            deadline = time.monotonic() + self._boot_timeout
            self._answer("loaded", deadline)
            self._send("ctl", f"{int(time.time())} {P9_OPTIONS} {kernel.modules}\n".encode())
            self._answer("ready", deadline)
        except TimeoutError:
            raise GuestDied(f"the guest did not come up within {self._boot_timeout:g} s", self.console) from None

    def _answer(self, prefix: str, deadline: float | None) -> str:
        """The rest of the next control line, which must begin with ``prefix``."""
        while b"\n" not in self._control:
            self._pump(deadline)
        line, _, rest = self._control.partition(b"\n")
        self._control = bytearray(rest)
        text = line.decode(errors="replace")
        if not text.startswith(prefix):
            raise LabError(f"the guest's agent answered {text!r}, not {prefix!r}")
        return text.removeprefix(prefix)

    def _pump(self, deadline: float | None) -> None:
        """Hand on what arrives next. Raises TimeoutError at ``deadline``, GuestDied when the guest ends."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        for key, _ in self._selector.select(left):
            name = key.data
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
                if name == "ctl":
                    self._ended()
            elif name == "ctl":
                self._control += data
            elif name == "console":
                self._console += data
                del self._console[:-CONSOLE_KEPT]
                if self._on_console:
                    self._on_console(data)
            elif (sink := self._sinks[name]) is not None:
                sink.feed(data)

    def _ended(self) -> None:
        while self._selector.get_map():  # the last words: a panic's log, QEMU's own complaint
            for key, _ in self._selector.select():
                data = os.read(key.fd, 65536)
                if key.data == "console":
                    self._console += data
                    if self._on_console:
                        self._on_console(data)
                if not data:
                    self._selector.unregister(key.fileobj)
        assert self._qemu is not None
        status = self._qemu.wait()
        if status:
            raise GuestDied(f"QEMU ended with status {status}", self.console)
        what = "the guest's kernel panicked" if "Kernel panic" in self.console else "the guest ended by itself"
        raise GuestDied(what, self.console)

    def _send(self, port: str, data: bytes) -> None:
        try:
            self._ends[port].sendall(data)
        except BrokenPipeError:
            self._ended()

    def _kill_command(self, mark: str) -> None:
        self._send("kill", b"KILL\n")
        try:
            self._answer(f"exit {mark} ", time.monotonic() + 20)
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
        "HOME": "/root",
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
