"""Matches the pointcuts of an aspect against a kernel.

The normal form tells where to look; what is found there is tested against the whole pointcut. Whether a call matches
depends on its callee, and on its caller only as far as ``within`` designators ask: both are decided once, so that
thousands of call sites cost a look-up each.
"""

from __future__ import annotations

from klasy.diag import did_you_mean
from klasy.kernel.model import CallSite, Function
from klasy.lang import ast
from klasy.match.bind import Binder
from klasy.match.conjunct import Conjunct, sort_out
from klasy.match.glob import is_glob, matches
from klasy.match.guard import both, either, negated
from klasy.match.matched import AdviceMatch, Match, Matched, Outcome
from klasy.match.plan import Unreached
from klasy.match.pointcut import KERNEL_PROPER, MOST_SHADOWS, NormalForm, normal_form, walk
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.signature import Signatures
from klasy.match.sites import Sites
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Kernel
    from klasy.match.args import Arguments
    from klasy.match.cflow import Flows
    from klasy.match.matched import IndirectSite
    from klasy.match.plan import Binding
    from klasy.match.signature import Found, Resolved
    from klasy.source import Span

# Up to this much text (bytes) the calls in the functions of a ``within`` are sought there, not among all callers.
LITTLE_TEXT = 0x40000
MANY = 64  # executions: from here on it pays off to look for what many have in common
# From this many callees on the calls of one module are sought in the module's text.
_MANY_CALLEES = 1000

# In this module a kind of join point is whether it is a call: a bool hashes faster than an enum's member.
_CALL, _EXECUTION = True, False
_Bits = tuple[bool, ...]
_WHERE = ast.Within | ast.WithinModule | ast.WithinFile  # designators that ask where a join point lies
_Key = tuple[bool, int, _Bits | None]  # kind, address of the callee or body, and what is known of where it lies


def match_aspect(aspect: ast.Aspect, kernel: Kernel, bag: DiagnosticBag) -> Matched:
    """What the advice of an aspect match in a kernel. All errors go to the bag."""
    sites = Sites(kernel)
    signatures = Signatures(kernel, bag)
    advice: list[AdviceMatch] = []
    unreached: list[Unreached] = []
    flows: Flows | None = None
    if any(isinstance(part, ast.Cflow) for each in aspect.advice for part in walk(each.pointcut)):
        from klasy.match.cflow import Flows

        flows = Flows(aspect, kernel, bag)
        aspect = flows.aspect
    for each in aspect.advice:
        matcher = AdviceMatcher(each, kernel, signatures, sites, bag)
        matcher.flows = flows
        advice.append(matcher.match())
        unreached += matcher.unreached
    _drop_repetitions(bag)
    return Matched(aspect, kernel, tuple(advice), tuple(unreached), sites, flows.plan if flows else None)


def _drop_repetitions(bag: DiagnosticBag) -> None:
    """Advice that share a pointcut find the same faults in it."""
    seen = set()
    kept = []
    for item in bag.items:
        place = (item.span.start, item.span.end) if item.span else None
        key = item.code, item.message, place
        if key not in seen:
            seen.add(key)
            kept.append(item)
    bag.items[:] = kept


class AdviceMatcher:
    """Matches one advice."""

    def __init__(
        self, advice: ast.Advice, kernel: Kernel, signatures: Signatures, sites: Sites, bag: DiagnosticBag
    ) -> None:
        self.advice = advice
        self.kernel = kernel
        self.signatures = signatures
        self.sites = sites
        self.bag = bag
        self.unreached: list[Unreached] = []
        self.flows: Flows | None = None  # of the aspect, if it has any
        self.form = NormalForm((), ())
        self.resolved: dict[int, Resolved] = {}
        self.args: dict[int, Arguments] = {}
        self.conjuncts: list[Conjunct] = []
        self.where: list[int] = []  # the leaves that ask where a join point lies
        self._files: dict[int, Callable[[Function], bool]] = {}  # of withinfile: whether a function lies there
        self.answerable = True  # whether what is asked of source files can be told
        self._bits: dict[int, _Bits] = {}
        self._outcomes: dict[_Key, Outcome | None] = {}
        self._combined: dict[tuple[tuple[int, int], ...], Outcome] = {}
        self._shared: dict[Outcome, Outcome] = {}
        self._altered: set[_Key] = set()
        self._seen_sites: set[int] = set()
        self.executed: set[int] = set()  # functions whose executions have been looked at, by address

    def match(self) -> AdviceMatch:
        """The advice's shadows."""
        result = AdviceMatch(self.advice)
        form = normal_form(self.advice.pointcut, self.bag)
        if form is None:
            return result
        if self.advice.kind is ast.AdviceKind.AROUND:
            from klasy.match import around

            if not around.check_kinds(form, self.bag):
                return result
        self.form = form
        self.where = [i for i, leaf in enumerate(form.leaves) if isinstance(leaf, _WHERE)]
        before = len(self.bag.errors)
        self._resolve()
        if any(isinstance(leaf, ast.User) for leaf in form.leaves):
            from klasy.match import programs

            programs.check_side(self)
        self.conjuncts = [self._conjunct(i) for i in range(len(form.conjuncts))]
        self.binder = Binder(self.advice, form, self.resolved, self.bag, self.signatures.prototype)
        if self.flows is not None:
            self.binder.elsewhere.update(self.flows.bound(form))
        for conjunct in self.conjuncts:
            if conjunct.usable:
                self._match_conjunct(conjunct, result)
        result.executions.sort(key=lambda match: match.shadow.address)
        result.calls.sort(key=lambda match: match.shadow.address)
        for arguments in self.args.values():
            arguments.report(self.bag)
        if len(self.bag.errors) == before:
            if result.callees and not result.calls:
                from klasy.match import indirect

                indirect.check(self, result)
            if not all(conjunct.hits for conjunct in self.conjuncts):
                from klasy.match import lint

                lint.report_dead_arms(self)
        if len(result.executions) + len(result.calls) > MOST_SHADOWS:
            from klasy.match import lint

            lint.report_too_many(len(result.executions) + len(result.calls), self.advice, self.bag)
        result.restricted = any(c.asks_where for c in self.conjuncts if c.calls)
        result.indirect = lambda: self._indirect(result)
        return result

    def _indirect(self, result: AdviceMatch) -> list[IndirectSite]:
        from klasy.match import indirect

        return indirect.find_sites(self, result)

    # --- preparation

    def _resolve(self) -> None:
        negative_only = {i for i in range(len(self.form.leaves))}
        for conjunct in self.form.conjuncts:
            negative_only -= {literal.leaf for literal in conjunct if literal.positive}
        for index, leaf in enumerate(self.form.leaves):
            if isinstance(leaf, ast.User):
                self.resolved[index] = self.signatures.programs.resolve(leaf, self.advice)
            elif isinstance(leaf, ast.Call | ast.Execution | ast.Within):
                inlined = not isinstance(leaf, ast.Within)
                self.resolved[index] = self.signatures.resolve(leaf.signature, index in negative_only, inlined)
            elif isinstance(leaf, ast.WithinModule):
                self._check_module(leaf, index in negative_only)
            elif isinstance(leaf, ast.WithinFile):
                from klasy.match import sources

                if sources.check_file(self, leaf, index in negative_only):
                    self._files[index] = sources.within(self.kernel, leaf.glob)
                else:
                    self.answerable = False
            elif isinstance(leaf, ast.Args):
                from klasy.match.args import Arguments

                self.args[index] = found = Arguments(leaf, self.advice, self.signatures)
                self.resolved[index] = found.resolved

    def _check_module(self, leaf: ast.WithinModule, negative: bool) -> None:
        loaded = self.kernel.modules()
        if matches(leaf.glob, KERNEL_PROPER) or any(matches(leaf.glob, name) for name in loaded):
            return
        if negative:
            self.bag.warning(
                "empty-exclusion", f"no module '{leaf.glob}' is loaded, so this excludes nothing", leaf.span
            )
            return
        from klasy.match.near import near

        close = near(leaf.glob, [KERNEL_PROPER, *loaded])
        hints = [
            did_you_mean(close),
            "the kernel proper is 'vmlinux'; code of modules can be woven into once they are loaded",
        ]
        self.bag.error("unknown-module", f"no module '{leaf.glob}' is loaded", leaf.span, hints=hints)

    def _conjunct(self, index: int) -> Conjunct:
        conjunct = sort_out(self.form, index)
        leaves = [literal.leaf for literal in conjunct.literals]
        failed = any(leaf in self.resolved and self.resolved[leaf].failed for leaf in leaves)
        conjunct.usable = self.answerable and not failed
        if conjunct.kinds != 1:
            from klasy.match import lint

            lint.report_kinds(self, conjunct)
            conjunct.usable = False
        return conjunct

    # --- candidates

    def _match_conjunct(self, conjunct: Conjunct, result: AdviceMatch) -> None:
        if conjunct.places:
            from klasy.match.places import match_places

            match_places(self, conjunct, result)
            return
        if conjunct.accesses:
            from klasy.match.accesses import match_accesses

            match_accesses(self, conjunct, result)
            return
        for literal in conjunct.literals:
            if isinstance(self.form.leaves[literal.leaf], ast.Target):
                from klasy.match.members import report_target

                report_target(self, literal.leaf)
                conjunct.usable = False
                return
        if conjunct.events:
            from klasy.match.events import match_events

            match_events(self, conjunct, result)
            return
        if conjunct.syscalls:
            from klasy.match.syscalls import match_syscalls

            match_syscalls(self, conjunct, result)
            return
        if conjunct.executions:
            functions = self._candidates(conjunct)
            if len(functions) > MOST_SHADOWS and self._takes_all(conjunct):
                from klasy.match import lint

                lint.report_too_many(len(functions), self.advice, self.bag)
                conjunct.usable = False
                return
            if len(functions) > MANY and not self._asks_each():
                from klasy.match.many import match_executions

                match_executions(self, conjunct, functions, result)
            else:
                for function in functions.values():
                    self._try_execution(function, result)
            self._match_inlined(conjunct, conjunct.executions, result)
            return
        callees = self.named(conjunct.calls)
        if type(callees) is dict:
            result.callees.update(callees)
        elif type(result.callees) is dict:  # of all functions there are it is not to make objects: these come to them
            callees.update(result.callees)
            result.callees = callees
        if not conjunct.asks_where and len(callees) > MOST_SHADOWS:
            from klasy.match import lint

            lint.report_too_many_callees(len(callees), self.leaf_span(conjunct.calls[0]), self.bag)
            conjunct.usable = False
            return
        self._try_calls(self._candidate_sites(conjunct, callees), result)
        if not conjunct.asks_where:
            for address, callee in callees.items():
                outcome = self.outcome(_CALL, callee, None)
                if outcome is not None:
                    result.unknown[address] = outcome
        self._match_inlined(conjunct, conjunct.calls, result)

    def _candidates(self, conjunct: Conjunct) -> dict[int, Function]:
        """The functions whose executions a conjunct may select. Of many named, those that lie where it asks for it."""
        functions = self.named(conjunct.executions)
        many = any(self.resolved[leaf].every for leaf in conjunct.executions) or len(functions) > MANY
        area = self.area(conjunct, True) if many and conjunct.asks_where else None
        return functions if area is None else {a: functions[a] for a in area if a in functions}

    def _takes_all(self, conjunct: Conjunct) -> bool:
        """Whether an execution is selected by what the function is called and where it lies alone."""
        kinds = ast.Execution | _WHERE
        plain = all(x.positive and isinstance(self.form.leaves[x.leaf], kinds) for x in conjunct.literals)
        return plain and self.advice.returning is None

    def _every(self, found: dict[int, Found]) -> dict[int, Function]:
        from klasy.match.late import Late

        def find(address: int) -> Function | None:
            one = found.get(address)
            return one.function if one is not None else None

        return Late(lambda: {address: each.function for address, each in found.items()}, find)

    def _asks_each(self) -> bool:
        """Whether something may be asked of each function that others of its type do not share."""
        return self.flows is not None or any(isinstance(leaf, ast.User) for leaf in self.form.leaves)

    def named(self, leaves: list[int]) -> dict[int, Function]:
        """The functions that all of some ``call`` or ``execution`` designators match, by address."""
        first, *rest = (self.resolved[leaf].found for leaf in leaves)
        if not rest:  # the usual, and with wildcards there may be tens of thousands
            if self.resolved[leaves[0]].every:
                return self._every(first)
            return {a: found.function for a, found in first.items()}
        return {a: found.function for a, found in first.items() if all(a in other for other in rest)}

    def signature(self, leaf: int) -> ast.Signature:
        """What a ``call`` or ``execution`` designator names."""
        node = self.form.leaves[leaf]
        assert isinstance(node, ast.Call | ast.Execution)
        return node.signature

    def _match_inlined(self, conjunct: Conjunct, leaves: list[int], result: AdviceMatch) -> None:
        exact = [name for leaf in leaves if not is_glob(name := self.signature(leaf).name)]
        if any(self.kernel.inlined(name) for name in exact):
            from klasy.match.inlined import match_inlined

            match_inlined(self, conjunct, leaves, result)

    def _candidate_sites(self, conjunct: Conjunct, callees: Mapping[int, Function]) -> list[CallSite]:
        many = any(self.resolved[leaf].every for leaf in conjunct.calls) or len(callees) > _MANY_CALLEES
        area = self.area(conjunct, many)
        if area is not None and (many or sum(f.size for f in area.values()) <= LITTLE_TEXT):
            found = self.sites.calls_in(area)
            return [site for site in found if site.callee is not None and site.callee.address in callees]
        return self.sites.callers(callees)

    def area(self, conjunct: Conjunct, modules_too: bool) -> dict[int, Function] | None:
        """The functions in which a conjunct's join points must lie, pieces included; None: anywhere.

        ``modules_too``: those of the modules that it names are worth gathering.
        """
        globs = self.module_globs(conjunct)
        if conjunct.withins:
            first, *rest = (self.resolved[leaf].lies_in for leaf in conjunct.withins)
            area = {a: f for a, f in first.items() if all(a in other for other in rest)}
        elif conjunct.files and modules_too:
            area = {f.address: f for f in self.signatures.functions("*")}
        elif globs and modules_too and not all(matches(glob, KERNEL_PROPER) for glob in globs):
            named = [module for module in self.kernel.modules() if all(matches(glob, module) for glob in globs)]
            area = {f.address: f for f in self.kernel.functions("*", named)}
        else:
            return None
        if conjunct.files:
            places = [self.where.index(leaf) for leaf in conjunct.files]
            area = {a: f for a, f in area.items() if all(self.bits(f)[place] for place in places)}
        return {a: f for a, f in area.items() if all(matches(glob, f.module or KERNEL_PROPER) for glob in globs)}

    def module_globs(self, conjunct: Conjunct) -> list[str]:
        """The names, which may be globs, of the modules in which a conjunct's join points must lie."""
        leaves = (self.form.leaves[leaf] for leaf in conjunct.modules)
        return [leaf.glob for leaf in leaves if isinstance(leaf, ast.WithinModule)]

    # --- tests

    def _try_execution(self, function: Function, result: AdviceMatch) -> None:
        if function.address in self.executed:
            return
        self.executed.add(function.address)
        outcome, altered = self.execution(function)
        shadow = Shadow(JoinPointKind.EXECUTION, function, function.address)
        if outcome is not None:
            result.executions.append(Match(shadow, outcome))
        elif altered:
            self.note_unbound(shadow)

    def _try_calls(self, sites: list[CallSite], result: AdviceMatch) -> None:
        seen, bits_of, asks = self._seen_sites, self.bits, bool(self.where)
        shadow_of, matched = self.sites.shadow, result.calls
        known: dict[object, tuple[Outcome | None, bool]] = {}  # by callee, and by where if that matters
        bits: _Bits = ()
        last: object = None
        for site in sites:
            callee = site.callee
            assert callee is not None
            key: object = callee.address
            if asks:
                bits = bits_of(site.caller)
                key = callee.address, bits
            if key != last:
                last = key
                if key not in known:
                    found = self.outcome(_CALL, callee, bits)
                    known[key] = found, (_CALL, callee.address, bits) in self._altered
                outcome, altered = known[key]
            if site.address in seen or (outcome is None and not altered):
                continue
            seen.add(site.address)
            if outcome is not None:
                matched.append(Match(shadow_of(site), outcome))
            else:
                self.note_unbound(shadow_of(site))

    def execution(self, function: Function) -> tuple[Outcome | None, bool]:
        """The answer for a function's execution; whether it would match if it was known where its parameters are."""
        bits = self.bits(function)
        return self.outcome(_EXECUTION, function, bits), (_EXECUTION, function.address, bits) in self._altered

    def note_unbound(self, shadow: Shadow) -> None:
        """Note a shadow that would match if it was known where its parameters are."""
        reason = "a copy made by the compiler, with other parameters: where they are is not known"
        self.unreached.append(Unreached(self.advice.index, shadow, "altered-abi", reason))

    def bits(self, function: Function) -> _Bits:
        """The answers, for join points in a function, of all designators that ask where."""
        found = self._bits.get(function.address)
        if found is None:
            found = self._bits[function.address] = tuple([self._lies_in(leaf, function) for leaf in self.where])
        return found

    def _lies_in(self, index: int, function: Function) -> bool:
        leaf = self.form.leaves[index]
        if isinstance(leaf, ast.WithinModule):
            return matches(leaf.glob, function.module or KERNEL_PROPER)
        if isinstance(leaf, ast.WithinFile):
            return self._files[index](function)
        return function.address in self.resolved[index].lies_in

    def call(self, callee: Function, bits: _Bits) -> Outcome | None:
        """The answer for calls of a function; ``bits``: from where."""
        return self.outcome(_CALL, callee, bits)

    def outcome(self, kind: bool, target: Function, bits: _Bits | None) -> Outcome | None:
        """The answer for executions, or calls, of a function; ``bits`` None: it is not known from where."""
        key = kind, target.address, bits
        if key not in self._outcomes:
            self._outcomes[key] = self._evaluate(key, target)
        return self._outcomes[key]

    def _evaluate(self, key: _Key, target: Function) -> Outcome | None:
        kind, _, bits = key
        alternatives: list[tuple[Conjunct, tuple[Binding, ...]]] = []
        for conjunct in self.conjuncts:
            if not conjunct.usable or not self._holds(conjunct, kind, target, bits):
                continue
            named = conjunct.calls if kind is _CALL else conjunct.executions
            bindings = self.binder.bind([*named, *conjunct.args] if conjunct.args else named, target)
            if bindings is None:
                continue
            conjunct.hits += 1
            if bindings is Binder.ALTERED:
                self._altered.add(key)
            else:
                if self.flows is not None:
                    bindings = self.flows.bind(bindings, conjunct.literals, self.form, self.advice)
                alternatives.append((conjunct, bindings))
        if not alternatives:
            return None
        same = tuple([(conjunct.index, id(bindings)) for conjunct, bindings in alternatives])
        if same not in self._combined:
            self._combined[same] = self._combine(alternatives, target)
        return self._combined[same]

    def _combine(self, alternatives: list[tuple[Conjunct, tuple[Binding, ...]]], target: Function) -> Outcome:
        (conjunct, bindings), *rest = alternatives
        guard = self.guard(conjunct)
        for conjunct, others in rest:
            bindings = self.binder.merge(bindings, others, target)
            guard = either(guard, self.guard(conjunct))
        outcome = Outcome(bindings, guard)
        return self.shared(outcome)

    def shared(self, outcome: Outcome) -> Outcome:
        """An outcome that equals it: the same for all."""
        return self._shared.setdefault(outcome, outcome)

    def _holds(self, conjunct: Conjunct, kind: bool, target: Function, bits: _Bits | None) -> bool:
        """Whether all that can be told before run time of a conjunct is so."""
        for literal in conjunct.literals:
            leaf = self.form.leaves[literal.leaf]
            if isinstance(leaf, ast.Call | ast.Execution):
                truth = kind is isinstance(leaf, ast.Call) and target.address in self.resolved[literal.leaf].found
            elif isinstance(leaf, ast.Args):
                truth = self.args[literal.leaf].fit(target)
            elif isinstance(leaf, ast.Access | ast.Event | ast.Syscall | ast.Target | ast.At):
                truth = False
            elif isinstance(leaf, ast.If | ast.Cflow):
                continue
            elif bits is None:
                return False
            else:
                truth = bits[self.where.index(literal.leaf)]
            if truth != literal.positive:
                return False
        return True

    def guard(self, conjunct: Conjunct) -> ast.Expr | None:
        """What a conjunct leaves to run time."""
        guard: ast.Expr | None = None
        for literal in conjunct.literals:
            leaf = self.form.leaves[literal.leaf]
            if isinstance(leaf, ast.If):
                guard = both(guard, leaf.condition if literal.positive else negated(leaf.condition))
            elif isinstance(leaf, ast.Cflow) and self.flows is not None:
                inside = self.flows.condition(leaf, self.advice)
                guard = both(guard, inside if literal.positive else negated(inside))
        return guard

    # --- for messages

    def leaf_span(self, index: int) -> Span:
        """Where a designator is written."""
        return self.form.leaves[index].span
