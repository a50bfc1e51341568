"""Records, ring buffers and symbols for tests of the log's reading end, without a kernel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from klasy.kernel.model import Clone, DataSymbol, Function
from klasy.log.decode import Decoder
from klasy.log.event import LogEvent, LogPoint, Schema
from klasy.log.symbolize import Symbolizer
from klasy.record import HEADER, HEADER_SIZE, RUN_HEAD, Field, Format, Run

if TYPE_CHECKING:
    from klasy.btf.btf import Btf

POINT = LogPoint("execution", "vfs_read", 0, None, None, 0xFFFF_FFFF_8100_0000)
FUNCTIONS = (("vfs_read", 0xFFFF_FFFF_8100_0000, None), ("ext_free", 0xFFFF_FFFF_C000_0000, "ext4"))
VARIABLE = ("init_net", 0xFFFF_FFFF_8200_0000, None)


class Code:
    """Two functions, one of them in a module, and a variable."""

    def function_at(self, address: int) -> Function | None:
        """The function whose 256 bytes hold the address."""
        for name, start, module in FUNCTIONS:
            if start <= address < start + 256:
                return Function(name, start, 256, module, name, Clone.NONE, 1)
        return None

    def data_at(self, address: int) -> DataSymbol | None:
        """The variable, whose 256 bytes may hold the address."""
        name, start, module = VARIABLE
        return DataSymbol(name, start, 256, module, False) if start <= address < start + 256 else None


SYMBOLS = Symbolizer(Code())


def record(
    values: bytes = b"", *, time_ns: int = 0, point: int = 0, form: int = 0, faults: int = 0, **task: Any
) -> bytes:
    """The bytes of a record. ``task`` may say cpu, pid, tid, comm."""
    who = [task.get(name, default) for name, default in (("cpu", 1), ("pid", 7), ("tid", 8), ("comm", b"bash"))]
    return HEADER.pack(time_ns, point, form, *who, faults) + values


def run(*records: bytes) -> Run:
    """Records of one size as they come out of a buffer."""
    data = b"".join(b"\xff" * RUN_HEAD + one.ljust((len(one) + 7) & ~7, b"\xff") for one in records)
    return Run(len(records[0]), len(records), data)


def schema(*fields: Field, template: str | None = None, aspect: str = "a") -> Schema:
    """The schema of an aspect with one ``log``."""
    form = Format(0, 0, 1, template, fields, HEADER_SIZE + sum(f.size for f in fields))
    return Schema(aspect, ("before#0",), (POINT,), (form,))


def fields(*described: tuple[str, str, int] | tuple[str, str, int, dict[str, Any]]) -> list[Field]:
    """Fields one behind the other, from (name, kind, size) each and what else is to be said of them."""
    made, offset = [], HEADER_SIZE
    for name, kind, size, *more in described:
        made.append(Field(name, kind, offset, size, **(more[0] if more else {})))
        offset += size
    return made


def decoded(
    data: bytes, *described: Any, template: str | None = None, types: Btf | None = None, **header: Any
) -> LogEvent:
    """The event of a record that holds ``data`` as the fields describe it."""
    decoder = Decoder(schema(*fields(*described), template=template), lambda _: types, SYMBOLS)
    return decoder.decode(record(data, **header))


class FakeRing:
    """A ring buffer with a reader's interface. ``records`` are what is in it; ``consumed`` is where the reader is."""

    def __init__(self, records: list[bytes]) -> None:
        self.records = records
        self.consumed = 0
        self.capacity = 1 << 20
        self._pipe = os.pipe()

    def peek(self, limit: int, after: int | None = None) -> tuple[list[Run], int]:
        """See klasy.bpf.ringbuf."""
        start = self.consumed if after is None else after
        taken = self.records[start : start + limit]
        return [run(one) for one in taken], start + len(taken)

    def stretch(self, most: int, after: int) -> tuple[memoryview, int]:
        """See klasy.bpf.ringbuf."""
        taken = self.records[after : after + most // 56]
        heads = (len(one).to_bytes(8, "little") for one in taken)
        return memoryview(b"".join(head + one for head, one in zip(heads, taken, strict=True))), after + len(taken)

    @property
    def position(self) -> int:
        """See klasy.bpf.ringbuf."""
        return self.consumed

    def consume(self, position: int) -> None:
        """See klasy.bpf.ringbuf."""
        assert self.consumed <= position <= len(self.records)
        self.consumed = position

    def ready(self) -> bool:
        """See klasy.bpf.ringbuf."""
        return self.consumed < len(self.records)

    def wait(self, timeout: float) -> bool:
        """See klasy.bpf.ringbuf."""
        assert timeout >= 0
        return self.ready()

    def fileno(self) -> int:
        """Something that polls as not readable."""
        return self._pipe[0]

    def close(self) -> None:
        """See klasy.bpf.ringbuf."""
        for end in self._pipe:
            os.close(end)
