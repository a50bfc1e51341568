"""Debug registers on every CPU through perf_event_open(2), their samples read from the mapped rings."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections import Counter
from dataclasses import dataclass, field

NR_PERF_EVENT_OPEN = 298
PERF_TYPE_BREAKPOINT = 5
SAMPLE_IP, SAMPLE_REGS_INTR = 1 << 0, 1 << 18
FLAG_DISABLED, FLAG_EXCLUDE_HV = 1 << 0, 1 << 6
IOC_ENABLE, IOC_DISABLE = 0x2400, 0x2401
BREAK_ON_WRITE, BREAK_ON_ACCESS = 2, 3
RECORD_LOST, RECORD_SAMPLE = 2, 9
REGISTERS = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", *(f"r{n}" for n in range(8, 16)))
REGISTER_MASK = 0xFF | 0xFF << 16  # PERF_REG_X86_AX..SP and R8..R15, as in REGISTERS
SAMPLE = struct.Struct("<IHHQQ16Q")  # header, ip, abi, registers
DATA_PAGES = 128
_HEAD, _TAIL = 1024, 1032  # of struct perf_event_mmap_page

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _attributes(kind: int, address: int, length: int) -> bytes:
    return struct.pack(
        "<IIQQQQQIIQQQQIiQIHH",
        PERF_TYPE_BREAKPOINT, 112, 0, 1, SAMPLE_IP | SAMPLE_REGS_INTR, 0, FLAG_DISABLED | FLAG_EXCLUDE_HV,
        0, kind, address, length, 0, 0, 0, 0, REGISTER_MASK, 0, 0, 0,
    )  # fmt: skip


def online_cpus() -> list[int]:
    """The numbers of the CPUs that are up."""
    with open("/sys/devices/system/cpu/online") as file:
        spans = [part.partition("-") for part in file.read().strip().split(",")]
    return [cpu for first, _, last in spans for cpu in range(int(first), int(last or first) + 1)]


@dataclass
class Hits:
    """What one watch has caught: how often behind which instruction, some register sets of each, how many were lost."""

    counts: Counter[int] = field(default_factory=Counter)
    registers: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    lost: int = 0


class _Ring:
    def __init__(self, cpu: int, kind: int, address: int, length: int) -> None:
        attributes = _attributes(kind, address, length)
        self.fd: int = _syscall(NR_PERF_EVENT_OPEN, attributes, -1, cpu, -1, 8)  # close on exec
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"debug register at {address:#x} ({length} bytes): {errno.errorcode[number]}")
        self.page = mmap.PAGESIZE
        self.map = mmap.mmap(self.fd, (1 + DATA_PAGES) * self.page)

    def drain(self, hits: Hits, keep: int) -> None:
        head, tail = struct.unpack_from("<QQ", self.map, _HEAD)
        size = DATA_PAGES * self.page
        data = b""
        if head != tail:
            start, end = tail % size, head % size
            base = self.page
            if start < end:
                data = self.map[base + start : base + end]
            else:
                data = self.map[base + start : base + size] + self.map[base : base + end]
            struct.pack_into("<Q", self.map, _TAIL, head)
        at, counts, registers = 0, hits.counts, hits.registers
        while at < len(data):
            kind, _misc, length = struct.unpack_from("<IHH", data, at)
            if kind == RECORD_SAMPLE and length == SAMPLE.size:
                fields = SAMPLE.unpack_from(data, at)
                ip = fields[3]
                counts[ip] += 1
                if counts[ip] <= keep:
                    registers.setdefault(ip, []).append(fields[5:])
            elif kind == RECORD_LOST:
                hits.lost += struct.unpack_from("<Q", data, at + 16)[0]
            at += length

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class Watch:
    """One debug register on every CPU; use as a context manager."""

    def __init__(self, address: int, length: int, kind: int, keep: int = 4) -> None:
        self.address, self.kind, self.keep, self.hits = address, kind, keep, Hits()
        self.rings: list[_Ring] = []
        try:
            for cpu in online_cpus():
                self.rings.append(_Ring(cpu, kind, address, length))
        except OSError:
            self.close()
            raise

    def enable(self) -> None:
        """From here on accesses are counted."""
        for ring in self.rings:
            fcntl.ioctl(ring.fd, IOC_ENABLE, 0)

    def drain(self) -> None:
        """Take what the rings hold."""
        for ring in self.rings:
            ring.drain(self.hits, self.keep)

    def close(self) -> None:
        """Stop, and take the rest."""
        for ring in self.rings:
            fcntl.ioctl(ring.fd, IOC_DISABLE, 0)
        self.drain()
        for ring in self.rings:
            ring.close()
        self.rings = []
