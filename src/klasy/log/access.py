"""Which instruction accessed watched data, and whether that is what a join point is of.

A record of such an access holds where the processor was, behind the instruction, and what the program knew of it. What
it did not know is found here, by disassembling the instruction; a record of an access that turns out not to be of the
join point's kind (the ``get`` of what was a write) is none of its.
"""

from __future__ import annotations

from klasy.errors import SystemRefusal
from klasy.kernel.access_x86_64 import READ, WRITE
from klasy.kernel.references import KNOWN, belongs
from klasy.plain import TYPE_CHECKING, Protocol, dataclass, replace

if TYPE_CHECKING:
    from klasy.kernel.model import Function
    from klasy.kernel.references import Reference
    from klasy.log.event import LogPoint

_WORDS = {READ: "read", WRITE: "write", READ | WRITE: "read and write"}


class CodeOfAccesses(Protocol):
    """The part of a kernel model that is needed here."""

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address."""

    def access_before(self, ip: int) -> Reference | None:
        """The instruction whose access to data left the processor at an address."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction that accessed data: its place, and what it does (bits of READ and WRITE; 0: not known)."""

    address: int
    function: str | None
    offset: int
    module: str | None
    does: int

    @property
    def access(self) -> str | None:
        """What it does, in words."""
        return _WORDS.get(self.does)


class Accesses:
    """Finds the instructions of accesses; remembers what it has found. ``code`` None: nothing is known of any."""

    def __init__(self, code: CodeOfAccesses | None) -> None:
        self._code = code
        self._found: dict[int, Instruction] = {}

    def at(self, ip: int, known: int) -> Instruction:
        """The instruction behind which the processor was. ``known`` is what the program knew that it does."""
        found = self._found.get(ip)
        if found is None:
            found = self._found[ip] = self._find(ip)
        return replace(found, does=known & KNOWN) if not found.does and known & KNOWN else found

    def _find(self, ip: int) -> Instruction:
        try:
            reference = self._code.access_before(ip) if self._code else None
            address, does = (reference.address, reference.kind) if reference else (ip - 1, 0)
            function = reference.function if reference else self._code.function_at(ip - 1) if self._code else None
        except SystemRefusal:  # symbols or text cannot be read here
            return Instruction(ip - 1, None, 0, None, 0)
        if function is None:
            return Instruction(address, None, 0, None, does)
        return Instruction(address, function.name, address - function.address, function.module, does)

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
            access=found.access,
        )
