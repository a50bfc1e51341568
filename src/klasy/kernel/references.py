"""Instructions that access given data: those that name its address, and the one behind which a debug register trapped.

``direct`` finds, in live text, the instructions whose operand is an address of the data, relative to the instruction
(``[rip + distance]``) or in full (``[address]``, ``[address + index]``). Accesses through a pointer are not among them:
those show when they happen, and ``before`` tells then what the instruction was.
"""

from __future__ import annotations

import struct

from klasy.errors import SystemRefusal
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.access_x86_64 import READ, TWO_PLACES, WRITE, access, is_repeated_string
from klasy.plain import TYPE_CHECKING, Protocol, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klasy.kernel.kallsyms import Symbols
    from klasy.kernel.model import Function

_DISTANCE = struct.Struct("<i")
_IMMEDIATES = (0, 1, 2, 4)  # bytes that may stand behind the distance: distances count from the instruction's end
_WIDEST = 64  # bytes of one access: data may be met by one that begins before it
_WINDOW = 1 << 16
_RIP_RELATIVE = 0x05  # ModRM, but for its register: 32 bits of distance


KNOWN = READ | WRITE


def belongs(joinpoint: str, kind: int) -> bool:
    """Whether an access is a join point of a kind: ``get``, ``set``, ``access``. Yes where its own is not known."""
    wanted = {"get": READ, "set": WRITE}.get(joinpoint, KNOWN)
    return not kind or bool(kind & wanted)


class Code(Protocol):
    """The part of a kernel image that is needed here."""

    @property
    def symbols(self) -> Mapping[str | None, Symbols]:
        """The functions of each object."""

    def object_text(self, module: str | None) -> bytes:
        """The whole text of an object."""

    def text(self, address: int, size: int) -> bytes:
        """Live text."""

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An instruction that accesses data. ``kind`` is of READ and WRITE; 0: not known."""

    address: int
    length: int
    kind: int
    function: Function

    @property
    def end(self) -> int:
        """The address behind it: where a debug register's trap leaves the processor."""
        return self.address + self.length


def direct(kernel: Code, address: int, size: int, *, per_cpu: int | None = None) -> list[Reference]:
    """The instructions that name an address within ``size`` bytes from ``address``, by address.

    ``per_cpu``: of a CPU's copy of a variable, its offset in the CPU's area: code names that, with a segment register.
    """
    found: list[Reference] = []
    named = address if per_cpu is None else per_cpu
    for module, symbols in kernel.symbols.items():
        code = kernel.object_text(module)
        places = set(_relative(code, named - symbols.base, size))
        places.update(_in_full(code, named, size))
        found += _confirmed(kernel, code, symbols.base, sorted(places))
    return sorted(found, key=lambda reference: reference.address)


def _relative(code: bytes, target: int, size: int) -> Iterator[int]:
    """Offsets of distances that may lead to ``target`` (counted from the code's start) or the bytes around it.

    As in ``branches``: over 64 KiB of code the upper half of the distance is one of two or three values, which
    ``bytes.find`` finds.
    """
    low, high = target - _WIDEST + 1, target + size
    distance, find, last = _DISTANCE.unpack_from, code.find, len(code) - 4
    for start in range(0, len(code), _WINDOW):
        end = min(start + _WINDOW, last)
        lowest, highest = low - end - 8, high - start
        for half in range(lowest >> 16, (highest >> 16) + 1):
            upper = (half & 0xFFFF).to_bytes(2, "little")
            at = find(upper, start + 2, end + 4)
            while at >= 0:
                place = at - 2
                if place and code[place - 1] & 0xC7 == _RIP_RELATIVE:
                    near = place + 4 + distance(code, place)[0]
                    if low - 4 <= near < high and any(low <= near + more < high for more in _IMMEDIATES):
                        yield place
                at = find(upper, at + 1, end + 4)


def _in_full(code: bytes, address: int, size: int) -> Iterator[int]:
    """Offsets of addresses of the data that stand whole in an instruction, as 32 bits to be sign-extended."""
    signed = address - (1 << 64) if address >> 63 else address
    if not -(1 << 31) <= signed < (1 << 31) - size:
        return
    for upper in range(signed >> 8, (signed + size - 1 >> 8) + 1):
        value = (upper & 0xFF_FFFF).to_bytes(3, "little")
        at = code.find(value, 1)
        while at >= 0:
            if 0 <= (upper << 8 | code[at - 1]) - signed < size:
                yield at - 1
            at = code.find(value, at + 1)


def _confirmed(kernel: Code, code: bytes, base: int, places: list[int]) -> Iterator[Reference]:
    """Those places that are in an operand of an instruction, and what that does."""
    for place in places:
        function = kernel.function_at(base + place)
        if function is None:
            continue
        start = insn.boundary(code, function.address - base, place)
        length = insn.length(code, start)
        if length is None or not start < place < start + length or start + length < place + 4:
            continue
        kind = access(code, start)
        if kind:
            yield Reference(base + start, length, kind & ~TWO_PLACES, function)


def before(kernel: Code, ip: int) -> Reference | None:
    """The instruction whose access to data trapped with the processor at ``ip``; None where that cannot be told.

    Its ``kind`` is 0 where the instruction both reads and writes memory, at different places.
    """
    entered = kernel.function_at(ip)
    if entered is not None and entered.address == ip:
        # A jump or call through a pointer in memory: it read that. Where from is not known.
        return Reference(ip, 0, READ, entered)
    function = kernel.function_at(ip - 1)
    if function is None:
        return None
    size = min(function.size, ip - function.address + 16)
    code = kernel.text(function.address, size)
    goal = ip - function.address
    at = length = 0
    for at, length in insn.instructions(code, 0, goal):  # noqa: B007  # the last one is wanted
        pass
    ends_here = at + length == goal
    kind = access(code, at) if ends_here else 0
    if goal < len(code) and is_repeated_string(code, goal):
        # It may have been interrupted on its way, and will go on. Or the one before accessed the data.
        if kind:
            return None
        at, length, kind = goal, 0, access(code, goal)
    if not kind:
        return None
    return Reference(function.address + at, length, 0 if kind & TWO_PLACES else kind, function)


class CodeOfAccesses(Protocol):
    """The part of a kernel model that tells of accesses which have happened."""

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address."""

    def access_before(self, ip: int) -> Reference | None:
        """The instruction whose access to data left the processor at an address."""


@dataclass(frozen=True, slots=True)
class Accessor:
    """What accessed data, as far as it is known from where the processor was.

    ``address`` is the instruction's where that ``is_known``, else one within it. ``does``: bits of READ and WRITE; 0:
    not known.
    """

    address: int
    length: int
    is_known: bool
    function: str | None
    offset: int
    module: str | None
    does: int


def accessor(code: CodeOfAccesses | None, ip: int) -> Accessor:
    """What accessed data and left the processor at ``ip``. ``code`` None: nothing is known of any code."""
    try:
        found = code.access_before(ip) if code else None
        function = found.function if found else code.function_at(ip - 1) if code else None
    except SystemRefusal:  # symbols or text cannot be read here
        found = function = None
    address, length, does = (found.address, found.length, found.kind) if found else (ip - 1, 0, 0)
    if function is None:
        return Accessor(address, length, False, None, 0, None, does)
    return Accessor(
        address, length, found is not None, function.name, address - function.address, function.module, does
    )
