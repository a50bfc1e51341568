"""What the interpreter's programs live in: memory, maps, ring buffers. See :mod:`klasy.bpf.interp`."""

from __future__ import annotations

from klasy.bpf import uapi as u
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ENOENT, E2BIG, EEXIST, EINVAL = 2, 7, 17, 22


class Fault(Exception):
    """The program did what the kernel's verifier exists to prevent. ``slot`` is where."""

    def __init__(self, reason: str, slot: int | None = None) -> None:
        super().__init__(reason if slot is None else f"{reason}, at instruction {slot}")
        self.reason = reason
        self.slot = slot


class Region:
    """Some bytes at an address. ``written`` has a 1 for each byte that may be read."""

    def __init__(
        self, name: str, base: int, data: bytearray, *, writable: bool = True, initialised: bool = True
    ) -> None:
        self.name = name
        self.base = base
        self.data = data
        self.writable = writable
        self.written = bytearray([initialised]) * len(data)

    def offset(self, address: int, size: int) -> int | None:
        """Where ``address`` lies in the region, if ``size`` bytes from it do."""
        start = address - self.base
        return start if start >= 0 and start + size <= len(self.data) else None


class KernelMemory:
    """What ``probe_read_kernel`` and its like can read: bytes that the test has put there, all else faults."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at an address; later pieces lie over earlier ones."""
        self._pieces.insert(0, (address, bytes(data)))

    def read(self, address: int, size: int) -> bytes | None:
        """The bytes there, or None where one of them is not mapped."""
        for base, data in self._pieces:
            if base <= address and address + size <= base + len(data):
                return data[address - base : address - base + size]
        single = [self._byte(address + i) for i in range(size)]
        return None if None in single else bytes(b for b in single if b is not None)

    def read_string(self, address: int, limit: int) -> bytes | None:
        """Up to and with the NUL, at most ``limit`` bytes; None if a byte before the end is not mapped."""
        out = bytearray()
        while len(out) < limit:
            byte = self._byte(address + len(out))
            if byte is None:
                return None
            out.append(byte)
            if byte == 0:
                break
        return bytes(out)

    def _byte(self, address: int) -> int | None:
        for base, data in self._pieces:
            if base <= address < base + len(data):
                return data[address - base]
        return None


class HashMap:
    """``BPF_MAP_TYPE_HASH``, and the per-CPU and LRU kinds as one CPU with room sees them."""

    def __init__(self, key_size: int, value_size: int, max_entries: int = 1 << 30) -> None:
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries
        self.entries: dict[bytes, Region] = {}
        self._space = 0

    def place(self, base: int) -> None:
        """Values take addresses from ``base`` on."""
        self._space = base

    def lookup(self, key: bytes) -> Region | None:
        """The value's memory, for programs to read and write in place."""
        return self.entries.get(key)

    def update(self, key: bytes, value: bytes, flags: int = u.BPF_ANY) -> int:
        """0 or a negative error number, as bpf_map_update_elem has it."""
        present = self.entries.get(key)
        if flags == u.BPF_NOEXIST and present:
            return -EEXIST
        if flags == u.BPF_EXIST and not present:
            return -ENOENT
        if present is None:
            if len(self.entries) >= self.max_entries:
                return -E2BIG
            present = Region("map value", self._space, bytearray(self.value_size))
            self._space += (self.value_size + 7 & ~7) + 64  # a gap, so that running over the end is seen
            self.entries[key] = present
        present.data[:] = value
        return 0

    def delete(self, key: bytes) -> int:
        """0, or -ENOENT."""
        return 0 if self.entries.pop(key, None) else -ENOENT

    def regions(self) -> Iterable[Region]:
        """Memory a program may reach by address."""
        return self.entries.values()

    def __getitem__(self, key: bytes) -> bytes:
        return bytes(self.entries[key].data)


class ArrayMap(HashMap):
    """``BPF_MAP_TYPE_ARRAY`` and its per-CPU kind: all elements exist, zeroed, and stay."""

    def __init__(self, value_size: int, max_entries: int) -> None:
        super().__init__(4, value_size, max_entries)

    def place(self, base: int) -> None:
        """Make the elements."""
        super().place(base)
        for index in range(self.max_entries):
            super().update(index.to_bytes(4, "little"), bytes(self.value_size))

    def update(self, key: bytes, value: bytes, flags: int = u.BPF_ANY) -> int:
        """As for a hash, but nothing can be created."""
        if flags == u.BPF_NOEXIST:
            return -EEXIST
        return super().update(key, value, flags) if key in self.entries else -E2BIG

    def delete(self, key: bytes) -> int:
        """An array keeps its elements."""
        return -EINVAL


class RingBuffer:
    """``BPF_MAP_TYPE_RINGBUF``; what was submitted is in ``records``, in order of submission."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.records: list[bytes] = []
        self.open: dict[int, Region] = {}
        self._space = 0

    def place(self, base: int) -> None:
        """Records take addresses from ``base`` on."""
        self._space = base

    def reserve(self, size: int) -> Region | None:
        """Room for a record; its bytes hold whatever was there before. None if the buffer is full."""
        room = (size + u.BPF_RINGBUF_HDR_SZ + 7) & ~7
        if self.used + room > self.capacity - 1:  # never quite full, as in __bpf_ringbuf_reserve
            return None
        self.used += room
        # old bytes, not zeros: a program that forgets to fill its padding shall be seen
        region = Region("record", self._space + u.BPF_RINGBUF_HDR_SZ, bytearray(b"\xa5" * size))
        self._space += room + 64
        self.open[region.base] = region
        return region

    def close(self, address: int, keep: bool) -> None:
        """Submit or discard."""
        region = self.open.pop(address, None)
        if region is None:
            raise Fault(f"no record is reserved at {address:#x}")
        if keep:
            self.records.append(bytes(region.data))

    def regions(self) -> Iterable[Region]:
        """Memory a program may reach by address."""
        return self.open.values()


Map = HashMap | RingBuffer
