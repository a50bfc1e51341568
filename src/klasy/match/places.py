"""``at(FUNCTION+OFFSET)``, ``at("file.c:123")``: instructions. A join point is reached by a kprobe, before it runs."""

from __future__ import annotations

from klasy.diag import did_you_mean
from klasy.kernel.model import Place, Way
from klasy.lang import ast
from klasy.match import lint
from klasy.match.glob import is_glob
from klasy.match.guard import either
from klasy.match.matched import Match, Outcome
from klasy.match.mechanism import Context, Mechanism
from klasy.match.near import near
from klasy.match.plan import Locator
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.kernel.model import Function, Kernel
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner

LONGEST_INSTRUCTION = 15  # bytes (Intel SDM volume 2, 2.3.11)
SITE = Kind(Mechanism.KPROBE, Context.SITE, Locator.ADDRESS)
ENTRY = Kind(Mechanism.KPROBE, Context.ENTRY, Locator.ADDRESS)


def match_places(matcher: AdviceMatcher, conjunct: Conjunct, result: AdviceMatch) -> None:
    """Match a conjunct that selects instructions."""
    if not _is_sound(matcher, conjunct):
        conjunct.usable = False
        return
    found: dict[int, Function] | None = None
    place: Place | None = None
    for leaf in conjunct.places:
        node = matcher.form.leaves[leaf]
        assert isinstance(node, ast.At)
        if node.file is not None:
            place = Place(node.file, node.line)
        there = _instructions(matcher, node)
        if not there:
            conjunct.usable = False
            return
        found = there if found is None else {a: f for a, f in found.items() if a in there}
    bindings = matcher.flows.bind((), conjunct.literals, matcher.form, matcher.advice) if matcher.flows else ()
    outcome = matcher.shared(Outcome(bindings, matcher.guard(conjunct)))
    for address, function in (found or {}).items():
        if not _lies(matcher, conjunct, function):
            continue
        conjunct.hits += 1
        shadow = Shadow(JoinPointKind.AT, function, address, place=place)
        other = result.places.get(address)
        if other is None:
            result.places[address] = Match(shadow, outcome)
        else:  # two alternatives select it: the advice runs there once
            guard = either(other.outcome.guard, outcome.guard)
            result.places[address] = Match(shadow, matcher.shared(Outcome(bindings, guard)))


def _is_sound(matcher: AdviceMatcher, conjunct: Conjunct) -> bool:
    bag, advice = matcher.bag, matcher.advice
    before = len(bag.errors)
    if advice.kind is not ast.AdviceKind.BEFORE:
        bag.error(
            "no-after",
            f"'{advice.kind.value}' is of what has an end: an instruction has none that is seen",
            advice.head,
            hints=["write 'before', at the instruction behind it"],
        )
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if isinstance(leaf, ast.Args | ast.Target):
            name = "args" if isinstance(leaf, ast.Args) else "target"
            bag.error("no-arguments", f"an instruction has nothing that '{name}' could bind", leaf.span)
    for name, param in matcher.binder.params.items():
        if matcher.flows is None or name not in matcher.flows.bound(matcher.form):
            lint.report_unbound(matcher, name, param)
    return len(bag.errors) == before


def _lies(matcher: AdviceMatcher, conjunct: Conjunct, function: Function) -> bool:
    """Whether ``within`` and the like let a function in."""
    bits = matcher.bits(function)
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if isinstance(leaf, ast.Within | ast.WithinModule | ast.WithinFile):
            if bits[matcher.where.index(literal.leaf)] != literal.positive:
                return False
        elif isinstance(leaf, ast.At) and not literal.positive and _is(leaf, function, matcher.kernel):
            return False
    return True


def _is(leaf: ast.At, function: Function, kernel: Kernel) -> bool:
    if leaf.file is not None:
        return False
    return function.name == leaf.function and kernel.instruction_length(function.address + leaf.offset) is not None


def _instructions(matcher: AdviceMatcher, node: ast.At) -> dict[int, Function]:
    """The instruction that is named, by its address; of functions of the same name each one's. Errors go to the bag."""
    if node.file is not None:
        from klasy.match import sources

        return sources.beginnings(matcher, node)
    name, offset = node.function or "", node.offset
    kernel, bag = matcher.kernel, matcher.bag
    if is_glob(name):
        bag.error(
            "wildcard-at",
            f"'at' names one instruction: '{name}' has a wildcard",
            node.span,
            hints=["name the function; the entries of many are execution(..)"],
        )
        return {}
    named = matcher.signatures.functions(name)
    functions = {function.address: function for function in named if function.name == name}
    if not functions:
        close = [f.name for f in named] or near(name, kernel.function_names())
        hints = [did_you_mean(list(dict.fromkeys(close))), kernel.why_absent(name) or ""]
        bag.error("unknown-function", f"this kernel has no function '{name}'", node.span, hints=hints)
        return {}
    inside = {address: function for address, function in functions.items() if offset < function.size}
    if not inside:
        size = max(function.size for function in functions.values())
        bag.error("no-instruction", f"{name} has {size:#x} bytes: {offset:#x} lies behind its end", node.span)
        return {}
    found = {a + offset: f for a, f in inside.items() if kernel.instruction_length(a + offset) is not None}
    if not found:
        starts = {o for address in inside for o in _around(kernel, address, offset, inside[address].size)}
        hints = [f"instructions begin at {' and '.join(f'{name}+{start:#x}' for start in sorted(starts))}"]
        bag.error(
            "no-instruction", f"no instruction begins at {name}+{offset:#x}", node.span, hints=hints if starts else ()
        )
    return found


def _around(kernel: Kernel, address: int, offset: int, size: int) -> list[int]:
    """Where the instructions before and behind an offset begin."""
    before = range(offset - 1, max(-1, offset - 1 - LONGEST_INSTRUCTION), -1)
    behind = range(offset + 1, min(size, offset + 1 + LONGEST_INSTRUCTION))
    starts = [
        next((o for o in side if kernel.instruction_length(address + o) is not None), None) for side in (before, behind)
    ]
    return [start for start in starts if start is not None]


def plan_places(planner: Planner) -> None:
    """Plan the instructions of all advice of an aspect."""
    for matched in planner.matched.advice:
        for match in matched.places.values():
            shadow = match.shadow
            function = shadow.function
            assert function is not None
            refusal = planner.kernel.refusal(shadow.address, function, Way.KPROBE)
            if refusal is not None:
                planner.unreached(matched.advice, shadow, refusal)
                continue
            kind = SITE if shadow.offset else ENTRY
            draft = planner.probes.point(kind, shadow.address, function)
            arm = planner.probes.arm(draft, matched.advice, match.outcome)
            number = planner.probes.joinpoint(matched.advice, shadow, "kprobe", "an instruction is reached by a kprobe")
            arm.by_address[shadow.address] = number
