"""What the log reader gives, events, and what it has to know of an aspect to do so."""

from __future__ import annotations

from klasy.errors import one_line
from klasy.log.value import Value
from klasy.plain import TYPE_CHECKING, dataclass
from klasy.record import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any


@dataclass(frozen=True, slots=True)
class LogPoint:
    """A join point as a log line shows it. ``function`` is None for a caller that is not known.

    Of an access to data ``data`` names it, and ``access`` says what the instruction did: ``read``, ``write``, ``read
    and write``; None where that is not known.
    """

    kind: str
    function: str | None
    offset: int
    callee: str | None
    module: str | None = None
    address: int = 0
    file: str | None = None
    line: int | None = None
    data: str | None = None
    access: str | None = None
    tail: bool = False  # a call by a jump

    @staticmethod
    def of(woven: Any) -> LogPoint:
        """Of a join point of a woven aspect, as klasy.weaver has it."""
        return LogPoint(
            woven.kind,
            woven.function,
            woven.offset or 0,
            woven.callee,
            woven.module,
            woven.address or 0,
            woven.file,
            woven.line,
            woven.data,
            tail=woven.call == "tail",
        )

    @property
    def place(self) -> str:
        """The join point in a few words: ``call skb_dequeue in unix_release_sock+0x1d0``; harmless for a terminal."""
        return one_line(self._place())  # of a user program the names are those that its maker liked

    def _place(self) -> str:
        if self.kind == "unknown":
            return "a join point not known"
        inside = f" [{self.module}]" if self.module else ""
        if self.data is not None:
            code = f"{self.function}+{self.offset:#x}{inside}" if self.function else f"{self.address:#x}"
            return f"{self.kind} {self.data} in {code}"
        where = f"{self.function}+{self.offset:#x}{inside}" if self.function else "a caller not known"
        if self.kind == "call":
            return f"call {self.callee or 'through a pointer'} in {where}"
        if self.callee:
            return f"{self.kind} {self.callee}, inlined in {where}"
        if self.offset == 0:
            return f"{self.kind} {self.function}{inside}"
        return f"{self.kind} in {where}"


class LatePoints:
    """The join points of an aspect, each made when it is asked for: of thousands few may ever log something.

    ``woven`` gives one of ``number`` as klasy.weaver has it. A sequence, as far as schemas are asked.
    """

    def __init__(self, number: int, woven: Callable[[int], Any]) -> None:
        self._woven = woven
        self._made: list[LogPoint | None] = [None] * number

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> LogPoint:
        found = self._made[index]
        if found is None:
            found = self._made[index] = LogPoint.of(self._woven(index))
        return found

    def __iter__(self) -> Iterator[LogPoint]:
        return map(self.__getitem__, range(len(self._made)))


@dataclass(frozen=True, slots=True)
class Schema:
    """What is needed to read one aspect's records: plain data out of its registry entry."""

    aspect: str
    advice: tuple[str, ...]
    points: Sequence[LogPoint] | LatePoints
    formats: tuple[Format, ...]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One ``log`` of one advice at one join point.

    ``time_ns`` is monotonic, since boot; ``clock`` the same moment as local time of day. ``message`` is given for the
    form with a format string, else ``values`` holds (expression, value). ``faults`` names the values for which memory
    could not be read. ``lines``: the line ends in the message are its own (a stack's); those of
    strings that were logged are escaped.
    """

    time_ns: int
    clock: str
    aspect: str
    advice: str
    joinpoint: LogPoint
    cpu: int
    pid: int
    tid: int
    comm: str
    values: tuple[tuple[str, Value], ...]
    message: str | None
    faults: tuple[str, ...]
    lines: bool = False
