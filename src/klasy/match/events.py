"""Static tracepoints: which a pointcut selects, what its advice takes of them, and how they are reached.

A tracepoint passes arguments (``struct task_struct *next``), which a raw tracepoint program gets; the trace event that
is defined with it makes a record of fields out of them (``pid_t next_pid``), which a program of the trace event gets.
Either is taken, as the parameters of the advice ask: the arguments where they do, for they cost less. A parameter binds
by its name.

In a plan an event stands in the place of a function, ``CATEGORY:NAME``, whose address is the event's id; ``proto`` is
that of the kernel's ``__traceiter_NAME``, which has the tracepoint's arguments by name, behind ``void *__data``.
"""

from __future__ import annotations

from klasy.diag import did_you_mean
from klasy.kernel.model import Clone, Function
from klasy.lang import ast
from klasy.lang.typenames import QUALIFIERS, TAGS, is_basic, normalise
from klasy.match.glob import is_glob, matches
from klasy.match.guard import either
from klasy.match.matched import Outcome
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Argument, Binding, Locator, RecordField
from klasy.match.probes import Kind
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.typeref import TypeRefError, find_base, same_type, same_written, spelled
from klasy.plain import TYPE_CHECKING, NamedTuple, dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from klasy.btf.btf import Btf
    from klasy.kernel.model import Kernel
    from klasy.kernel.tracepoints import EventFormat, Field
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner
    from klasy.source import Span

MOST_EVENTS = 256  # of one advice: each takes a program
_ITERATOR = "__traceiter_"  # what calls the probes of a tracepoint: DEFINE_TRACE_FN, include/linux/tracepoint.h
_SHOWN = 12
_POINTER = 8


@dataclass(frozen=True, slots=True)
class EventMatch:
    """An event that an advice matches. ``raw``: by the tracepoint's arguments, else by the record's fields.

    ``recorded``: of a raw one, what is bound if the record has to do; None where it lacks something.
    """

    function: Function
    outcome: Outcome
    raw: bool
    recorded: Callable[[], tuple[Binding, ...] | None] = lambda: None


class Misfit(Exception):
    """An event, or a system call, does not offer what the advice takes."""

    def __init__(self, code: str, message: str, span: Span, *hints: str) -> None:
        super().__init__(message)
        self.code, self.message, self.span, self.hints = code, message, span, hints


# --- matching


def match_events(matcher: AdviceMatcher, conjunct: Conjunct, result: AdviceMatch) -> None:
    """Match a conjunct that selects events."""
    found = _selected(matcher, conjunct) if _is_sound(matcher, conjunct) else []
    binds = _Binds(matcher, conjunct)
    misfits: list[Misfit] = []
    for category, name in found:
        try:
            match = binds.match(category, name)
        except Misfit as misfit:
            misfits.append(misfit)
            continue
        except TypeRefError as error:
            error.report(matcher.bag)
            break
        conjunct.hits += 1
        _add(matcher, result, match)
    if not conjunct.hits:
        conjunct.usable = False
        if misfits:
            first = misfits[0]
            matcher.bag.error(first.code, first.message, first.span, hints=first.hints)
    elif len(result.events) > MOST_EVENTS:
        conjunct.usable = False
        matcher.bag.error(
            "too-many-shadows",
            f"this matches {len(result.events)} events; more than {MOST_EVENTS} are not woven: each takes a program",
            matcher.leaf_span(conjunct.events[0]),
            hints=["name the category, or a longer name"],
        )


def _is_sound(matcher: AdviceMatcher, conjunct: Conjunct) -> bool:
    form, bag, advice = matcher.form, matcher.bag, matcher.advice
    before = len(bag.errors)
    span = form.leaves[conjunct.events[0]].span
    if advice.kind is ast.AdviceKind.AFTER:
        bag.error(
            "no-after-event",
            "an event is a moment: there is nothing after it",
            advice.head,
            hints=["write 'before'; many come in pairs: event(irq:irq_handler_entry), event(irq:irq_handler_exit)"],
            related=[(span, "the event")],
        )
    for literal in conjunct.literals:
        leaf = form.leaves[literal.leaf]
        if isinstance(leaf, ast.Within | ast.WithinModule | ast.WithinFile):
            bag.error(
                "matches-nothing",
                "an event lies in no function: tracepoints are reached from wherever the kernel calls them",
                leaf.span,
                hints=["stack() in the advice shows from where it was"],
            )
        elif isinstance(leaf, ast.Args):
            bag.error(
                "matches-nothing",
                "'args' is for calls and executions: what an event has binds by its name",
                leaf.span,
                hints=["write it as a parameter: before(pid_t next_pid): event(sched:sched_switch)"],
            )
    return len(bag.errors) == before


def _selected(matcher: AdviceMatcher, conjunct: Conjunct) -> list[tuple[str, str]]:
    """The events that a conjunct names. Empty where an error was reported."""
    names = matcher.kernel.tracepoints.names()
    wanted: list[ast.Event] = []
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if not isinstance(leaf, ast.Event):
            continue
        named = [key for key in names if _is_meant(leaf, key)]
        if not named:
            _report_unknown(matcher, leaf, names)
            return []
        if literal.positive:
            wanted.append(leaf)
    excluded = [leaf for leaf in _negated(matcher, conjunct) if isinstance(leaf, ast.Event)]
    found = [key for key in names if all(_is_meant(leaf, key) for leaf in wanted)]
    left = [key for key in found if not any(_is_meant(leaf, key) for leaf in excluded)]
    if not left:
        matcher.bag.error("matches-nothing", "no event is all of these", wanted[0].span.to(wanted[-1].span))
    return left


def _negated(matcher: AdviceMatcher, conjunct: Conjunct) -> Iterable[ast.Pointcut]:
    return (matcher.form.leaves[literal.leaf] for literal in conjunct.literals if not literal.positive)


def _is_meant(leaf: ast.Event, key: tuple[str, str]) -> bool:
    return matches(leaf.category, key[0]) and matches(leaf.name, key[1])


def _report_unknown(matcher: AdviceMatcher, leaf: ast.Event, names: list[tuple[str, str]]) -> None:
    from klasy.match.near import near

    category, name = leaf.category, leaf.name
    categories = sorted({each for each, _ in names})
    inside = [each for of, each in names if matches(category, of)]
    elsewhere = [f"{of}:{each}" for of, each in names if matches(name, each)]
    if elsewhere and not is_glob(name):
        close = elsewhere[:3]
    elif inside:
        close = [f"{category}:{each}" for each in near(name, inside)]
    else:
        close = [f"{each}:{name}" for each in near(category, categories) if (each, name) in names]
        close = close or [f"{each}:*" for each in near(category, categories)]
    how = "klasy search 'CATEGORY:*' lists them; those of modules are there once these are loaded"
    what = f"event '{category}:{name}'" if inside or category in categories else f"category of events '{category}'"
    matcher.bag.error("unknown-event", f"this kernel has no {what}", leaf.span, hints=[did_you_mean(close), how])


def _add(matcher: AdviceMatcher, result: AdviceMatch, new: EventMatch) -> None:
    """Where two alternatives select the same event, the advice runs there once, if either holds."""
    for index, other in enumerate(result.events):
        if other.function.name != new.function.name:
            continue
        if other.outcome.bindings != new.outcome.bindings:
            matcher.bag.error(
                "ambiguous-binding",
                f"at event {new.function.name} the alternatives of the pointcut bind the parameters differently",
                matcher.advice.pointcut.span,
                hints=["let the alternatives exclude each other, or write two advice"],
            )
        guard = either(other.outcome.guard, new.outcome.guard)
        result.events[index] = replace(other, outcome=Outcome(other.outcome.bindings, guard))
        return
    result.events.append(new)


# --- what is bound


class _Offer(NamedTuple):
    """A value that an event has. ``text`` declares it in C; ``fits`` tells whether a parameter's type is its."""

    source: Argument | RecordField
    text: str
    fits: Callable[[ast.TypeRef], bool]


class _Fault(NamedTuple):
    """A parameter that cannot be had: ``name`` is its name there, ``text`` what that is there (None: there is none)."""

    param: ast.Param
    name: str
    text: str | None


class _Binds:
    """Finds what the parameters of an advice are at events."""

    def __init__(self, matcher: AdviceMatcher, conjunct: Conjunct) -> None:
        self.kernel: Kernel = matcher.kernel
        self.guard = matcher.guard(conjunct)
        leaf = matcher.form.leaves[conjunct.events[0]]
        assert isinstance(leaf, ast.Event)
        names = None if leaf.binds is None else dict(leaf.binds)
        params = sorted(matcher.binder.params.values(), key=lambda param: param.name)
        self.unbound = [param for param in params if names is not None and param.name not in names]
        # Each parameter with its name there; a named pointcut may have given it another one.
        self.wanted = [(param, (names or {}).get(param.name, param.name)) for param in params]

    def match(self, category: str, name: str) -> EventMatch:
        """The match at an event. Raises Misfit where it does not offer what the parameters are."""
        for param in self.unbound:
            raise Misfit("unbound-parameter", f"nothing in the pointcut binds '{param.name}'", param.span)
        made = self.kernel.tracepoints.format(category, name)
        function = self._pseudo(made)
        arguments = _arguments(function)
        raw_fault = self._fault(arguments)
        if function.proto is not None and raw_fault is None:
            return EventMatch(function, self._outcome(arguments), True, lambda: self._recorded(made))
        # A module's own types are the fields' too: that a record is made of them is no reason to know them less.
        fields = {field.name: self._field(field, function.btf or self.kernel.btf) for field in made.fields}
        fault = self._fault(fields)
        if fault is not None:
            raise self._misfit(made, arguments, fields, (raw_fault, fault))
        return EventMatch(_without_arguments(function), self._outcome(fields), False)

    def _recorded(self, made: EventFormat) -> tuple[Binding, ...] | None:
        """The arguments that are taken, out of the record: under their own names, a pointer's address as NAME_addr."""
        btf = self.kernel.btf
        assert btf is not None
        fields = {field.name: self._field(field, btf) for field in made.fields if field.kind == "value"}
        found = []
        for param, name in self.wanted:
            field = fields.get(name)
            if field is None or not field.fits(param.type):
                field = fields.get(f"{name}_addr") if param.type.pointers else None
            if field is None:
                return None
            found.append(Binding(param.name, field.source, param.type))
        return tuple(found)

    def _pseudo(self, made: EventFormat) -> Function:
        """The event in the place of a function. It has a prototype where its tracepoint's arguments are known."""
        btf: Btf | None = self.kernel.btf
        assert btf is not None
        name, module = _ITERATOR + made.name, None
        proto = btf.find_func(name)
        if proto is None and made.category != "syscalls":
            iterator = next(iter(self.kernel.functions(name)), None)
            if iterator is not None:
                btf, proto, module = iterator.btf, iterator.proto, iterator.module
        shown = f"{made.category}:{made.name}"
        known = btf if proto is not None else None
        return Function(shown, made.id, 0, module, shown, Clone.NONE, 1, proto, known)

    def _field(self, field: Field, btf: Btf) -> _Offer:
        source = RecordField(field.name, field.offset, field.size, field.kind)
        return _Offer(source, field.text, lambda declared: field_fits(btf, field, declared))

    def _outcome(self, offers: Mapping[str, _Offer]) -> Outcome:
        bindings = tuple(Binding(param.name, offers[name].source, param.type) for param, name in self.wanted)
        return Outcome(bindings, self.guard)

    def _fault(self, offers: Mapping[str, _Offer]) -> _Fault | None:
        """The first parameter that is not offered, or is of another type."""
        for param, name in self.wanted:
            found = offers.get(name)
            if found is None or not found.fits(param.type):
                return _Fault(param, name, found.text if found else None)
        return None

    def _misfit(
        self,
        made: EventFormat,
        arguments: Mapping[str, _Offer],
        fields: Mapping[str, _Offer],
        faults: tuple[_Fault | None, _Fault],
    ) -> Misfit:
        raw, fault = faults
        event = f"{made.category}:{made.name}"
        offered = _offered(arguments, fields)
        for param, name in self.wanted:
            if name not in arguments and name not in fields:
                from klasy.match.near import near

                close = near(name, {*arguments, *fields})
                hint = did_you_mean(close)
                return Misfit("unknown-field", f"event '{event}' has no field '{name}'", param.span, hint, *offered)
        for each in (fault, raw or fault):
            if each.text is not None:
                return Misfit(
                    "wrong-field-type",
                    f"'{each.name}' of event '{event}' is '{each.text}', but the advice declares "
                    f"'{spelled(each.param.type)}'",
                    each.param.span,
                    self._both(each, raw, arguments) if each is fault else "",
                )
        argument = next(name for _, name in self.wanted if name not in fields)
        field = next(name for _, name in self.wanted if name not in arguments)
        return Misfit(
            "mixed-fields",
            f"'{argument}' is an argument of the tracepoint '{made.name}', and '{field}' a field of its record: an "
            "advice takes either",
            fault.param.span,
            "mostly the arguments lead to what is in the fields: next->pid is next_pid",
            *offered,
        )

    def _both(self, fault: _Fault, raw: _Fault | None, arguments: Mapping[str, _Offer]) -> str:
        """The hint where an argument of the field's name has the declared type, but another parameter is not one.

        Many records keep an argument's address under the argument's name, as void * (workqueue_execute_start's work).
        """
        argument = arguments.get(fault.name)
        if argument is None or raw is None or not argument.fits(fault.param.type):
            return ""
        if raw.text is not None:
            return f"'{argument.text}' is the tracepoint's argument; with it '{raw.name}' is one, too: '{raw.text}'"
        return (
            f"'{argument.text}' is the tracepoint's argument, but '{raw.name}' is a field of its record, and an "
            "advice takes either: declare it as the field is, and cast it"
        )


def _arguments(function: Function) -> dict[str, _Offer]:
    """The arguments of an event's tracepoint, by name."""
    btf = function.btf
    if btf is None or function.proto is None:
        return {}
    found = {}
    for index, param in enumerate(btf.proto(function.proto).params):
        if index and param.name:  # behind void *__data
            text = btf.c_name(param.type_id, param.name)
            found[param.name] = _Offer(Argument(index, index - 1), text, _argument_fits(btf, param.type_id))
    return found


def _argument_fits(btf: Btf, type_id: int) -> Callable[[ast.TypeRef], bool]:
    def fits(declared: ast.TypeRef) -> bool:
        if same_type(btf, type_id, declared):
            return True
        from klasy.btf.types import Enum, Int

        # An enumeration may be declared as the integer that it is.
        if not isinstance(btf.resolved(type_id), Enum) or declared.pointers or declared.array:
            return False
        base = find_base(btf, declared)
        return isinstance(btf.resolved(base), Int) and btf.size_of(base) == btf.size_of(type_id)

    return fits


def field_fits(btf: Btf, field: Field, declared: ast.TypeRef) -> bool:
    """Whether a parameter's type is a field's. Raises TypeRefError where the kernel has no such type as declared."""
    try:
        return same_written(btf, _type_ref(field, declared.span), declared)
    except TypeRefError:
        base = find_base(btf, declared)  # whose fault it is
    # The format names a type that BTF does not have: what can be told is the size.
    if field.kind != "value":
        return bool(declared.pointers or declared.array)
    return field.size == (_POINTER if declared.pointers else btf.size_of(base))


def _type_ref(field: Field, span: Span) -> ast.TypeRef:
    """The type of a field as an aspect would write it; one pointer deeper for what lies in the record."""
    words = [word for word in field.type.replace("*", " * ").split() if word not in QUALIFIERS and word != "*"]
    pointers = field.type.count("*") + (field.kind != "value")
    tag = ast.TagKind.NONE
    if words and words[0] in TAGS:
        tag = ast.TagKind(words.pop(0))
    elif words and is_basic(words[0]):
        return ast.TypeRef(span, tag, normalise(words) or " ".join(words), pointers)
    return ast.TypeRef(span, tag, " ".join(words), pointers)


def _offered(arguments: Mapping[str, _Offer], fields: Mapping[str, _Offer]) -> list[str]:
    """What there is, for hints."""
    hints = []
    for what, offers in (("fields", fields), ("arguments", arguments)):
        texts = [offer.text for offer in offers.values()]
        more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        if texts:
            hints.append(f"its {what}: {', '.join(texts[:_SHOWN])}{more}")
    return hints or ["it has no fields"]


# --- planning


def plan_events(planner: Planner) -> None:
    """Plan the events of all advice of an aspect: one program for each event and what is taken of it."""
    for matched in planner.matched.advice:
        for match in matched.events:
            _plan(planner, matched.advice, match)


def _plan(planner: Planner, advice: ast.Advice, match: EventMatch) -> None:
    why = _why(match)
    if match.raw and planner.executions.under_lock is not None:
        bindings = match.recorded()
        if bindings is not None:
            outcome = Outcome(bindings, match.outcome.guard)
            match = EventMatch(_without_arguments(match.function), outcome, False)
            why = planner.executions.why_not_nested()
    function = match.function
    mechanism = Mechanism.RAW_TRACEPOINT if match.raw else Mechanism.TRACE_EVENT
    context = Context.RAW if match.raw else Context.RECORD
    kind = Kind(mechanism, context, Locator.FIXED, group=function.address)
    draft = planner.probes.point(kind, function.address, function)
    shadow = Shadow(JoinPointKind.EVENT, function, function.address)
    arm = planner.probes.arm(draft, advice, match.outcome)
    arm.by_address[function.address] = planner.probes.joinpoint(advice, shadow, mechanism.value, why)


def _without_arguments(function: Function) -> Function:
    """An event of which the record is taken."""
    return replace(function, proto=None, btf=None)


def _why(match: EventMatch) -> str:
    if match.raw:
        return "the tracepoint's arguments serve: no record is made"
    if not match.outcome.bindings:
        return "this event's tracepoint is not known by its arguments"
    taken = ", ".join(binding.name for binding in match.outcome.bindings)
    return f"fields of the event's record are taken ({taken}), which the kernel makes for it"
