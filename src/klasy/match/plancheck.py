"""What must be true of every plan. Tests run it on each plan they make; a fault is a bug in the planner."""

from __future__ import annotations

from klasy.lang.ast import AdviceKind
from klasy.match.datum import REGISTERS, WATCHED_LENGTHS
from klasy.match.mechanism import TRAMPOLINES, Context, Mechanism
from klasy.match.plan import WRITES, Argument, CallUse, Locator, MarkRole, MarkUse, Result
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.match.plan import Arm, Plan, Probe
    from klasy.match.shadow import JoinPointKind, Shadow

_CONTEXTS = {
    Mechanism.FENTRY: {Context.FENTRY},
    Mechanism.FEXIT: {Context.FEXIT},
    Mechanism.FMOD_RET: {Context.FENTRY},
    Mechanism.KPROBE: {
        *(Context.ENTRY, Context.BODY, Context.SITE, Context.TAIL, Context.BEHIND),
        *(Context.MEMBER, Context.ACCESSED),
    },
    Mechanism.KPROBE_MULTI: {Context.ENTRY},
    Mechanism.KRETPROBE: {Context.RETURN},
    Mechanism.KRETPROBE_MULTI: {Context.RETURN},
    Mechanism.BREAKPOINT: {Context.WATCH},
    Mechanism.UPROBE: {Context.ENTRY},
    Mechanism.URETPROBE: {Context.RETURN},
    Mechanism.RAW_TRACEPOINT: {Context.RAW, Context.SYS_ENTER, Context.SYS_EXIT},
    Mechanism.TRACE_EVENT: {Context.RECORD},
}
_LOCATORS = {
    Context.FENTRY: {Locator.FIXED},
    Context.FEXIT: {Locator.FIXED, Locator.DISPATCH},
    Context.ENTRY: {Locator.ADDRESS, Locator.DISPATCH},
    Context.BODY: {Locator.ADDRESS},
    Context.SITE: {Locator.ADDRESS},
    Context.TAIL: {Locator.ADDRESS},
    Context.MEMBER: {Locator.ADDRESS},
    Context.ACCESSED: {Locator.ADDRESS},
    Context.BEHIND: {Locator.MARK},
    Context.RETURN: {Locator.ADDRESS, Locator.DISPATCH},
    Context.WATCH: {Locator.FIXED},
    Context.RAW: {Locator.FIXED},
    Context.RECORD: {Locator.FIXED},
    Context.SYS_ENTER: {Locator.ADDRESS},
    Context.SYS_EXIT: {Locator.ADDRESS},
}
_AFTER = {Context.FEXIT, Context.RETURN, Context.BEHIND, Context.ACCESSED, Context.SYS_EXIT}
_INSIDE = {Context.BODY, Context.SITE, Context.TAIL, Context.BEHIND, Context.MEMBER, Context.ACCESSED}
_WRITERS = {Context.SITE: MarkRole.CALL, Context.TAIL: MarkRole.TAIL, Context.ENTRY: MarkRole.ENTRY}
_READERS = {Locator.MARK: MarkRole.CALL, Locator.DISPATCH: MarkRole.TAIL, Locator.ADDRESS: MarkRole.ENTRY}


def check_plan(plan: Plan) -> list[str]:
    """The broken invariants, one sentence each; empty for a sound plan."""
    faults = list(_check_joinpoints(plan))
    for index, probe in enumerate(plan.probes):
        if probe.index != index:
            faults.append(f"probe {index} says it is {probe.index}")
        faults += [f"{probe.name}: {fault}" for fault in _check_probe(plan, probe)]
    faults += _check_marks(plan)
    faults += _check_notes(plan)
    faults += _check_order(plan)
    return faults


def _where(shadow: Shadow) -> tuple[JoinPointKind, int, int | None]:
    """What tells a join point from others: of a copy between two objects, the register that leads to one."""
    return shadow.kind, shadow.address, shadow.access.base if shadow.access is not None else None


def _check_joinpoints(plan: Plan) -> Iterator[str]:
    reached: dict[int, int] = {}
    for probe in plan.probes:
        for arm in probe.arms:
            for number in arm.joinpoints:
                reached[number] = reached.get(number, 0) + 1
                if not 0 <= number < len(plan.joinpoints):
                    yield f"{probe.name} runs join point {number}, which there is not"
                elif plan.joinpoints[number].advice != arm.advice:
                    yield f"{probe.name} runs advice {arm.advice} at join point {number} of another advice"
    missed = {(each.advice, _where(each.shadow)) for each in plan.unreached if each.shadow.function}
    for index, joinpoint in enumerate(plan.joinpoints):
        if joinpoint.id != index:
            yield f"join point {index} says it is {joinpoint.id}"
        if reached.get(index, 0) != 1:
            yield f"join point {index} is run from {reached.get(index, 0)} places"
        if (joinpoint.advice, _where(joinpoint.shadow)) in missed:
            yield f"join point {index} counts as unreached too"


def _check_probe(plan: Plan, probe: Probe) -> Iterator[str]:
    addresses = {point.address for point in probe.points}
    if probe.watch is not None:
        yield from _check_watch(plan, probe)
        addresses.add(probe.watch.piece.address)
    elif not addresses or len(addresses) != len(probe.points):
        yield "it has no points, or one twice"
    if probe.context not in _CONTEXTS[probe.mechanism]:
        yield f"a {probe.mechanism.value} has no context {probe.context.value}"
    if probe.locator not in _LOCATORS[probe.context]:
        yield f"{probe.locator.value} does not locate in {probe.context.value}"
    if probe.mechanism in TRAMPOLINES and len(probe.points) != 1:
        yield "a trampoline has one function"
    if probe.context not in _INSIDE:
        for point in probe.points:
            if point.address != point.function.address:
                yield f"{point.address:#x} is not the entry of {point.function}"
    elif any(not p.function.address <= p.address < p.function.end for p in probe.points):
        yield "a point does not lie in its function"
    elif probe.context is not Context.MEMBER and any(
        not p.function.address < p.address < p.function.end for p in probe.points
    ):
        yield "a point does not lie inside its function"
    idle = not probe.arms and not probe.notes
    if idle and probe.mark is not MarkUse.WRITE and probe.calls in (CallUse.NONE, CallUse.END):
        yield "it does nothing"
    if probe.condition is not None and probe.context is not Context.TAIL:
        yield "only a jump has a condition"
    order = [(plan.aspect.advice[arm.advice].order, arm.advice) for arm in probe.arms]
    if order != sorted(order):
        yield "its arms are out of order"
    if any(point.function.in_program != probe.in_program for point in probe.points):
        yield "a point is on the wrong side of the kernel's border"
    for arm in probe.arms:
        yield from _check_arm(plan, probe, arm, addresses)


def _check_watch(plan: Plan, probe: Probe) -> Iterator[str]:
    watch = probe.watch
    assert watch is not None
    kin = [o.watch for o in plan.probes if o.watch is not None and o.watch.per_object == watch.per_object]
    if probe.points or probe.mechanism is not Mechanism.BREAKPOINT:
        yield "it watches data and has points"
    if sorted(other.slot for other in kin) != list(range(len(kin))) or (len(kin) > REGISTERS and not watch.per_object):
        yield "the slots of the watches are not numbered, or too many"
    if watch.piece.address % watch.piece.length or watch.piece.length not in WATCHED_LENGTHS:
        yield "no debug register watches that piece"
    if watch.writes_only and any(arm.does != WRITES for arm in probe.arms):
        yield "it sees writes only, and an arm is for reads"


def _check_arm(plan: Plan, probe: Probe, arm: Arm, addresses: set[int]) -> Iterator[str]:
    if not arm.joinpoints:
        yield f"the arm of advice {arm.advice} never runs"
    kind = plan.aspect.advice[arm.advice].kind
    after = kind is AdviceKind.AFTER
    if (kind is AdviceKind.AROUND) != (probe.mechanism is Mechanism.FMOD_RET):
        yield f"advice {arm.advice} decides where it cannot, or does not where it must"
    if after != (probe.context in _AFTER) and probe.watch is None:
        yield f"advice {arm.advice} runs on the wrong side"
    if probe.locator is not Locator.DISPATCH and (arm.by_return_address or arm.otherwise is not None):
        yield "only dispatch goes by the return address"
    if probe.locator in (Locator.FIXED, Locator.ADDRESS) and not addresses.issuperset(arm.by_address):
        yield f"advice {arm.advice} is to run where there is no point"
    arguments = [b.source for b in arm.bindings if isinstance(b.source, Argument)]
    if any(isinstance(b.source, Result) for b in arm.bindings) and not after:
        yield "a result is bound before there is one"
    from_mark = probe.context in (Context.BEHIND, Context.RETURN)
    if from_mark and any(argument.abi_place >= 6 for argument in arguments):
        yield "an argument is bound that marks do not hold"
    if probe.context is Context.RETURN and arguments:
        if probe.locator is Locator.ADDRESS and probe.mark is MarkUse.NONE:
            yield "an argument is bound at return without a mark"
        if probe.locator is Locator.DISPATCH and (arm.by_return_address or arm.otherwise is not None):
            yield "an argument is bound at return where there need be no mark"


def _check_marks(plan: Plan) -> Iterator[str]:
    written: dict[MarkRole, set[int]] = {role: set() for role in MarkRole}
    used: dict[MarkRole, set[int]] = {role: set() for role in MarkRole}
    takers: dict[int, list[Probe]] = {}
    for probe in plan.probes:
        if probe.mark is MarkUse.WRITE:
            if _WRITERS.get(probe.context) is not probe.role or probe.locator is not Locator.ADDRESS:
                yield f"{probe.name} cannot write marks of the role {probe.role.name}"
            written[probe.role].update(point.address for point in probe.points)
        elif probe.mark is not MarkUse.NONE:
            if _READERS.get(probe.locator) is not probe.role:
                yield f"{probe.name} cannot use marks of the role {probe.role.name}"
            if probe.role is MarkRole.TAIL:
                for point in probe.points:
                    takers.setdefault(point.address, []).append(probe)
        if probe.locator in (Locator.MARK, Locator.DISPATCH):
            wanted = {address for arm in probe.arms for address in arm.by_address}
            if wanted and probe.mark in (MarkUse.NONE, MarkUse.WRITE):
                yield f"{probe.name} goes by marks but looks for none"
            used[probe.role].update(wanted)
        elif probe.context is Context.RETURN and probe.mark is MarkUse.TAKE:
            used[MarkRole.ENTRY].update(point.address for point in probe.points)
    for role in MarkRole:
        if used[role] - written[role]:
            yield f"marks of the role {role.name} are used that nothing writes"
    if written[MarkRole.CALL] - used[MarkRole.CALL] or written[MarkRole.ENTRY] - used[MarkRole.ENTRY]:
        yield "marks are written that nothing uses"
    for address, probes in takers.items():
        if [probe.mark for probe in probes].count(MarkUse.TAKE) != 1:
            yield f"the marks of tail calls of {address:#x} are not taken exactly once"
        elif any(p.mark is MarkUse.TAKE for p in probes if p.context is Context.ENTRY) and len(probes) > 1:
            yield f"the marks of tail calls of {address:#x} are taken before their last use"


def _check_notes(plan: Plan) -> Iterator[str]:
    """Each note is kept by one probe at the accesses, for one arm of one behind them."""
    kept = {note.number: (probe, note) for probe in plan.probes for note in probe.notes}
    if len(kept) != sum(len(probe.notes) for probe in plan.probes):
        yield "two notes have one number"
    taken = {}
    for probe in plan.probes:
        if probe.notes and probe.context is not Context.MEMBER:
            yield f"{probe.name} is at no access and keeps notes"
        if not {a for note in probe.notes for a in note.by_address} <= {point.address for point in probe.points}:
            yield f"{probe.name} is to keep notes where there is no point"
        for arm in probe.arms:
            if arm.note is None:
                continue
            taken[arm.note.number] = arm
            if probe.context is not Context.ACCESSED:
                yield f"{probe.name} is behind no access and takes notes"
            if sorted(arm.note.by_address.values()) != sorted(arm.by_address.values()):
                yield f"{probe.name} takes notes of other join points"
    if kept.keys() != taken.keys():
        yield "notes are kept that nothing takes, or taken that nothing keeps"


def _check_order(plan: Plan) -> Iterator[str]:
    """Of two kprobes at one place the one registered last runs first."""
    behind: set[int] = set()
    for probe in plan.probes:
        addresses = {point.address for point in probe.points}
        if probe.context in (Context.BEHIND, Context.ACCESSED):
            behind |= addresses
        elif probe.context in (Context.SITE, Context.TAIL, Context.MEMBER) and behind & addresses:
            yield f"{probe.name} would run before what comes behind the instruction before it"
