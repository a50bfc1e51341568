"""Maps in the kernel: creating, reading, writing.

Keys and values are bytes, of the sizes the map was made with; what they mean is for others. A per-CPU map has a
value for each possible CPU: ``lookup`` joins them as the kernel does, each padded to 8 bytes, and ``lookup_each_cpu``
parts them.
"""

from __future__ import annotations

import errno
import struct

from klasy.bpf import sys
from klasy.bpf import uapi as u
from klasy.bpf.sys import Buffer, Descriptor
from klasy.plain import TYPE_CHECKING, NamedTuple, cache

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator

POSSIBLE_CPUS = "/sys/devices/system/cpu/possible"

_CREATE = struct.Struct("<7I16s5IQ")
_ELEMENT = struct.Struct("<I4xQQQ")
_BATCH = struct.Struct("<QQQQIIQQ")
_INFO = struct.Struct("<6I16sIIQQIII4xQ")

_PER_CPU = frozenset({u.BPF_MAP_TYPE_PERCPU_HASH, u.BPF_MAP_TYPE_PERCPU_ARRAY, u.BPF_MAP_TYPE_LRU_PERCPU_HASH})
_BATCH_ROOM = 1024  # elements moved by one call
# BPF_MAP_*_BATCH is missing for a map type (ENOTSUPP is the kernel's own number, unknown to C), or from the kernel
_NO_BATCH = frozenset({errno.EINVAL, errno.EOPNOTSUPP, 524})

_HINTS = {
    errno.EINVAL: "this kernel does not know the map's type or one of its flags, or a size is wrong",
    errno.ENOMEM: "not enough memory for the map",
    errno.E2BIG: "the map is larger than the kernel allows",
}


class MapInfo(NamedTuple):
    """What the kernel knows of a map."""

    id: int
    type: int
    name: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class Map(Descriptor):
    """A map. ``key_size`` and ``value_size`` are bytes; of a per-CPU map the value of one CPU."""

    def __init__(self, fd: int, info: MapInfo) -> None:
        super().__init__(fd)
        self.name = info.name
        self.type = info.type
        self.key_size = info.key_size
        self.value_size = info.value_size
        self.max_entries = info.max_entries
        self.flags = info.flags
        self.per_cpu = info.type in _PER_CPU
        self._stride = (info.value_size + 7 & ~7) if self.per_cpu else info.value_size
        self._value_bytes = self._stride * (possible_cpus() if self.per_cpu else 1)

    # -- single elements ---------------------------------------------------------------------------------------

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None if there is none; of a per-CPU map the values of all possible CPUs, joined."""
        value = Buffer(self._value_bytes)
        if self._element(u.BPF_MAP_LOOKUP_ELEM, "reading", key, value.address) == errno.ENOENT:
            return None
        return value.bytes()

    def lookup_each_cpu(self, key: bytes) -> list[bytes] | None:
        """The values of each possible CPU, in order; None if there is no such key."""
        joined = self.lookup(key)
        return None if joined is None else self.part(joined)

    def part(self, joined: bytes) -> list[bytes]:
        """A joined value of a per-CPU map as one value a CPU."""
        return [joined[at : at + self.value_size] for at in range(0, len(joined), self._stride)]

    def update(self, key: bytes, value: bytes, flags: int = u.BPF_ANY) -> None:
        """Set a value: a joined one for a per-CPU map, or one CPU's, which all then get.

        KernelRefused: ENOENT with BPF_EXIST, EEXIST with BPF_NOEXIST, E2BIG when the map is full.
        """
        buffer = Buffer(self._joined(value))
        error = self._element(u.BPF_MAP_UPDATE_ELEM, "writing", key, buffer.address, flags)
        if error:
            raise sys.refused(f"writing map {self.name!r}", error)

    def delete(self, key: bytes) -> bool:
        """Remove an element; whether it was there."""
        return self._element(u.BPF_MAP_DELETE_ELEM, "deleting from", key, 0) == 0

    def pop(self, key: bytes) -> bytes | None:
        """Read and remove in one step (hash maps, 5.14)."""
        value = Buffer(self._value_bytes)
        if self._element(u.BPF_MAP_LOOKUP_AND_DELETE_ELEM, "taking from", key, value.address) == errno.ENOENT:
            return None
        return value.bytes()

    # -- all elements ------------------------------------------------------------------------------------------

    def keys(self) -> Iterator[bytes]:
        """All keys. Of a map that changes meanwhile: some, and perhaps some twice, but it ends."""
        following = Buffer(self.key_size)
        key: bytes | None = None
        for _ in range(2 * self.max_entries + 1):
            error = self._element(u.BPF_MAP_GET_NEXT_KEY, "walking", key, following.address)
            if error == errno.ENOENT:
                return
            key = following.bytes()
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values (joined ones, per CPU). Many at a call where the kernel can (5.6)."""
        try:
            yield from self._batches(u.BPF_MAP_LOOKUP_BATCH)
        except _BatchUnsupported:
            for key in self.keys():
                value = self.lookup(key)
                if value is not None:
                    yield key, value

    def take_all(self) -> list[tuple[bytes, bytes]]:
        """All keys with their values, which are removed in the same step, so that no later change is lost (hashes)."""
        try:
            return list(self._batches(u.BPF_MAP_LOOKUP_AND_DELETE_BATCH))
        except _BatchUnsupported:
            return [(key, value) for key in list(self.keys()) if (value := self.pop(key)) is not None]

    def update_all(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many values. As :meth:`update`, and with as few calls as may be; not all at once."""
        pairs = [(key, self._joined(value)) for key, value in items]
        for start in range(0, len(pairs), _BATCH_ROOM):
            chunk = pairs[start : start + _BATCH_ROOM]
            keys, values = Buffer(b"".join(k for k, _ in chunk)), Buffer(b"".join(v for _, v in chunk))
            if keys.size != len(chunk) * self.key_size:
                raise ValueError(f"a key of map {self.name!r} has {self.key_size} bytes")
            attributes = Buffer(
                _BATCH.pack(0, 0, keys.address, values.address, len(chunk), self.fileno(), u.BPF_ANY, 0)
            )
            _, error = sys.bpf_raw(u.BPF_MAP_UPDATE_BATCH, attributes)
            if error in _NO_BATCH:
                for key, value in chunk:
                    self.update(key, value)
            elif error:
                raise sys.refused(f"writing map {self.name!r}", error)

    def _batches(self, command: int) -> Iterator[tuple[bytes, bytes]]:
        room = min(_BATCH_ROOM, max(self.max_entries, 1))
        token_in, token_out = Buffer(max(self.key_size, 8)), Buffer(max(self.key_size, 8))
        started = False
        while True:
            keys, values = Buffer(room * self.key_size), Buffer(room * self._value_bytes)
            attributes = Buffer(
                _BATCH.pack(
                    token_in.address if started else 0,
                    token_out.address,
                    keys.address,
                    values.address,
                    room,
                    self.fileno(),
                    0,
                    0,
                )
            )
            _, error = sys.bpf_raw(command, attributes)
            if error in _NO_BATCH and not started:
                raise _BatchUnsupported
            if error == errno.ENOSPC:  # one bucket of the hash holds more than there is room for
                room *= 2
                continue
            if error not in {0, errno.ENOENT}:
                raise sys.refused(f"reading map {self.name!r}", error)
            count = _BATCH.unpack(attributes.view)[4]
            k, v, width = keys.view, values.view, self._value_bytes
            for n in range(count):
                yield (
                    k[n * self.key_size : (n + 1) * self.key_size].tobytes(),
                    v[n * width : (n + 1) * width].tobytes(),
                )
            if error == errno.ENOENT:
                return
            started = True
            token_in, token_out = token_out, token_in

    # -- the map as a whole ------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """From now on user space cannot write it; programs still can unless it has BPF_F_RDONLY_PROG."""
        sys.bpf(u.BPF_MAP_FREEZE, struct.pack("<I", self.fileno()), f"freezing map {self.name!r}")

    def mmap(self, *, writable: bool = True) -> mmap.mmap:
        """The values of an array made with BPF_F_MMAPABLE as shared memory; each value is padded to 8 bytes."""
        import mmap as m

        size = (self.value_size + 7 & ~7) * self.max_entries
        size = size + m.PAGESIZE - 1 & ~(m.PAGESIZE - 1)
        protection = m.PROT_READ | (m.PROT_WRITE if writable else 0)
        try:
            return m.mmap(self.fileno(), size, m.MAP_SHARED, protection)
        except OSError as error:
            raise sys.refused(f"mapping map {self.name!r} into memory", error.errno or 0) from None

    def words(self) -> tuple[int, ...]:
        """The values of such an array as 64-bit words. Programs may write them meanwhile: each is read in one step,
        which :meth:`lookup` does not promise."""
        with self.mmap(writable=False) as memory:
            return struct.unpack_from(f"{self.value_size * self.max_entries // 8}Q", memory)

    def info(self) -> MapInfo:
        """Ask the kernel anew."""
        return _info(self.fileno())

    # -- inside ------------------------------------------------------------------------------------------------

    def _joined(self, value: bytes) -> bytes:
        if len(value) == self._value_bytes:
            return value
        if len(value) != self.value_size:
            raise ValueError(f"a value of map {self.name!r} has {self.value_size} bytes, not {len(value)}")
        return value.ljust(self._stride, b"\0") * (self._value_bytes // self._stride)

    def _element(self, command: int, doing: str, key: bytes | None, value: int, flags: int = 0) -> int:
        """One bpf() call about one element; 0 or ENOENT, of updates any error number; others are raised."""
        if key is not None and len(key) != self.key_size:
            raise ValueError(f"a key of map {self.name!r} has {self.key_size} bytes, not {len(key)}")
        buffer = Buffer(key or b"")
        attributes = Buffer(_ELEMENT.pack(self.fileno(), buffer.address if key is not None else 0, value, flags))
        _, error = sys.bpf_raw(command, attributes)
        if error in {0, errno.ENOENT} or command == u.BPF_MAP_UPDATE_ELEM:
            return error
        raise sys.refused(f"{doing} map {self.name!r}", error)


class _BatchUnsupported(Exception):
    """The kernel has no batch operations for this kind of map."""


def create(
    kind: int | str,
    *,
    name: str = "",
    key_size: int = 0,
    value_size: int = 0,
    max_entries: int,
    flags: int = 0,
    btf_fd: int = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
) -> Map:
    """Make a map. ``kind`` is a ``BPF_MAP_TYPE_*`` or its name in lower case: ``"ringbuf"``, ``"percpu_array"``.

    A ring buffer has no keys and values; its ``max_entries`` are bytes, a power of two and whole pages. Task storage
    needs BTF and BPF_F_NO_PREALLOC. Only the first 15 characters of ``name`` reach the kernel.
    """
    number = kind if isinstance(kind, int) else map_type(kind)
    attributes = _CREATE.pack(
        number,
        key_size,
        value_size,
        max_entries,
        flags,
        0,
        0,
        sys.object_name(name),
        0,
        btf_fd,
        btf_key_type_id,
        btf_value_type_id,
        0,
        0,
    )
    fd = sys.bpf(u.BPF_MAP_CREATE, attributes, f"creating map {name!r}", hints=_HINTS)
    return Map(fd, MapInfo(0, number, name, key_size, value_size, max_entries, flags))


def open_fd(fd: int) -> Map:
    """A Map that owns ``fd``, a descriptor of a map from elsewhere: a pin, another process."""
    try:
        return Map(fd, _info(fd))
    except BaseException:
        import os

        os.close(fd)
        raise


def open_id(number: int) -> Map:
    """The map with this id. KernelRefused (ENOENT) if there is none."""
    return open_fd(sys.open_id(u.BPF_MAP_GET_FD_BY_ID, number, f"opening map {number}"))


def map_type(name: str) -> int:
    """Number of a map type by its name in lower case; KeyError if klasy knows none of that name."""
    number: int = vars(u)[f"BPF_MAP_TYPE_{name.upper()}"]
    return number


@cache
def possible_cpus(path: str = POSSIBLE_CPUS) -> int:
    """How many CPUs the machine can ever have: as many values has an element of a per-CPU map."""
    with open(path) as file:
        return count_cpus(file.read())


@cache
def cpu_numbers(path: str = POSSIBLE_CPUS) -> int:
    """The number that those of all CPUs are below that the machine can ever have: they may leave gaps."""
    with open(path) as file:
        return max(cpu_list(file.read())) + 1


def count_cpus(text: str) -> int:
    """How many CPUs a list of the kernel's names: ``0-3,8`` are five."""
    return len(cpu_list(text))


def cpu_list(text: str) -> list[int]:
    """The numbers of a list of CPUs as the kernel writes it: ``0-3,6``."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def _info(fd: int) -> MapInfo:
    info = Buffer(_INFO.size)
    sys.object_info(fd, info, "asking about a map")
    f = _INFO.unpack(info.view)
    return MapInfo(f[1], f[0], f[6].rstrip(b"\0").decode(errors="replace"), f[2], f[3], f[4], f[5])
