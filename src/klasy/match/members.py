"""Accesses to members of types: the instructions that ``klasy.flow`` finds, and how an advice is run at them.

Each is a join point of its own, reached by a kprobe at the instruction (``after`` advice: :mod:`klasy.match.behind`).
What the advice asks for (the object, the member's values) is worked out there from the registers; where that cannot be
done, the join point is not reached.
"""

from __future__ import annotations

from klasy.btf.types import Array, Enum, Int, Struct
from klasy.btf.walk import find_member, member_names, members
from klasy.errors import KernelLacks
from klasy.kernel.model import Refusal, Way
from klasy.lang import ast
from klasy.lang.walk import nodes
from klasy.match import modules
from klasy.match.datum import DataType, MemberData
from klasy.match.glob import is_glob, matches
from klasy.match.guard import either
from klasy.match.matched import MemberMatch, Outcome
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Binding, Locator, MemberCode, Members, Object
from klasy.match.pointcut import KERNEL_PROPER, MOST_SHADOWS
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.typeref import NOT_LOADED, TypeRefError, find_base
from klasy.plain import TYPE_CHECKING, cached_property, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.btf.types import Btf
    from klasy.flow.sites import Access, Member, Unknown
    from klasy.flow.stored import Stored
    from klasy.kernel.model import Function
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner

_KINDS = {
    ast.AccessKind.GET: JoinPointKind.GET,
    ast.AccessKind.SET: JoinPointKind.SET,
    ast.AccessKind.ACCESS: JoinPointKind.ACCESS,
}
_WORDS = {"read": "reads", "write": "writes", "both": "reads and writes"}
_LONGEST = 8
_NAMES = ("value", "old", "new")


# --- what a pattern means


def is_of_type(matcher: AdviceMatcher, data: ast.DataPattern) -> bool:
    """Whether a pattern names members of a type, not a global."""
    if data.type is not None:
        return bool(data.path) or (data.name is not None and data.name in matcher.binder.params)
    if len(data.path) < 2 or data.declared is not None or data.cpu is not None:
        return False
    name = data.path[0]
    if any(symbol.name == name for symbol in matcher.kernel.data_symbols(name)):
        return False
    ref = ast.TypeRef(data.span, ast.TagKind.NONE, name)
    kernel = matcher.kernel
    return bool(kernel.btf.find(name)) or bool(modules.own(kernel, ref, sorted(kernel.modules()), None))


class _Members:
    """The members that a pattern names: of the kernel's types; of modules' where it has none of the name with such a
    member, or ``named``, modules that the pointcut names, have types of their own of the name.

    ``structs`` are those that have one of the members.
    """

    def __init__(self, matcher: AdviceMatcher, node: ast.Access, named: Sequence[str]) -> None:
        self.matcher = matcher
        self.node = node
        self.named = named
        self.btf: Btf = matcher.kernel.btf
        self.module: str | None = None
        self.structs: list[modules.Meaning] = []

    def fail(self, code: str, message: str, *hints: str) -> None:
        self.matcher.bag.error(code, message, self.node.data.span, hints=[hint for hint in hints if hint])

    def find(self) -> list[tuple[Member, MemberData]]:
        """Empty where an error was reported."""
        data = self.node.data
        path = data.path
        ref = data.type
        if ref is None:
            ref = ast.TypeRef(data.span, ast.TagKind.NONE, path[0])
            path = path[1:]
        kernel, bag = self.matcher.kernel, self.matcher.bag
        try:
            kernels = modules.of_kernel(kernel, ref)
            known = kernels is not None and kernels.whole
            own = modules.own(kernel, ref, self.named if known else sorted(kernel.modules()), kernels)
            if known and not own and path and not is_glob(path[0]) and self._lacks(kernels, path[0]):
                own = modules.own(kernel, ref, sorted(kernel.modules()), kernels)
            if not own:
                kernels = kernels or modules.Meaning(None, self.btf, find_base(self.btf, ref))
        except TypeRefError as error:
            found = error.diagnostic
            if found.code == "unknown-type":
                found = replace(found, hints=(*found.hints, NOT_LOADED))
            bag.items.append(found)
            return []
        everyone = [*self._of_kernel(kernels if known or not own else None), *own]
        if path and not is_glob(path[0]):
            everyone = [each for each in everyone if not self._lacks(each, path[0])] or everyone[:1]
        members: list[tuple[Member, MemberData]] = []
        for each in everyone:
            self.module, self.btf, _ = each
            mine = self._of(self.btf.resolve(each.type_id), ref, path)
            if not mine:
                return []
            self.structs.append(each)
            members += mine
        return members

    def _of_kernel(self, first: modules.Meaning | None) -> list[modules.Meaning]:
        if first is None:
            return []
        return modules.namesakes(self.matcher.kernel, first.type_id) if first.whole else [first]

    def _lacks(self, struct: modules.Meaning | None, name: str) -> bool:
        return struct is not None and find_member(struct.btf, struct.type_id, name) is None

    def _of(self, struct: int, ref: ast.TypeRef, path: tuple[str, ...]) -> list[tuple[Member, MemberData]]:
        data = self.node.data
        if not isinstance(self.btf.type(struct), Struct):
            self.fail("not-a-struct", f"'{self.btf.c_name(struct)}' has no members")
            return []
        if data.path and ref.pointers:
            self.fail(
                "not-a-struct", f"'{self.btf.c_name(struct)} *' is a pointer, and has no members",
                f"a member of every such object: {self.btf.c_name(struct)}.{'.'.join(path)}",
            )  # fmt: skip
            return []
        if not data.path and ref.pointers != 1:
            self.fail("not-a-pointer", f"'{data.name}' is to be the object's address: write a pointer to its type")
            return []
        return self._below(struct, path or ("*",))

    def _below(self, struct: int, path: tuple[str, ...]) -> list[tuple[Member, MemberData]]:
        from klasy.flow.sites import member

        *way, last = path
        inner = struct
        for step in way:
            place = find_member(self.btf, inner, step) if not _leads_out(step) else None
            if place is None:
                self._absent(inner, step)
                return []
            inner = self.btf.resolve(place.type_id)
        if _leads_out(last) or not isinstance(self.btf.type(inner), Struct):
            self._absent(inner, last)
            return []
        names = list(dict.fromkeys(place.name for place in members(self.btf, inner) if place.name))
        chosen = [name for name in names if matches(last, name)] if is_glob(last) else [last]
        found = []
        for name in chosen:
            try:
                one = member(self.btf, struct, ".".join([*way, name]), self.module)
            except KernelLacks:
                self._absent(inner, name)
                return []
            if one.bits:  # not of a flexible array
                found.append((one, MemberData(str(one), DataType(self.btf, one.type_id))))
        if not found and chosen and not is_glob(last):
            self.fail(
                "not-a-member", f"'{self.btf.c_name(inner)}.{last}' is an array of no length that is known",
                "what it holds lies behind the object, where no access can be told from others",
            )  # fmt: skip
        elif not found:
            self._absent(inner, last)
        return found

    def _absent(self, struct: int, step: str) -> None:
        name = self.btf.c_name(struct)
        if _leads_out(step):
            self.fail(
                "not-a-member", f"'{step}' leads out of '{name}': what lies there is of no fixed place in it",
                "name the member of the type that is pointed to" if "->" in step else "name the array itself",
            )  # fmt: skip
            return
        from klasy.match.near import near

        array = self.btf.type(struct)
        if isinstance(array, Array):
            element = self.btf.c_name(array.type_id)
            self.fail(
                "not-a-member", f"'{name}' is an array, and '{step}' would be a member of each element",
                f"name the array itself: an access to any part of it is one; or '{element}.{step}', wherever that is",
            )  # fmt: skip
            return
        known = member_names(self.btf, struct)
        if not known:
            self.fail("not-a-struct", f"'{name}' has no members")
            return
        close = near(step, known)
        hint = f"did you mean {' or '.join(repr(n) for n in close)}?" if close else ""
        self.fail("unknown-member", f"'{name}' has no member '{step}'", hint)


def _leads_out(step: str) -> bool:
    """Whether a step of a path goes through a pointer or into an array."""
    return "->" in step or "[" in step


# --- matching


def report_target(matcher: AdviceMatcher, leaf: int) -> None:
    """``target`` at what is no access to a member."""
    matcher.bag.error(
        "no-target",
        "'target' binds the object whose member is accessed: here is no access to one",
        matcher.leaf_span(leaf),
    )


def match_members(matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, result: AdviceMatch) -> None:
    """Match a conjunct that selects accesses to members of a type."""
    conjunct.usable = False  # what is wrong is said here
    members = _Members(matcher, node, _named(matcher, conjunct))
    wanted = members.find()
    bindings = _bindings(matcher, conjunct, node, members.structs) if wanted else None
    if bindings is None:
        return
    from klasy import flow
    from klasy.progress import line

    by_member = dict(wanted)
    progress = line("looking for accesses, functions")
    found = flow.accesses(matcher.kernel, list(by_member), progress, where=_where(matcher, conjunct))  # type: ignore[arg-type]
    kind = _KINDS[node.kind]
    unknown = [one for one in found.unknown if _is_of_kind(one, kind) and _may_lie(matcher, conjunct, one.address)]
    result.untyped.update(one.address for one in unknown)
    outcome = Outcome(bindings, matcher.guard(conjunct))
    hits = elsewhere = 0
    for access in found.accesses:
        if not _is_of_kind(access, kind):
            continue
        if not _lies_where_asked(matcher, conjunct, access.function):
            elsewhere += 1
            continue
        hits += 1
        _add(matcher, result, MemberMatch(kind, access, tuple(by_member[m] for m in access.members), outcome), node)
    if not hits:
        _report_none(matcher, node, elsewhere, found.functions, len(unknown))
    elif len(result.members) > MOST_SHADOWS:
        from klasy.match import lint

        lint.report_too_many(len(result.members), matcher.advice, matcher.bag)
    else:
        conjunct.usable = True
        conjunct.hits += hits


def _is_of_kind(access: Access | Unknown, kind: JoinPointKind) -> bool:
    """Whether a pointcut of a kind selects what an instruction does."""
    return (kind is not JoinPointKind.GET or access.reads) and (kind is not JoinPointKind.SET or access.writes)


def _named(matcher: AdviceMatcher, conjunct: Conjunct) -> list[str]:
    """The modules that a conjunct names; none where it names no module."""
    globs = [leaf.glob for i in conjunct.modules if isinstance(leaf := matcher.form.leaves[i], ast.WithinModule)]
    return [m for m in sorted(matcher.kernel.modules()) if globs and all(matches(glob, m) for glob in globs)]


def _where(matcher: AdviceMatcher, conjunct: Conjunct) -> Callable[[str | None, int], bool] | None:
    """Which functions need to be looked at, where a conjunct asks for some only."""
    if not conjunct.asks_where:
        return None
    modules = [leaf.glob for i in conjunct.modules if isinstance(leaf := matcher.form.leaves[i], ast.WithinModule)]
    bodies = [matcher.resolved[leaf].lies_in for leaf in conjunct.withins]
    files = [matcher.where.index(leaf) for leaf in conjunct.files]
    known: dict[str | None, bool] = {}

    def where(module: str | None, address: int) -> bool:  # asked of each function of the kernel
        if module not in known:
            known[module] = all(matches(glob, module or KERNEL_PROPER) for glob in modules)
        if not known[module]:
            return False
        for body in bodies:
            if address not in body:
                return False
        function = matcher.kernel.function_at(address) if files else None
        return not files or (function is not None and all(matcher.bits(function)[place] for place in files))

    return where


def _may_lie(matcher: AdviceMatcher, conjunct: Conjunct, address: int) -> bool:
    if not matcher.where:
        return True
    function = matcher.kernel.function_at(address)
    return function is not None and _lies_where_asked(matcher, conjunct, function)


def _report_none(matcher: AdviceMatcher, node: ast.Access, elsewhere: int, functions: int, unknown: int) -> None:
    what = {ast.AccessKind.GET: "reads", ast.AccessKind.SET: "writes"}.get(node.kind, "accesses")
    hints = []
    if elsewhere:
        hints.append(f"{elsewhere} such instruction{'s lie' if elsewhere > 1 else ' lies'} elsewhere")
    if unknown:
        hints.append(f"{unknown} more access something at its offset in objects whose type is not known")
    if functions:
        try:
            matcher.kernel.debug_info.check()
        except KernelLacks as error:  # or is another build's; what the remedy is, it says itself
            hints.append(f"debug information would tell of more variables: {error.hint}")
    matcher.bag.error(
        "matches-nothing",
        f"no instruction is known that {what} '{node.data.span.text}'{' there' if elsewhere or matcher.where else ''} "
        f"({functions} function{' was' if functions == 1 else 's were'} looked at)",
        node.data.span,
        hints=hints,
    )


def _lies_where_asked(matcher: AdviceMatcher, conjunct: Conjunct, function: Function) -> bool:
    bits = matcher.bits(function)
    return all(
        bits[matcher.where.index(literal.leaf)] == literal.positive
        for literal in conjunct.literals
        if literal.leaf in matcher.where
    )


def _add(matcher: AdviceMatcher, result: AdviceMatch, new: MemberMatch, node: ast.Access) -> None:
    """Where two alternatives select one instruction, the advice runs there once, if either holds.

    One that copies from one such object to another is two join points: it reads the one and writes the other.
    """
    key = new.access.address, new.access.base
    other = result.members.get(key)
    if other is None:
        result.members[key] = new
        return
    if other.outcome.bindings != new.outcome.bindings:
        matcher.bag.error(
            "pointcut-too-complex",
            f"two alternatives select {new.access.function}+{new.access.offset:#x} and bind different objects there",
            node.span,
            hints=["write two advice"],
        )
        return
    same_place = (other.access.base, other.access.base_offset) == (new.access.base, new.access.base_offset)
    data = tuple(dict.fromkeys((*other.data, *new.data)))
    result.members[key] = MemberMatch(
        other.kind if other.kind is new.kind else JoinPointKind.ACCESS,
        other.access if same_place else replace(other.access, base=-1, reads=True, writes=True),
        data,
        replace(other.outcome, guard=either(other.outcome.guard, new.outcome.guard))
        if other.outcome is not new.outcome
        else other.outcome,
    )


def _bindings(
    matcher: AdviceMatcher, conjunct: Conjunct, node: ast.Access, structs: list[modules.Meaning]
) -> tuple[Binding, ...] | None:
    """The parameters that are the object, one of ``structs``; None where an error was reported."""
    params = matcher.binder.params
    names: list[str] = []
    if node.data.type is not None and not node.data.path and node.data.name:
        names.append(node.data.name)
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if isinstance(leaf, ast.Target):
            names.append(leaf.name)
    before = len(matcher.bag.errors)
    for name in names:
        param = params.get(name)
        if param is None:
            continue  # the resolver says so
        if param.type.name == "void" and param.type.pointers == 1:
            continue
        try:
            said = modules.meaning(matcher.kernel, param.type, [each.module for each in structs])
            if said is None:
                find_base(matcher.kernel.btf, param.type)
        except TypeRefError as error:
            error.report(matcher.bag)
            continue
        if param.type.pointers != 1 or said is None or len(modules.distinct([structs[0], said])) != 1:
            matcher.bag.error(
                "wrong-parameter-type",
                f"'{name}' is the object, a '{structs[0].btf.c_name(structs[0].btf.resolve(structs[0].type_id))} *'",
                param.span,
            )
    for name, param in params.items():
        if name not in names:
            from klasy.match import lint

            lint.report_unbound(matcher, name, param)
    if len(matcher.bag.errors) > before:
        return None
    return tuple(Binding(name, Object(), params[name].type) for name in sorted(names) if name in params)


# --- planning


MEMBER = Kind(Mechanism.KPROBE, Context.MEMBER, Locator.ADDRESS)


def plan_members(planner: Planner) -> None:
    """A kprobe at each instruction, all of an aspect in one probe."""
    if any(m.members and m.advice.kind is ast.AdviceKind.AFTER for m in planner.matched.advice):
        from klasy.match.behind import plan_behind

        plan_behind(planner)
    for matched in planner.matched.advice:
        if not matched.members or matched.advice.kind is ast.AdviceKind.AFTER:
            continue
        wants = wanted(matched)
        codes: dict[int, dict[int, MemberCode]] = {}
        known_at: set[int] = set()
        for (address, _), found in sorted(matched.members.items()):
            shadow = shadow_of(found)
            code = Site(found).code(wants)
            refusal = planner.kernel.refusal(address, found.access.function, Way.KPROBE)
            if refusal is None and isinstance(code, Refusal):
                refusal = code
            if refusal is not None:
                planner.unreached(matched.advice, shadow, refusal)
                continue
            draft = planner.probes.point(MEMBER, address, found.access.function)
            # of a copy from one such object to another, the advice runs for each of them
            arm = planner.probes.arm(draft, matched.advice, found.outcome, int(address in known_at))
            known_at.add(address)
            arm.by_address[address] = planner.probes.joinpoint(matched.advice, shadow, "kprobe", why(found))
            if wants and isinstance(code, MemberCode):
                known = codes.setdefault(id(arm), {})
                known[address] = code
                arm.members = Members(wants, known)


def shadow_of(found: MemberMatch) -> Shadow:
    """The shadow that an access is."""
    datum, access = found.data[0], found.access
    if len(found.data) > 1:
        datum = replace(datum, text=", ".join(data.text for data in found.data))
    return Shadow(found.kind, access.function, access.address, datum=datum, access=access)


def wanted(matched: AdviceMatch) -> frozenset[str]:
    """What the advice asks for at its accesses."""
    conditions = [m.outcome.guard for m in matched.members.values() if m.outcome.guard is not None]
    body = [matched.advice.body] if isinstance(matched.advice.body, ast.Node) else []
    used = {
        node.name
        for part in (*body, *dict.fromkeys(conditions))
        for node in nodes(part)
        if isinstance(node, ast.Name) and node.name in _NAMES
    }
    wants = {"old" if name == "old" else "new" for name in used}
    data = {data for found in matched.members.values() for data in found.data}
    if wants and not all(one.type.is_scalar for one in data):
        wants = {"address"}  # of an array or struct 'value' is the place itself
    if any(found.outcome.bindings for found in matched.members.values()):
        wants.add("object")
    return frozenset(wants)


def why(found: MemberMatch) -> str:
    """What the access does, and how its type is known."""
    from klasy.flow.sites import CONFIDENCE

    access = found.access
    size = f"{access.width} byte{'s' * (access.width != 1)}"
    how = f"{CONFIDENCE.get(access.confidence, '')}: {access.derivation}"
    return f"{_WORDS[access.kind]} {size} at {access.placed_in}+{access.place_offset:#x}; type {how}"


def _refused(code: str, reason: str) -> Refusal:
    return Refusal(code, reason)


class Site:
    """One instruction: how what is asked for is found there."""

    def __init__(self, found: MemberMatch) -> None:
        self.found = found
        self.access = found.access
        self.member = found.access.members[0]

    def code(self, wants: frozenset[str], *, after: bool = False) -> MemberCode | Refusal | None:
        """None where nothing is asked for; a Refusal where it cannot be had. ``after``: for what runs behind it."""
        if not wants:
            return None
        access = self.access
        base = access.base_register
        if access.per_cpu:
            return _refused("per-cpu-object", "the object is this CPU's, and has no register that leads to it")
        if base is None:
            return _refused("object-not-known", "it cannot be told in which register the object's address is")
        moves = self._index is not None
        if moves and "object" in wants:
            return _refused("object-not-known", "an index takes part in the address: which object it is, is not known")
        values = wants - {"object"}
        if values and len(self.found.data) > 1:
            return _refused("several-members", "it accesses several of the members at once: there is no one value")
        kind = self.found.data[0].type
        if values and moves and kind.element() is not None:
            return _refused("object-not-known", "an index takes part in the address: where the member is, is not known")
        word, width = self._operand
        stored, late = None, False
        if "new" in wants and access.writes and self.found.kind is not JoinPointKind.GET:
            stored = self._stored(width)
            late = after and stored is None
            if stored is None and not late:
                return _refused("new-not-known", "what it leaves in the member cannot be told before it has run")
        if values and self.member.bit_offset % 8 + min(self.member.bits, 8 * _LONGEST) > 8 * _LONGEST:
            return _refused("several-words", "the bit-field lies in more than eight bytes")
        # Addresses are from the base: the object is base_offset before it.
        return MemberCode(
            base, self._index, access.scale if moves else 1, self.member.offset - access.base_offset,
            -access.base_offset, self.member.bit_offset % 8, min(self.member.bits, 8 * _LONGEST),
            _is_signed(kind), word, width, stored, late,
        )  # fmt: skip

    def _stored(self, width: int) -> Stored | None:
        """What the instruction leaves in the member."""
        from klasy.flow.stored import stored, string_stored

        if width:
            return stored(self.access.code, width)
        at, size = self.member.offset - self.access.base_offset, self.member.end - self.member.offset
        if self.access.base_register != "di" or at + size > self.access.width:
            return None
        return string_stored(self.access.code, at, size)

    @cached_property
    def _index(self) -> str | None:
        from klasy.flow.decode import REGISTERS

        index = self.access.index
        return REGISTERS[index] if 0 <= index < len(REGISTERS) else None

    @cached_property
    def _operand(self) -> tuple[int, int]:
        """Where the instruction's operand is, from the base register, and its width; 0 if it does not hold the member
        whole, or is none that a register holds."""
        from klasy.flow import decode as d

        access = self.access
        memory = d.decode(access.code)[4]
        if memory is None or access.width not in (1, 2, 4, 8) or memory[4] or access.base not in memory[:2]:
            return 0, 0
        if self._index is None and (memory[0] != access.base or memory[1] != d.NONE):
            return 0, 0  # a register of known value takes part in the address
        low = self.member.offset - access.base_offset
        high = low + self.member.end - self.member.offset
        at = memory[3]
        if not at <= low or not high <= at + access.width:
            return 0, 0
        return at, access.width


def _is_signed(kind: DataType) -> bool:
    found = kind.resolved
    return (isinstance(found, Int) and found.signed) or (isinstance(found, Enum) and found.signed)
