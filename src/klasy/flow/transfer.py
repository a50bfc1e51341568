"""The flow of values through one function: from its instructions to symbols, accesses and calls.

``Flow`` runs over a unit's blocks until nothing changes, and leaves what the instructions access and call, in terms of
symbols. Which types those are, ``infer`` says. What the machine does is taken from ``decode`` alone; what it does not
know makes a register opaque, never wrong: the layers above prefer an unknown to a guess.
"""

from __future__ import annotations

import re

from klasy.flow import cfg, seeds, state
from klasy.flow import decode as d
from klasy.flow.state import (
    ARGUMENT,
    CONSTANT,
    FILLED,
    JOIN,
    LOADED,
    MASKED,
    NARROW,
    OPAQUE,
    OPAQUE_VALUE,
    RESULT,
    RESULT_INDIRECT,
    SCALED,
    SHIFT,
    STACK,
    SUM,
    ZERO_VALUE,
    Values,
    constant_of,
    value,
)
from klasy.kernel.access_x86_64 import READ, WRITE
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.flow.cfg import Block, Unit
    from klasy.flow.decode import Memory
    from klasy.flow.seeds import Seeds
    from klasy.flow.state import State

    # index of the instruction, address, (value of the index, scale) or None, width, READ | WRITE, the register that
    # holds the pointer, what is added to it
    Access = tuple[int, int, tuple[int, int] | None, int, int, int, int]
    # index of the instruction, what is called (an address, or the value of a pointer), direct, argument registers
    Call = tuple[int, int, bool, tuple[int, ...]]
    # index of the instruction, the slot's distance from STACK, what it loads
    Reload = tuple[int, int, int]
    Records = tuple[list[Access], list[Call], list[tuple[int, int]], list[int], list[Reload]]

_ARGUMENTS = (d.DI, d.SI, d.DX, d.CX, 8, 9)
_ROUNDS = 40  # of a block; each location changes at most twice, so this bounds only what is strange
_FRAME_GAP = 1 << 20  # what aligning the stack pointer may skip, so that slots on both sides never meet
_STRINGS = {0xA4: (d.SI, d.DI), 0xA6: (d.SI, d.DI), 0xAA: (None, d.DI), 0xAC: (d.SI, None), 0xAE: (None, d.DI)}
_WORD = 8
# sub %rdi,%rcx; add $length,%ecx; shr $3,%ecx, with what the compiler moved in between
ALIGNED = re.compile(rb"\x48\x29\xf9.{0,8}?(?:\x83\xc1(.)|\x81\xc1(..\0\0)).{0,8}?\xc1\xe9\x03", re.DOTALL)
_PROLOGUE = 40  # bytes before the string instruction in which these stand
_ADDRESS_MASK = (1 << 64) - 1


class Flow:
    """What happens in one function. Run once; then:

    ``accesses`` and ``calls`` as above; ``stores``: (address, value) of all 64-bit stores; ``returns``: the values of
    the result register where the function ends; ``reloads``: loads of stack slots; ``entered``: what registers and
    slots hold at the beginning of blocks, by its offset.
    """

    def __init__(self, unit: Unit, known: Seeds) -> None:
        self.unit = unit
        self.seeds = known
        self.values = Values()
        self.accesses: list[Access] = []
        self.calls: list[Call] = []
        self.stores: list[tuple[int, int]] = []
        self.returns: list[int] = []
        self.reloads: list[Reload] = []
        self.entered: dict[int, State] = {}
        self._base = unit.text.base
        self._out: dict[tuple[int, int], State] = {}
        self._in: dict[int, State] = {}
        self._records: dict[int, Records] = {}
        self._now: Records = ([], [], [], [], [])  # of the block that is being run
        self._run()

    # --- the fixpoint

    def _run(self) -> None:
        unit, values = self.unit, self.values
        order = unit.order
        if not order:
            return
        place_of = {block.start: place for place, block in enumerate(order)}
        entries = self._in
        entries[unit.start] = state.entry_state(values, unit.start, known=True)
        waiting = [False] * len(order)
        waiting[0] = True
        rounds = [0] * len(order)
        at, count = 0, len(order)
        while at < count:
            if not waiting[at]:
                at += 1
                continue
            waiting[at] = False
            block = order[at]
            rounds[at] += 1
            if rounds[at] > _ROUNDS:
                at += 1
                continue
            before = entries[block.start]
            out = self._block(block, (before[0].copy(), before[1].copy()))
            lowest = at + 1
            zero = self._tested(block)
            for target in block.next:
                after = out if zero is None or zero[1] != target else _with_null(out, zero[0])
                self._out[block.start, target] = after
                there = place_of[target]
                into = entries.get(target)
                if into is None:
                    entries[target] = (after[0].copy(), after[1].copy())
                elif not state.merge(values, target, into, after):
                    continue
                waiting[there] = True
                lowest = min(lowest, there)
            at = lowest
        self._finish(order)

    def _finish(self, order: list[Block]) -> None:
        """Collect what was found on the last round of each block, and what the joins join."""
        before: dict[int, list[State]] = {}
        for block in order:
            for target in block.next:
                out = self._out.get((block.start, target))
                if out is not None:
                    before.setdefault(target, []).append(out)
            records = self._records.get(block.start)
            if records is None:
                continue
            self.accesses += records[0]
            self.calls += records[1]
            self.stores += records[2]
            self.returns += records[3]
            self.reloads += records[4]
        for target, states in before.items():
            into = self._in[target]
            if target == self.unit.start:
                states.append(state.entry_state(self.values, target, known=True))
            state.collect_joins(self.values, target, into, states)
        self.entered, self._in = self._in, {}
        self._out = {}
        self._records = {}

    def _tested(self, block: Block) -> tuple[int, int] | None:
        """Which register is null if a block goes on to which other, by the test that it ends with."""
        ops, last = self.unit.ops, block.last - 1
        if ops[last][0] != d.BRANCH or last == block.first or len(block.next) != 2:
            return None
        test = ops[last - 1]
        if test[0] != d.NOTHING or test[2] < 0 or block.next[0] == block.next[1]:
            return None
        condition = ops[last][2]
        if condition == d.IF_ZERO:
            return test[2], block.next[0]
        return (test[2], block.next[1]) if condition == d.IF_NOT_ZERO else None

    # --- addresses

    def _address(self, m: Memory, behind: int, registers: list[int]) -> tuple[int, tuple[int, int] | None, int]:
        """The value of an address, without its index; the index; and the register that holds the pointer."""
        base, index, scale, shift, _ = m
        if base == d.IP:
            return value(CONSTANT, as_signed(self._base + behind + shift)), None, d.NONE
        number = registers[base] + shift if base >= 0 else ZERO_VALUE + shift
        if index < 0:
            return number, None, base
        other = registers[index]
        if other >> SHIFT == CONSTANT:
            return number + scale * constant_of(other), None, base
        if scale == 1 and (base < 0 or number >> SHIFT <= OPAQUE):
            # the "index" may be the pointer, as in [rdx + symbol] or with the operands swapped
            return other + shift, ((number - shift, 1) if base >= 0 else None), index
        return number, (other, scale), base

    # --- one block

    def _block(self, block: Block, into: State) -> State:
        registers, slots = into
        accesses: list[Access] = []
        stores: list[tuple[int, int]] = []
        reloads: list[Reload] = []
        self._now = self._records[block.start] = accesses, [], stores, [], reloads
        unit, new = self.unit, self.values.new
        ops, ends, ats = unit.ops, unit.end, unit.at
        for here in range(block.first, block.last):
            op = ops[here]
            kind = op[0]
            if kind == d.NOTHING:
                continue
            _, width, to, source, m, imm, rw = op
            if m is not None and kind != d.LEA:
                address, index, pointer = self._address(m, ends[here], registers)
                if rw:
                    accesses.append((here, address, index, width, rw, pointer, m[3]))
                if address >> SHIFT == STACK and index is None:
                    if kind == d.STORE:
                        place = constant_of(address)
                        if width == 8:
                            slots[place] = registers[source] if source >= 0 else value(CONSTANT, imm)
                        else:
                            _forget(slots, place, width)
                        continue
                    if kind == d.LOAD:
                        slot = slots.get(constant_of(address)) if width == 8 else OPAQUE_VALUE
                        registers[to] = new((ats[here], to), ats[here]) if slot is None else slot
                        reloads.append((here, constant_of(address), registers[to]))
                        continue
                    if rw & WRITE:
                        _forget(slots, constant_of(address), width)
            if kind == d.LOAD:
                if width == 4:
                    narrow = m is not None and m[3] in self.seeds.distances
                    registers[to] = new((ats[here], to), ats[here], NARROW, address) if narrow else OPAQUE_VALUE
                    continue
                gs = m is not None and m[4] == d.GS
                registers[to] = new((ats[here], to), ats[here], LOADED, address, (index, gs))
            elif kind == d.STORE:
                if width == 8 and source >= 0:
                    stores.append((address, registers[source]))
            elif kind == d.MOVE:
                moved = registers[source]
                if width == 8:
                    registers[to] = moved
                else:
                    registers[to] = moved if moved >> SHIFT == CONSTANT and constant_of(moved) >= 0 else OPAQUE_VALUE
            elif kind == d.OTHER:
                if imm:
                    register = 0
                    while imm:
                        if imm & 1:
                            registers[register] = OPAQUE_VALUE
                        imm >>= 1
                        register += 1
            elif kind == d.CONST:
                number = imm if width == 8 else imm & 0xFFFF_FFFF
                registers[to] = value(CONSTANT, number)
            elif kind == d.LEA:
                assert m is not None
                address, index, _ = self._address(m, ends[here], registers)
                registers[to] = address if index is None else new((ats[here], to), ats[here], SUM, address, index)
            elif kind == d.ADD_CONST:
                if registers[to] >> SHIFT != OPAQUE:
                    registers[to] += imm
            elif kind == d.ADD:
                registers[to] = self._sum(ats[here], to, registers[to], registers[source])
            elif kind >= d.FIRST_TRANSFER:
                self._transfer(here, op, into)
            elif kind == d.PUSH:
                registers[d.SP] -= 8
                if registers[d.SP] >> SHIFT == STACK:
                    slots[constant_of(registers[d.SP])] = registers[source] if source >= 0 else OPAQUE_VALUE
            elif kind == d.POP:
                stack = registers[d.SP]
                if to >= 0:
                    slot = slots.get(constant_of(stack)) if stack >> SHIFT == STACK else None
                    registers[to] = new((ats[here], to), ats[here]) if slot is None else slot
                registers[d.SP] = registers[d.SP] + 8 if to != d.SP else registers[to]
            else:
                self._rare(here, op, into, address if m is not None else 0, index if m is not None else None)
        return into

    def _sum(self, at: int, to: int, first: int, second: int) -> int:
        if second >> SHIFT == CONSTANT:
            return first + constant_of(second) if first >> SHIFT != OPAQUE else first
        if first >> SHIFT == CONSTANT:
            return second + constant_of(first) if second >> SHIFT != OPAQUE else second
        if first >> SHIFT == OPAQUE and second >> SHIFT == OPAQUE:
            return OPAQUE_VALUE
        if first >> SHIFT == OPAQUE:
            first, second = second, first
        return self.values.new((at, to), at, SUM, first, (second, 1))

    def _rare(self, here: int, op: d.Op, into: State, address: int, index: tuple[int, int] | None) -> None:
        """The instructions that are no plain moves."""
        registers, slots = into
        kind, width, to, source, _, imm, _ = op
        at, new = self.unit.at[here], self.values.new
        if kind == d.MASK:
            if to == d.SP:
                if registers[to] >> SHIFT == STACK:
                    registers[to] = value(STACK, (constant_of(registers[to]) - _FRAME_GAP) & ~0xFFF)
            elif registers[to] >> SHIFT > OPAQUE:
                registers[to] = new((at, to), at, MASKED, registers[to], imm)
            else:
                registers[to] = OPAQUE_VALUE
        elif kind == d.CHOOSE:
            if registers[to] != registers[source]:
                both = [registers[to], registers[source]]
                opaque = any(number >> SHIFT == OPAQUE for number in both)
                registers[to] = OPAQUE_VALUE if opaque else new((at, to), at, JOIN, both)
        elif kind == d.CHOOSE_LOAD:
            loaded = new((at, 16 + to), at, LOADED, address, (index, False))
            if address >> SHIFT == STACK:
                loaded = slots.get(constant_of(address), OPAQUE_VALUE)
            both = [registers[to], loaded]
            opaque = any(number >> SHIFT == OPAQUE for number in both)
            registers[to] = OPAQUE_VALUE if opaque else new((at, to), at, JOIN, both)
        elif kind == d.ADD_LOAD:
            loaded = new((at, 16 + to), at, LOADED, address, (index, op[4] is not None and op[4][4] == d.GS))
            registers[to] = self._sum(at, to, registers[to], loaded)
        elif kind == d.SCALE:
            registers[to] = new((at, to), at, SCALED, registers[source], imm) if imm else OPAQUE_VALUE
        elif kind == d.XCHG:
            if address >> SHIFT != STACK:
                self._now[2].append((address, registers[to]))
            registers[to] = new((at, to), at, LOADED, address, (index, False))
        elif kind == d.SWAP:
            registers[to], registers[source] = registers[source], registers[to]
        elif kind == d.PUSH_LOAD:
            registers[d.SP] -= 8
            slots.pop(constant_of(registers[d.SP]), None)
        elif kind == d.LEAVE:
            frame = registers[d.BP]
            slot = slots.get(constant_of(frame)) if frame >> SHIFT == STACK else None
            registers[d.SP] = frame + 8
            registers[d.BP] = OPAQUE_VALUE if slot is None else slot
        elif kind == d.STRING:
            self._string(here, imm, bool(to), width, into)

    def _string(self, here: int, opcode: int, repeat: bool, width: int, into: State) -> None:
        """movs, stos and their kin: a repeated one covers as many bytes as a constant count says."""
        registers, slots = into
        count = 1
        if repeat:
            counter = registers[d.CX]
            count = constant_of(counter) if counter >> SHIFT == CONSTANT else self._aligned_count(here, registers)
        size = width * count if 0 <= count < 1 << 16 else 0
        read, written = _STRINGS[opcode]
        records = self._now[0]
        for register, rw in ((read, READ), (written, READ if opcode in (0xA6, 0xAE) else WRITE)):
            if register is None:
                continue
            start = registers[register]
            whole = size if opcode in (0xA4, 0xAA) or not repeat else width
            if whole:
                records.append((here, start, None, whole, rw, register, 0))
            if start >> SHIFT == STACK and rw == WRITE:
                _forget(slots, constant_of(start), size or 4096)
            registers[register] = start + size if size and start >> SHIFT != OPAQUE else OPAQUE_VALUE
        if repeat:
            registers[d.CX] = ZERO_VALUE if opcode in (0xA4, 0xAA) else OPAQUE_VALUE
        if opcode == 0xAC:
            registers[d.AX] = OPAQUE_VALUE

    def _aligned_count(self, here: int, registers: list[int]) -> int:
        """How many words are written by what gcc makes of memset and memcpy of a constant length to an address that it
        does not know to be aligned: the first and the last word by themselves, and between them from the first multiple
        of 8 behind the start, so many as the distance from there to the end has. Objects begin at such multiples."""
        to = registers[d.DI] >> SHIFT
        if self.values.kind[to] != MASKED or self.values.b[to] != -_WORD:
            return 0
        at = self.unit.at[here]
        found = ALIGNED.search(self.unit.text.code, max(0, at - _PROLOGUE), at)
        if found is None:
            return 0
        length = int.from_bytes(found[1] or found[2], "little", signed=True)
        return max(0, length // _WORD - 1)

    # --- calls, and other ways out

    def _transfer(self, here: int, op: d.Op, into: State) -> None:
        registers, slots = into
        returns = self._now[3]
        kind, _, _, source, _, imm, _ = op
        unit = self.unit
        if kind in (d.CALL, d.JUMP, d.BRANCH):
            target = unit.end[here] + imm
            if kind != d.CALL:
                if target in unit.blocks:
                    return
                name = cfg.callee_name(unit.text, target)
                if not name or cfg.is_return(name):
                    if name:
                        returns.append(registers[d.AX])
                    return
            else:
                name = cfg.callee_name(unit.text, target)
            if kind == d.BRANCH:
                into = registers, slots = registers.copy(), slots.copy()  # what is called changes nothing here
            through = seeds.thunk(name) if name.startswith("__x86_indirect") else None
            if through is not None:
                self._call(here, registers[through], False, into)
            else:
                self._call(here, unit.text.base + target, True, into)
            if kind != d.CALL:
                returns.append(registers[d.AX])
        elif kind in (d.CALL_INDIRECT, d.JUMP_INDIRECT):
            if source >= 0:
                called = registers[source]
            else:
                at = unit.at[here]
                address = 0
                assert op[4] is not None
                address, index, _ = self._address(op[4], unit.end[here], registers)
                called = self.values.new((at, 17), at, LOADED, address, (index, False))
            self._call(here, called, False, into)
            if kind == d.JUMP_INDIRECT:
                returns.append(registers[d.AX])
        elif kind == d.RETURN:
            returns.append(registers[d.AX])

    def _call(self, here: int, target: int, direct: bool, into: State) -> None:
        registers, slots = into
        at, new = self.unit.at[here], self.values.new
        arguments = tuple([registers[register] for register in _ARGUMENTS])
        self._now[1].append((here, target, direct, arguments))
        callee = self.seeds.callee(target) if direct else None
        clobbers = callee.clobbers if callee else seeds.CALLER_SAVED
        for register in clobbers:
            registers[register] = OPAQUE_VALUE
        if callee is None:
            registers[d.AX] = new((at, d.AX), at, RESULT_INDIRECT, target)
        elif d.AX in clobbers:
            registers[d.AX] = new((at, d.AX), at, RESULT, target)
        for place, argument in enumerate(arguments):
            if argument >> SHIFT == STACK:
                slot = constant_of(argument)
                if slot >= 0:
                    continue
                size, pointers = self.seeds.filled(callee, place) if callee is not None else (_WORD, ())
                if size:
                    _forget(slots, slot, size)
                for offset in pointers:
                    slots[slot + offset] = new((at, 32 + place, offset), at, FILLED, target, (place, offset))


def _with_null(out: State, register: int) -> State:
    """A state in which a register, and whatever has its value, is null."""
    number = out[0][register]
    if number >> SHIFT <= OPAQUE:
        return out
    return (
        [ZERO_VALUE if held == number else held for held in out[0]],
        {place: ZERO_VALUE if held == number else held for place, held in out[1].items()},
    )


def _forget(slots: dict[int, int], place: int, width: int) -> None:
    """Slots that a narrow store, or one of many bytes, overwrites."""
    if width > 64:
        for slot in [slot for slot in slots if place - 8 < slot < place + width]:
            del slots[slot]
        return
    for slot in range(place - 7, place + max(width, 1)):
        slots.pop(slot, None)


def as_signed(address: int) -> int:
    """An address as the constants of values have it: those of the kernel are negative."""
    address &= _ADDRESS_MASK
    return address - (1 << 64) if address >> 63 else address


__all__ = ["ARGUMENT", "Flow"]
