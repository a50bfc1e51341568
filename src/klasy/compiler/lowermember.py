"""At accesses to members: from the instruction's registers to the object's address and the member's values.

Sites that need the same code share it; the id of the join point leads there by a binary search. A program runs before
the instruction does. ``old`` is what it finds; ``new`` is what the instruction will leave, worked out from its operand;
of an instruction that only reads, both are what it reads. One that runs behind it, without a note, asks for ``new``
alone, which is then in a register, or in memory.
"""

from __future__ import annotations

from klasy.compiler import ir
from klasy.compiler.builder import MOST_RANGES
from klasy.match.plan import WANTED
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    from klasy.compiler.builder import Builder
    from klasy.compiler.ir import Block, Operand, Var
    from klasy.match.plan import MemberCode, Members

    C = TypeVar("C")

_BINARY = {"add": "add", "sub": "sub", "and": "and", "or": "or", "xor": "xor"}
_NO_OLD = ("store", "copy", "fill", "fill bytes")  # what does not depend on what is there
_EACH_BYTE = 0x0101_0101_0101_0101


def variables(build: Builder, wants: frozenset[str]) -> dict[str, Var]:
    """Variables for all that is asked for, and ``failed``: 1 if a load did."""
    names = [name for name in WANTED if name in wants]
    return {name: build.var(f"member.{name}") for name in [*names, "failed"]}


def find(
    build: Builder, members: Members, by_address: Mapping[int, int], joinpoint: Operand, found: dict[str, Var]
) -> None:
    """Emit what finds all that is asked for at some places, and leaves it in variables."""
    build.set(found["failed"], 0)
    blocks: dict[MemberCode, Block] = {}
    behind = build.block()
    search(build, members.code, by_address, joinpoint, blocks)
    for code, block in blocks.items():
        build.begin(block)
        _Finder(build, members, code, found).find()
        build.jump(behind)
    build.begin(behind)


def search(
    build: Builder, codes: Mapping[int, C], by_address: Mapping[int, int], joinpoint: Operand, blocks: dict[C, Block]
) -> None:
    """Go on, by the join point, in the block for the code of its place. ``blocks`` gets one for each."""
    ranges: list[tuple[int, C]] = []  # the first join point of each run of those with the same code
    ids = sorted((number, address) for address, number in by_address.items())
    for number, address in ids:
        code = codes[address]
        blocks.setdefault(code, build.block())
        if not ranges or ranges[-1][1] != code:
            ranges.append((number, code))
    if len(ranges) > MOST_RANGES:
        cases = {code: case for case, code in enumerate(blocks)}
        case_of = {number: cases[codes[address]] for number, address in ids}
        joinpoint = build.lookup(joinpoint, [case_of.get(number, 0) for number in range(ids[-1][0] + 1)])
        ranges = [(case, code) for code, case in cases.items()]
    build.choose(joinpoint, [(first, blocks[code]) for first, code in ranges])


class _Finder:
    """For the sites of one code."""

    def __init__(self, build: Builder, members: Members, code: MemberCode, found: dict[str, Var]) -> None:
        self.build = build
        self.wants = members.wants
        self.code = code
        self.found = found

    def find(self) -> None:
        build, code, wants = self.build, self.code, self.wants
        base: Operand = self._register(code.base)
        if "object" in wants:
            build.set(self.found["object"], build.binary("add", base, code.object) if code.object else base)
        if code.indexed is not None:
            index = self._register(code.indexed)
            scaled = build.binary("mul", index, code.scale) if code.scale != 1 else index
            base = build.binary("add", base, scaled)
        if "address" in wants:
            build.set(self.found["address"], build.binary("add", base, code.member) if code.member else base)
        if "old" not in wants and "new" not in wants:
            return
        # A store whose old value is not asked for needs no load, nor what is read behind the instruction.
        plain = code.late or (code.stored is not None and code.stored.op in _NO_OLD)
        word = None if plain and "old" not in wants else self._word(base)
        old = self._member(word) if word is not None else None
        if "old" in wants:
            assert old is not None
            build.set(self.found["old"], old)
        if code.late:
            build.set(self.found["new"], build.binary("add", base, code.member) if code.member else base)
        elif "new" in wants:
            new = self._member(self._left(word)) if code.stored is not None else old
            assert new is not None
            build.set(self.found["new"], new)

    def _register(self, name: str) -> Operand:
        value = self.build.value()
        self.build.add(ir.Register(value, name))
        return value

    def _word(self, base: Operand) -> Operand:
        """The instruction's operand, or where that does not hold the member, the bytes that do."""
        code = self.code
        offset, size = (code.word, code.width) if code.width else (code.member, size_of(code))
        return self.build.load(base, offset, size, self.found["failed"], 1)

    def _member(self, word: Operand) -> Operand:
        """The member's value, canonical."""
        code = self.code
        return member(self.build, code, word, code.shift + (8 * (code.member - code.word) if code.width else 0))

    def _left(self, word: Operand | None) -> Operand:
        """The operand as the instruction will leave it; bits above its width mean nothing."""
        build, stored = self.build, self.code.stored
        assert stored is not None
        if stored.op in ("not", "neg"):
            assert word is not None
            return build.binary("xor", word, -1) if stored.op == "not" else build.binary("sub", 0, word)
        operand: Operand = stored.immediate
        if stored.register >= 0:
            from klasy.flow.decode import REGISTERS

            operand = self._register(REGISTERS[stored.register])
            if stored.high:
                operand = build.binary("lshr", operand, 8)
        if stored.op == "store":
            return operand
        if stored.op == "copy":
            return build.load(operand, self.code.member, size_of(self.code), self.found["failed"], 1)
        if stored.op == "fill":
            return build.binary("lshr", operand, stored.immediate) if stored.immediate else operand
        if stored.op == "fill bytes":
            return build.binary("mul", build.extend(operand, 8, False), _EACH_BYTE)
        assert word is not None
        if stored.op in _BINARY:
            return build.binary(_BINARY[stored.op], word, operand)
        if stored.op == "andnot":
            return build.binary("and", word, build.binary("xor", operand, -1))
        assert stored.op == "cmpxchg"
        width = 8 * self.code.width
        expected = build.extend(self._register("ax"), width, False)
        equal = build.compare("eq", word, expected)
        return build.binary("add", word, build.binary("mul", build.binary("sub", operand, word), equal))


def member(build: Builder, code: MemberCode, word: Operand, low: int) -> Operand:
    """The member's value, canonical, of a word that holds it from bit ``low`` on."""
    shifted = build.binary("lshr", word, low) if low else word
    return build.extend(shifted, code.bits, code.signed)


def size_of(code: MemberCode) -> int:
    """The least load that holds the member's bits, from its first byte."""
    return next(size for size in (1, 2, 4, 8) if code.shift + code.bits <= 8 * size)
