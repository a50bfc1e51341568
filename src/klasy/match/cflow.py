"""``cflow`` and ``cflowbelow``: what runs while a join point of another pointcut is on the task's stack.

Each different one of an aspect is a *control flow* with a number. Advice that nobody wrote enters it before a join
point of its pointcut and leaves it behind; what asks for it becomes a condition, as ``if`` is one. So a flow is
matched, planned and compiled as any advice is, and only three steps are new (:mod:`klasy.backend.bytecode.flows` says
how they keep book, and what a flow is where interrupts come in between).

At a join point that is both, ``cflow`` is entered before the aspect's own advice and left behind it: the join point is
in its own flow. With ``cflowbelow`` it is the other way round.

Behind a join point nothing is asked but whether its flow was entered there: its conditions may have changed meanwhile.
"""

from __future__ import annotations

from klasy.btf.walk import member_offset
from klasy.kernel.model import Way
from klasy.lang import ast
from klasy.match.args import by_name
from klasy.match.plan import Binding, FlowPlan, Kept
from klasy.match.pointcut import walk
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Kernel
    from klasy.match.execution import ExecutionPlanner
    from klasy.match.matched import Match, Matched
    from klasy.match.plan import Unreached
    from klasy.match.pointcut import Literal, NormalForm
    from klasy.source import Span

MOST_FUNCTIONS = 100  # whose executions are control flows: each takes two programs
# The last that a task does is to call it: what it was in then is over, though nothing has returned.
LAST_OF_TASK = "do_task_dead"
# From here on a task runs another program: of the one before no function returns (fs/exec.c).
LAST_OF_PROGRAM = "begin_new_exec"

_Key = tuple[ast.Pointcut, bool, tuple[ast.Param, ...]]
_WHOLE = (
    ast.And, ast.Or, ast.Not, ast.Call, ast.Execution, ast.Within, ast.WithinModule, ast.WithinFile, ast.Args, ast.If,
    ast.Cflow,
)  # fmt: skip


class Flows:
    """The control flows of an aspect. ``aspect``: with the advice that they need."""

    def __init__(self, aspect: ast.Aspect, kernel: Kernel, bag: DiagnosticBag) -> None:
        self._kernel = kernel
        self._bag = bag
        self._numbers: dict[_Key, int] = {}
        self._advice: list[ast.Advice] = []
        self._first = len(aspect.advice)
        spans = [part.span for each in aspect.advice for part in walk(each.pointcut) if isinstance(part, ast.Cflow)]
        for each in aspect.advice:
            self._collect(each.pointcut, each.params)
        self._end(spans[0])
        values = tuple([len(params) for _, _, params in self._numbers])
        self.plan = self._clock(values, spans[0])
        self.aspect = replace(aspect, advice=(*aspect.advice, *self._advice))

    # --- what asks for a flow

    def condition(self, leaf: ast.Cflow, advice: ast.Advice) -> ast.Expr:
        """That what runs is in the flow."""
        return ast.InFlow(leaf.span, self._numbers[self._key(leaf, advice.params)])

    def bound(self, form: NormalForm) -> set[str]:
        """The names that flows bind in a pointcut."""
        return {name for leaf in form.leaves if isinstance(leaf, ast.Cflow) for name in _names(leaf.operand)}

    def bind(
        self, bindings: tuple[Binding, ...], literals: Sequence[Literal], form: NormalForm, advice: ast.Advice
    ) -> tuple[Binding, ...]:
        """What a conjunct binds, with what the flows in it do."""
        more = []
        for literal in literals:
            leaf = form.leaves[literal.leaf]
            if isinstance(leaf, ast.Cflow) and literal.positive:
                key = self._key(leaf, advice.params)
                number = self._numbers[key]
                more += [Binding(param.name, Kept(number, place), param.type) for place, param in enumerate(key[2])]
        return (*bindings, *more) if more else bindings

    def _key(self, leaf: ast.Cflow, params: tuple[ast.Param, ...]) -> _Key:
        names = {param.name for param in params}
        bound = {name for part in walk(leaf.operand) for name in _bound_by(part, names)}
        return leaf.operand, leaf.below, tuple([param for param in params if param.name in bound])

    # --- what keeps it

    def _collect(self, pointcut: ast.Pointcut, params: tuple[ast.Param, ...]) -> None:
        """Number the flows in a pointcut, those within others first: they are entered first, too."""
        if isinstance(pointcut, ast.And | ast.Or):
            self._collect(pointcut.left, params)
            self._collect(pointcut.right, params)
        elif isinstance(pointcut, ast.Not):
            self._collect(pointcut.operand, params)
        elif isinstance(pointcut, ast.Cflow):
            self._collect(pointcut.operand, params)
            key = self._key(pointcut, params)
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers)
                if self._is_whole(pointcut):
                    self._keep(pointcut, self._numbers[key], key[2])

    def _is_whole(self, leaf: ast.Cflow) -> bool:
        """Whether a flow's pointcut is of join points that begin and end."""
        for part in walk(leaf.operand):
            if not isinstance(part, _WHOLE):
                name = "cflowbelow" if leaf.below else "cflow"
                self._bag.error(
                    "no-flow",
                    f"'{name}' takes join points that last: calls and executions",
                    part.span,
                    hints=[
                        f"{name}(execution(__x64_sys_{part.name}))"
                        if isinstance(part, ast.Syscall)
                        else f"{name}(execution(f))"
                    ],
                )
                return False
        return True

    def _keep(self, leaf: ast.Cflow, number: int, params: tuple[ast.Param, ...]) -> None:
        """The advice that enters and leaves a flow."""
        name, order = (f"cflowbelow#{number}", 1) if leaf.below else (f"cflow#{number}", -1)
        names = tuple([param.name for param in params])
        enter = ast.FlowStep(leaf.span, "enter", number, names)
        self._add((enter,), leaf.operand, f"{name} enter", order=order, params=params)
        behind = _without_conditions(leaf.operand, set(names), True)
        if behind is not None:  # else no kind of join point is named, which is an error that is told at the entry
            leave = ast.FlowStep(leaf.span, "leave", number, names)
            self._add((leave,), behind, f"{name} leave", order=-order, kind=ast.AdviceKind.AFTER)

    def _end(self, span: Span) -> None:
        """The advice that ends all flows of a task."""
        names = {number: tuple([param.name for param in key[2]]) for key, number in self._numbers.items()}
        ends = {number: ast.FlowStep(span, "end", number, of) for number, of in names.items()}
        last = ast.Execution(span, ast.Signature(span, None, LAST_OF_TASK, None))
        self._add(tuple(ends.values()), last, "cflow end of task", order=1)
        users = [n for key, n in self._numbers.items() if any(isinstance(part, ast.User) for part in walk(key[0]))]
        if users:
            last = ast.Execution(span, ast.Signature(span, None, LAST_OF_PROGRAM, None))
            self._add(tuple([ends[number] for number in users]), last, "cflow end of program", order=1)

    def _add(
        self,
        steps: tuple[ast.FlowStep, ...],
        pointcut: ast.Pointcut,
        keeps: str,
        *,
        order: int,
        kind: ast.AdviceKind = ast.AdviceKind.BEFORE,
        params: tuple[ast.Param, ...] = (),
    ) -> None:
        index, span = self._first + len(self._advice), steps[0].span
        block = ast.Block(span, steps)
        self._advice.append(ast.Advice(index, kind, params, None, pointcut, block, span, span, keeps, order))

    def _clock(self, values: tuple[int, ...], span: Span) -> FlowPlan:
        """Where the kernel says whether it serves an interrupt."""
        kernel = self._kernel
        table = kernel.data_symbols("__per_cpu_offset")
        count = kernel.data_symbols("__preempt_count")  # before 6.2, and since 6.15
        hot = kernel.data_symbols("pcpu_hot")
        offset = member_offset(kernel.btf, "pcpu_hot", "preempt_count") if hot and not count else None
        place = count[0].address if count else None if offset is None else hot[0].address + offset
        if table and place is not None:
            softirqs = member_offset(kernel.btf, "task_struct", "softirq_disable_cnt")  # PREEMPT_RT
            return FlowPlan(values, table[0].address, place, softirqs)
        self._bag.error("no-flow", "this kernel does not tell where it counts the interrupts that it serves", span)
        return FlowPlan(values, 0, 0)


def _names(pointcut: ast.Pointcut) -> set[str]:
    """All names in the signatures of a pointcut."""
    found = set()
    for part in walk(pointcut):
        if isinstance(part, ast.Call | ast.Execution):
            found |= {param.name for param in part.signature.params or () if param.name}
        elif isinstance(part, ast.Args):
            found |= {param.name or (param.type.name if param.type else "") for param in part.params}
    return found


def _bound_by(part: ast.Pointcut, names: set[str]) -> set[str]:
    if isinstance(part, ast.Call | ast.Execution):
        return {param.name for param in part.signature.params or () if param.name in names and param.name}
    if isinstance(part, ast.Args):
        return {name for param in part.params if (name := ast.bound_name(param, names))}
    return set()


def _without_conditions(part: ast.Pointcut, names: set[str], positive: bool) -> ast.Pointcut | None:
    """A pointcut that holds wherever another may, whatever its conditions are; None: anywhere."""
    if isinstance(part, ast.If | ast.Cflow):
        return None
    if isinstance(part, ast.Not):
        operand = _without_conditions(part.operand, names, not positive)
        return operand and replace(part, operand=operand)
    if isinstance(part, ast.And | ast.Or):
        left = _without_conditions(part.left, names, positive)
        right = _without_conditions(part.right, names, positive)
        if isinstance(part, ast.And) == positive and (left is None or right is None):
            return left or right
        return replace(part, left=left, right=right) if left and right else None
    if isinstance(part, ast.Args):
        return replace(part, params=tuple([replace(by_name(param, names), name=None) for param in part.params]))
    return part


# --- planning


def _step(advice: ast.Advice) -> ast.FlowStep | None:
    """What advice that keeps a flow does; None of the aspect's own."""
    if not advice.keeps or not isinstance(advice.body, ast.Block):
        return None
    step = advice.body.body[0]
    return step if isinstance(step, ast.FlowStep) else None


def whole_executions(
    executions: ExecutionPlanner, todo: Sequence[tuple[ast.Advice, Match]]
) -> tuple[list[tuple[ast.Advice, Match]], set[int]]:
    """Of what is to be planned that of which both ends can be seen; and the functions whose executions are flows.

    Trampolines see both ends of each execution. A return probe may miss the one, and then the flow would not end.
    """
    planner = executions.planner
    kept: list[tuple[ast.Advice, Match]] = []
    flows: set[int] = set()
    refused: set[tuple[int, int]] = set()
    for advice, match in todo:
        step, function = _step(advice), match.shadow.function
        if step is None or step.step == "end" or function is None:
            kept.append((advice, match))
            continue
        if (step.flow, function.address) in refused:
            continue
        leaves = executions.trampoline_refusal(function, Way.FEXIT)
        never = leaves is not None and leaves.code == "noreturn"
        refusal = executions.trampoline_refusal(function, Way.FENTRY) or (None if never else leaves)
        if refusal is not None:
            refused.add((step.flow, function.address))
            planner.unreached(advice, match.shadow, refusal)
        elif step.step == "enter" or not never:
            flows.add(function.address)
            kept.append((advice, match))
    if len(flows) > MOST_FUNCTIONS:
        first = next(advice for advice, _ in todo if _step(advice))
        planner.bag.error(
            "too-many-shadows",
            f"this makes {len(flows)} functions' executions a control flow; more than {MOST_FUNCTIONS} are not woven",
            first.span,
            hints=["narrow it: a longer name, the types of parameters, or the function that calls them all"],
        )
    return kept, flows


def check_reached(matched: Matched, unreached: Sequence[Unreached], bag: DiagnosticBag) -> list[Unreached]:
    """What is left to be reported as any other; that the end of a call cannot be seen is an error here."""
    left = []
    never: set[tuple[int, int, int]] = set()  # what is not entered need not be left
    for each in unreached:
        step, shadow = _step(matched.aspect.advice[each.advice]), each.shadow
        if step is None or step.step != "leave":
            left.append(each)
            if step is not None:
                never.add((step.flow, shadow.address, shadow.callee.address if shadow.callee else 0))
    for each in unreached:
        step, shadow = _step(matched.aspect.advice[each.advice]), each.shadow
        if step is None or step.step != "leave" or each.code == "does-not-return":
            continue
        if (step.flow, shadow.address, shadow.callee.address if shadow.callee else 0) not in never:
            place = f"{each.shadow.function}+{each.shadow.offset:#x}" if each.shadow.function else "an unknown place"
            what = f" of {each.shadow.callee}" if each.shadow.callee else ""
            bag.error(
                "cannot-be-probed",
                f"where the call{what} at {place} ends cannot be seen: {each.reason}",
                matched.aspect.advice[each.advice].span,
                hints=["the execution of the function is seen with both ends: cflow(execution(f))"],
            )
    return left
