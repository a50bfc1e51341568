"""A load that is little but system calls, in a loop of a few instructions, so that a probe on their way stands out.

The program is written here, in machine code: no compiler is needed, and no interpreter turns between two calls. It
reads a number from its standard input, makes the calls so often, answers with one byte, and begins again until
its input ends.
"""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import tempfile
import time

from klasy.errors import KernelLacks, SystemRefusal
from klasy.plain import Closing

LSEEK, SYSLOG, OPENAT = 8, 103, 257  # numbers of system calls
AT_FDCWD = -100
FRAMES = 8  # of a stack
READ_BYTES, WRITTEN_BYTES = 512, 64
ROOM = 1024  # bytes of the stack
FILE_CALLS = 5  # of a turn
_BASE = 0x400000
_HEADERS = 64 + 56


def machine_code(number: int, first: int, second: int, third: int) -> bytes:
    """The program, which begins at its first byte and needs no address of its own."""
    return _program(_call(number, first, second, third))


def _call(number: int, first: int, second: int, third: int) -> bytes:
    return b"".join(
        (
            b"\xb8" + struct.pack("<I", number),  # mov eax, number
            b"\xbf" + struct.pack("<I", first & 0xFFFFFFFF),  # mov edi, first
            b"\xbe" + struct.pack("<I", second),  # mov esi, second
            b"\xba" + struct.pack("<I", third),  # mov edx, third
            b"\x0f\x05",  # syscall
        )
    )


def _program(body: bytes, start: bytes = b"") -> bytes:
    """Reads numbers, does ``body`` so often, answers. Left to the body are rsp, above which ROOM bytes are free, and
    the registers but for rbx."""
    body += b"\x48\xff\xcb"  # dec rbx
    read = b"".join(
        (
            b"\x31\xc0\x31\xff",  # xor eax, eax (read); xor edi, edi
            b"\x48\x89\xe6",  # mov rsi, rsp
            b"\xba\x08\0\0\0\x0f\x05",  # mov edx, 8; syscall
            b"\x48\x83\xf8\x08",  # cmp rax, 8
        )
    )
    loop = b"\x48\x8b\x1c\x24" + body  # mov rbx, [rsp]
    loop += b"\x0f\x85" + struct.pack("<i", -len(body) - 6)  # jnz body
    answer = b"".join(
        (
            b"\xb8\x01\0\0\0\xbf\x01\0\0\0",  # mov eax, 1 (write); mov edi, 1
            b"\x48\x89\xe6\xba\x01\0\0\0\x0f\x05",  # mov rsi, rsp; mov edx, 1; syscall
        )
    )
    again = loop + answer
    start += b"\x48\x81\xec" + struct.pack("<I", ROOM)  # sub rsp, ROOM
    again += b"\xe9" + struct.pack("<i", -(len(again) + 5 + len(read) + 6))  # jmp read
    end = b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"  # mov eax, 60 (exit); xor edi, edi; syscall
    return start + read + b"\x0f\x85" + struct.pack("<i", len(again)) + again + end  # jne end


def file_code(path: str) -> bytes:
    """A program whose turns open a file, read and write some of it, close it and ask for its state.

    It does so at the end of FRAMES frames, each called by the one before: for who follows stacks.
    """
    # call what follows; push rbp; mov rbp, rsp
    frames = b"\xe8\0\0\0\0\x55\x48\x89\xe5" * FRAMES

    def code(name: int) -> bytes:
        same = b"\x44\x89\xe7"  # mov edi, r12d
        buffer = b"\x48\x89\xe6"  # mov rsi, rsp
        system = b"\x0f\x05"
        opened = _call(OPENAT, AT_FDCWD, name, os.O_RDWR) + b"\x49\x89\xc4"  # mov r12, rax
        read = b"\x31\xc0" + same + buffer + b"\xba" + struct.pack("<I", READ_BYTES) + system
        write = b"\xb8\x01\0\0\0" + same + buffer + b"\xba" + struct.pack("<I", WRITTEN_BYTES) + system
        close = b"\xb8\x03\0\0\0" + same + system
        stat = b"\xb8\x04\0\0\0\xbf" + struct.pack("<I", name) + buffer + system
        return _program(opened + read + write + close + stat, frames)

    length = len(code(0))
    return code(_BASE + _HEADERS + length) + os.fsencode(path) + b"\0"


def elf(code: bytes) -> bytes:
    """A static executable for x86-64 that is this code and nothing else."""
    size = _HEADERS + len(code)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


class Loop(Closing):
    """The running program. Its standard error, descriptor 2, is ``/dev/null``: what it may seek on."""

    def __init__(self, code: bytes, *, cpu: int | None = None) -> None:
        if platform.machine() != "x86_64":
            raise KernelLacks("the load of this benchmark is written for x86-64")
        descriptor, path = tempfile.mkstemp(prefix="klasy-bench-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(elf(code))
                os.fchmod(file.fileno(), 0o700)
            with open(os.devnull, "r+b") as null:
                try:
                    self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=null)
                except OSError as error:
                    raise SystemRefusal(
                        f"cannot run the load program {path}: {error.strerror}",
                        hint="TMPDIR must be a folder from which programs may be run",
                    ) from None
        finally:
            os.unlink(path)
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._ask, self._answer = self._process.stdin.fileno(), self._process.stdout.fileno()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def seconds(self, number: int) -> float:
        """How long so many calls take."""
        begin = time.perf_counter()
        os.write(self._ask, struct.pack("<Q", number))
        if os.read(self._answer, 1) == b"":
            raise SystemRefusal("the load program has ended")
        return time.perf_counter() - begin

    def calls_in(self, seconds: float) -> int:
        """How many calls take about so long."""
        number = 1000
        while True:
            taken = self.seconds(number)
            if taken > seconds / 4 or number > 1 << 40:
                return max(100, int(number * seconds / taken))
            number *= 4

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class SyscallLoop(Loop):
    """One system call."""

    def __init__(self, number: int, first: int = 0, second: int = 0, third: int = 0, *, cpu: int | None = None) -> None:
        super().__init__(machine_code(number, first, second, third), cpu=cpu)
