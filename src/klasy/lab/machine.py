"""One QEMU process and the conversation with it: its command line, its ports, its kernel's log, its end.

QEMU's character devices are socket pairs made here, so nothing lies in the file system and the machine ends with the
process that began it. What is said on the ports is agent.sh's business and `klasy.lab.guest`'s; memory that outlives
the process is `klasy.lab.snapshot`'s.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import tempfile
import threading
import time

from klasy.lab.host import LabError, find_tool, need_tool
from klasy.lab.initramfs import initramfs
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from klasy.lab.fetch import UnpackedKernel

MEMORY_MIB = 2560
CPUS = 2
PORTS = ("ctl", "kill", "in", "out", "err")
SECTOR = 512
CONSOLE_KEPT = 256 * 1024

HARDWARE = [
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    # One thread for both processors: with one each, QEMU 7.2 now and then goes on executing a breakpoint that the other
    # processor has just replaced. The kernel patches its text so for every kprobe, trampoline and static key, and
    # takes an endless loop (6.1: RIP on the patched instruction) or "Oops: int3" (6.12) from it.
    # No ERMS: a kernel that sees it clears and copies memory with "rep stosb" and "rep movsb", which QEMU emulates byte
    # by byte. Without, eight bytes at a time: a new page takes 1 us instead of 8, to read a file a third. Nor FSRM,
    # which QEMU 10.0 has: 6.1's memmove takes it that ERMS comes with it, and the kernel hangs early in its boot.
    *("-accel", "tcg,thread=single", "-cpu", "max,-erms,-fsrm", "-smp", str(CPUS), "-m", str(MEMORY_MIB)),
    *("-device", "virtio-serial-pci"),
    # Tells a kernel that begins in a kept state that it is another machine, so that its random numbers are its own.
    *("-device", "vmgenid,guid=auto"),
]
P9 = [
    # The host's whole file system, read-only; remap: a mount below / may use the same inode numbers as another.
    *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
    *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
]
DISK = ["-device", "virtio-blk-pci,drive=disk"]


class GuestDied(LabError):
    """The guest ended, or never came up. ``console`` is the end of its kernel's log."""

    def __init__(self, message: str, console: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.console = console


class Medium(NamedTuple):
    """Where the guest's files come from: "9p", the host's own, or a "disk" with ``content``, which is made for it."""

    kind: str
    content: bytes = b""


HOST_FILES = Medium("9p")
EMPTY_DISK = Medium("disk")


class Memory(NamedTuple):
    """The guest's memory as a file: the guest writes to it where ``shared``, else its changes stay its own."""

    file: Path
    shared: bool


class Machine:
    """A running QEMU. ``on_output`` gets what arrives on the ports "out" and "err", ``on_console`` the kernel's log."""

    def __init__(
        self,
        kernel: UnpackedKernel,
        medium: Medium,
        *,
        memory: Memory | None = None,
        on_output: Callable[[str, bytes], None] = lambda port, data: None,
        on_console: Callable[[bytes], None] | None = None,
    ) -> None:
        self._on_output = on_output
        self._on_console = on_console
        self._log = bytearray()
        self._lines = {"ctl": bytearray(), "qmp": bytearray()}
        self._selector = selectors.DefaultSelector()
        self._ends: dict[str, socket.socket] = {}
        argv = [
            *command_line(kernel, medium, verbose=on_console is not None),
            *_memory_arguments(memory),
        ]
        if memory is not None and not memory.shared:
            argv += ["-incoming", "defer"]
        if medium.kind == "disk":
            with tempfile.TemporaryFile() as disk:
                disk.write(medium.content)
                disk.truncate(max(disk.tell() + -disk.tell() % SECTOR, SECTOR))
                argv += ["-blockdev", f"file,node-name=disk,filename=/dev/fd/{disk.fileno()},read-only=on,locking=off"]
                self._qemu = self._start(argv, [disk.fileno()])
        else:
            self._qemu = self._start(argv, [])

    def _start(self, argv: list[str], pass_fds: list[int]) -> subprocess.Popen[bytes]:
        theirs = []
        for name in ("console", "qmp", *PORTS):
            ours, other = socket.socketpair()
            self._ends[name] = ours
            theirs.append(other)
            argv += ["-chardev", f"socket,id={name},fd={other.fileno()}"]
            if name in ("console", "qmp", "ctl", "out", "err"):
                self._selector.register(ours, selectors.EVENT_READ, name)
        argv += ["-serial", "chardev:console", "-mon", "chardev=qmp,mode=control"]
        for name in PORTS:
            argv += ["-device", f"virtserialport,chardev={name},name=klasy.{name}"]
        # A process of ours that is killed outright takes QEMU along. The kernel watches the thread that forked, so only
        # the main one, which lives as long as the process, may ask for it.
        if threading.current_thread() is threading.main_thread() and (setpriv := find_tool("setpriv")):
            argv = [setpriv, "--pdeathsig", "KILL", *argv]
        qemu = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[*pass_fds, *(end.fileno() for end in theirs)],
            start_new_session=True,  # a terminal's Ctrl-C is ours to handle
        )
        for end in theirs:
            end.close()
        assert qemu.stderr is not None
        self._selector.register(qemu.stderr, selectors.EVENT_READ, "console")
        return qemu

    @property
    def console(self) -> str:
        """The end of what the guest's kernel, its init and QEMU itself said so far."""
        return self._log.decode(errors="replace")

    def port(self, name: str) -> socket.socket:
        """Our end of a port."""
        return self._ends[name]

    def send(self, port: str, data: bytes) -> None:
        """Write all of ``data`` to a port. Raises GuestDied when nobody is there."""
        try:
            self._ends[port].sendall(data)
        except BrokenPipeError:
            self._ended()

    def line(self, port: str, deadline: float | None = None) -> str:
        """The next line to arrive on "ctl" or "qmp". Raises TimeoutError at ``deadline``, GuestDied when QEMU ends."""
        held = self._lines[port]
        while (end := held.find(b"\n")) < 0:
            self.pump(deadline)
        line = held[:end].decode(errors="replace").rstrip("\r")
        del held[: end + 1]
        return line

    def pump(self, deadline: float | None = None) -> None:
        """Hand on what arrives next. Raises TimeoutError at ``deadline``, GuestDied when QEMU ends."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        for key, _ in self._selector.select(left):
            if not self._receive(key) and key.data == "ctl":
                self._ended()

    def control(self, command: str, deadline: float, **arguments: object) -> Any:
        """Ask QEMU's own monitor (QMP) and return its answer. Raises LabError when it refuses."""
        import json

        self.send("qmp", json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.line("qmp", deadline))
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refused {command}: {answer['error'].get('desc')}")

    def close(self) -> None:
        """End the machine at once; what it wrote is lost. Harmless when repeated."""
        self._qemu.kill()
        self._qemu.wait()
        assert self._qemu.stderr is not None
        self._qemu.stderr.close()
        self._selector.close()
        for end in self._ends.values():
            end.close()

    def _receive(self, key: selectors.SelectorKey) -> bool:
        """Take what a port holds and put it where it belongs; False at its end."""
        name = key.data
        try:
            data = os.read(key.fd, 65536)
        except ConnectionResetError:  # it ended without having read all we sent
            data = b""
        if not data:
            self._selector.unregister(key.fileobj)
        elif name in self._lines:
            self._lines[name] += data
        elif name == "console":
            self._log += data
            del self._log[:-CONSOLE_KEPT]
            if self._on_console:
                self._on_console(data)
        else:
            self._on_output(name, data)
        return bool(data)

    def _ended(self) -> None:
        """Collect the last words (a panic's log, QEMU's own complaint) and raise GuestDied."""
        while self._selector.get_map():
            for key, _ in self._selector.select():
                self._receive(key)
        status = self._qemu.wait()
        if status:
            raise GuestDied(f"QEMU ended with status {status}", self.console)
        what = "the guest's kernel panicked" if "Kernel panic" in self.console else "the guest ended by itself"
        raise GuestDied(what, self.console)


def command_line(kernel: UnpackedKernel, medium: Medium, *, verbose: bool = False) -> list[str]:
    """QEMU's arguments but for its memory and ports: what makes two machines alike. Raises LabError without QEMU."""
    # The kernel finds the TSCs of processors that take turns unsynchronised, and reads the HPET instead: half a
    # microsecond of emulation each time anyone asks what time it is. They are one counter of the host's.
    append = "console=ttyS0 panic=-1 tsc=reliable" + ("" if verbose else " quiet")
    return [
        need_tool("qemu-system-x86_64", "qemu-system-x86", "the lab"),
        *HARDWARE,
        *(P9 if medium.kind == "9p" else DISK),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs(kernel, medium.kind)), "-append", append),
    ]


def _memory_arguments(memory: Memory | None) -> list[str]:
    if memory is None:
        return ["-machine", "q35"]
    share = "on" if memory.shared else "off"
    backend = f"memory-backend-file,id=memory,size={MEMORY_MIB}M,mem-path={str(memory.file).replace(',', ',,')}"
    return ["-machine", "q35,memory-backend=memory", "-object", f"{backend},share={share}"]
