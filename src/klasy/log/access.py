"""Which instruction accessed watched data, and whether that is what a join point is of.

A record of such an access holds where the processor was, behind the instruction, and what the program knew of it. What
it did not know is found here, by disassembling the instruction; a record of an access that turns out not to be of the
join point's kind (the ``get`` of what was a write) is none of its.
"""

from __future__ import annotations

from klasy.kernel.access_x86_64 import READ, WRITE
from klasy.kernel.references import KNOWN, accessor, belongs
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from klasy.kernel.references import Accessor, CodeOfAccesses
    from klasy.log.event import LogPoint

_WORDS = {READ: "read", WRITE: "write", READ | WRITE: "read and write"}


class Accesses:
    """Finds the instructions of accesses; remembers what it has found. ``code`` None: nothing is known of any."""

    def __init__(self, code: CodeOfAccesses | None) -> None:
        self._code = code
        self._found: dict[int, Accessor] = {}

    def at(self, ip: int, known: int) -> Accessor:
        """What left the processor at ``ip``. ``known`` is what the program knew that it does."""
        found = self._found.get(ip)
        if found is None:
            found = self._found[ip] = accessor(self._code, ip)
        return replace(found, does=known & KNOWN) if not found.does and known & KNOWN else found

    def place(self, point: LogPoint, ip: int, known: int) -> LogPoint | None:
        """A join point with where it happened; None if the access was not of its kind after all."""
        found = self.at(ip, known)
        if not belongs(point.kind, found.does):
            return None
        return replace(
            point,
            function=found.function,
            offset=found.offset,
            module=found.module,
            address=found.address,
            access=_WORDS.get(found.does),
        )
