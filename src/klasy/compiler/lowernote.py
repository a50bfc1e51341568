"""Notes of accesses to members: what is kept at the instruction for advice behind it, and how it is found there."""

from __future__ import annotations

from klasy.compiler import ir, irnote
from klasy.compiler.lowermember import find, member, search, size_of, variables
from klasy.match.plan import WANTED
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.builder import Builder
    from klasy.compiler.ir import Block, Operand, Value, Var
    from klasy.match.plan import Arm, MemberCode, Note, Probe


def keep(build: Builder, probe: Probe) -> dict[int, dict[str, Var]]:
    """Emit what keeps a probe's notes; what that found, for those of its arms, by their place, that ask for no more."""
    shared = {place: note for place, arm in enumerate(probe.arms) for note in probe.notes if _serves(note, arm)}
    found = {note.number: variables(build, note.members.wants) for note in probe.notes}
    for number in dict.fromkeys(note.number for note in shared.values()):
        for variable in found[number].values():
            build.set(variable, 0)  # as far as is known where the arms are
    for place, note in enumerate(probe.notes, len(probe.arms)):
        _keep(build, place, note, found[note.number])
    return {place: found[note.number] for place, note in shared.items()}


def _serves(note: Note, arm: Arm) -> bool:
    """Whether an arm, at all its places, asks for nothing but what is found for a note."""
    wanted = arm.members
    if wanted is None or not wanted.wants <= note.members.wants:
        return False
    codes = note.members.code
    if "new" in wanted.wants:
        return all(codes.get(address) == code for address, code in wanted.code.items())
    return all(
        address in codes and codes[address]._replace(stored=None, late=False) == code
        for address, code in wanted.code.items()
    )


def _keep(build: Builder, place: int, note: Note, found: dict[str, Var]) -> None:
    there, behind = build.block(), build.block()
    joinpoint = build.value()
    build.add(ir.Locate(joinpoint, place, there, behind))
    build.begin(there)
    failed: Operand = 0
    if note.members.wants:
        find(build, note.members, note.by_address, joinpoint, found)
        failed = build.get(found["failed"])
    words = tuple([build.get(found[name]) for name in WANTED if name in note.members.wants])
    stack = _stack_pointer(build)
    below = build.binary("add", stack, note.shift) if note.shift else stack
    build.add(irnote.KeepNote(note.number, joinpoint, below, failed, words))
    build.jump(behind)
    build.begin(behind)


def _stack_pointer(build: Builder) -> Value:
    stack = build.value()
    build.add(ir.Register(stack, "sp"))
    return stack


def take(build: Builder, note: Note, joinpoint: Operand, behind: Block) -> dict[str, Var]:
    """Emit what takes a note, or goes ``behind`` where there is none; the variables that all is in then."""
    taken, there = build.value(), build.block()
    build.add(irnote.TakeNote(note.number, taken, joinpoint, _stack_pointer(build)))
    build.branch("ne", taken, 0, there, behind)
    build.begin(there)
    if not note.members.wants:
        return {}
    found = variables(build, note.members.wants)
    names = [name for name in WANTED if name in note.members.wants]
    for word, name in ((irnote.FAILED, "failed"), *enumerate(names)):
        value = build.value()
        build.add(irnote.Noted(note.number, value, word))
        build.set(found[name], value)
    if any(code.late for code in note.members.code.values()):
        _read_late(build, note, joinpoint, found)
    return found


def _read_late(build: Builder, note: Note, joinpoint: Operand, found: dict[str, Var]) -> None:
    """Read the members whose new value was not known before; the note has their addresses."""
    behind = build.block()
    blocks: dict[MemberCode | None, Block] = {}
    codes = {address: code if code.late else None for address, code in note.members.code.items()}
    search(build, codes, note.by_address, joinpoint, blocks)
    for code, block in blocks.items():
        build.begin(block)
        if code is not None:
            word = build.load(build.get(found["new"]), 0, size_of(code), found["failed"], 1)
            build.set(found["new"], member(build, code, word, code.shift))
        build.jump(behind)
    build.begin(behind)
