"""How system calls are reached: trampolines at the kernel's functions for a few, else the two tracepoints for all.

A few calls cost nothing elsewhere. ``sys_enter`` and ``sys_exit`` make every call of every program take the kernel's
slow way in and out, but take two programs, however many calls are meant, and return probes with their limits do not
come in. The programs of advice behind a call that takes strings, or the call as a whole, get an account of it from its
entry (:mod:`klasy.backend.bytecode.syscalls`).
"""

from __future__ import annotations

from klasy.btf.walk import member_offset
from klasy.errors import KernelLacks
from klasy.kernel import callcontents
from klasy.kernel.model import Refusal, Way
from klasy.lang import ast
from klasy.lang.vocabulary import JOINPOINT
from klasy.lang.walk import nodes
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import CallUse, Locator, SyscallPlan, UserRegister
from klasy.match.probes import Kind
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.btf.btf import Btf
    from klasy.kernel.model import Function
    from klasy.match.execution import ExecutionPlanner
    from klasy.match.matched import Match, Outcome

MOST_BY_FUNCTION = 16  # calls: more are reached by the tracepoints
_STRINGS = (("putname", Way.FENTRY, CallUse.NAME), ("strndup_user", Way.FEXIT, CallUse.STRING))


def takes_whole(advice: ast.Advice) -> bool:
    """Whether an advice logs its join point as a whole: ``log(joinpoint)``."""
    if not isinstance(advice.body, ast.Block):
        return False
    inside = [*nodes(advice.body)]
    attributes = {id(node.object) for node in inside if isinstance(node, ast.Member)}
    return any(isinstance(n, ast.Name) and n.name == JOINPOINT and id(n) not in attributes for n in inside)


def plan_syscalls(executions: ExecutionPlanner, todo: Sequence[tuple[ast.Advice, Match]]) -> SyscallPlan | None:
    """Plan the system calls of all advice of an aspect. None: no accounts are kept."""
    return _SyscallPlanner(executions, todo).plan()


class _SyscallPlanner:
    def __init__(self, executions: ExecutionPlanner, todo: Sequence[tuple[ast.Advice, Match]]) -> None:
        self.executions = executions
        self.planner = executions.planner
        self.kernel = executions.kernel
        self.todo = todo
        self.whole = {advice.index for advice, _ in todo if takes_whole(advice)}
        after = [(advice, match) for advice, match in todo if advice.kind is ast.AdviceKind.AFTER]
        self.any_after = bool(after)
        self.strings = any(advice.index in self.whole or _takes_string(match.outcome) for advice, match in after)

    def plan(self) -> SyscallPlan | None:
        """All of it."""
        functions = {match.shadow.address: match.shadow.function for _, match in self.todo}
        refusal: Refusal | None = None
        by_function = self.executions.options.force != "kprobe"
        why = "asked for"
        if by_function and len(functions) > MOST_BY_FUNCTION:
            by_function, why = False, f"{len(functions)} calls, and all others, by two programs"
        elif by_function:
            refusal = next((r for f in functions.values() if f is not None and (r := self._refusal(f))), None)
            by_function, why = refusal is None, f"fentry is not possible here: {refusal.reason}" if refusal else ""
        for advice, match in self.todo:
            function = match.shadow.function
            assert function is not None
            after = advice.kind is ast.AdviceKind.AFTER
            (self._by_function if by_function else self._by_tracepoint)(advice, match, function, after, why)
        if not self.strings:
            return None if by_function else _facts(self.kernel.btf)
        for name, way, use in _STRINGS:
            found = next(iter(self.kernel.functions(name)), None)
            if found is not None and self.executions.trampoline_refusal(found, way) is None:
                context, mechanism = Context.FENTRY, Mechanism.FENTRY
                if way is Way.FEXIT:
                    context, mechanism = Context.FEXIT, Mechanism.FEXIT
                self._point(Kind(mechanism, context, Locator.FIXED, group=found.address, calls=use), found)
        return _facts(self.kernel.btf)

    def _refusal(self, function: Function) -> Refusal | None:
        executions = self.executions
        return executions.trampoline_refusal(function, Way.FENTRY) or (
            executions.trampoline_refusal(function, Way.FEXIT) if self.any_after else None
        )

    def _by_function(self, advice: ast.Advice, match: Match, function: Function, after: bool, _: str) -> None:
        address = function.address
        if not after:
            kind = Kind(Mechanism.FENTRY, Context.FENTRY, Locator.FIXED, group=address)
            self._add(kind, advice, match, function, "no trap: a BPF trampoline at the entry of the kernel's function")
            return
        use = CallUse.END if self.strings else CallUse.NONE
        if self.strings:
            begins = Kind(Mechanism.FENTRY, Context.FENTRY, Locator.FIXED, group=address, calls=CallUse.BEGIN)
            self._point(begins, function)
        kind = Kind(Mechanism.FEXIT, Context.FEXIT, Locator.FIXED, group=address, calls=use)
        self._add(kind, advice, match, function, "no trap: a BPF trampoline around the kernel's function")

    def _by_tracepoint(self, advice: ast.Advice, match: Match, function: Function, after: bool, why: str) -> None:
        use = CallUse.BEGIN if self.any_after else CallUse.NONE
        enter = Kind(Mechanism.RAW_TRACEPOINT, Context.SYS_ENTER, Locator.ADDRESS, calls=use)
        if after:
            self._point(enter, function)
            leave = Kind(Mechanism.RAW_TRACEPOINT, Context.SYS_EXIT, Locator.ADDRESS, calls=CallUse.END)
            self._add(leave, advice, match, function, why)
        else:
            self._add(enter, advice, match, function, why)

    def _point(self, kind: Kind, function: Function) -> None:
        self.planner.probes.point(kind, function.address, function)

    def _add(self, kind: Kind, advice: ast.Advice, match: Match, function: Function, why: str) -> None:
        probes = self.planner.probes
        draft = probes.point(kind, function.address, function)
        contents: tuple[callcontents.Content, ...] | None = None
        if advice.index in self.whole:
            over = advice.kind is ast.AdviceKind.AFTER
            contents = callcontents.contents(self.kernel.tracepoints, function.name, over=over)
        arm = probes.arm(draft, advice, match.outcome, hash(contents) if contents else 0)
        arm.contents = contents
        arm.by_address[function.address] = probes.joinpoint(advice, match.shadow, kind.mechanism.value, why)


def _takes_string(outcome: Outcome) -> bool:
    """Whether an argument that may lead to a string is bound."""
    return any(
        isinstance(binding.source, UserRegister) and binding.type.pointers == 1 and binding.type.name == "char"
        for binding in outcome.bindings
    )


def _facts(btf: Btf) -> SyscallPlan:
    return SyscallPlan(
        _offset(btf, "task_struct", "thread_info") + _offset(btf, "thread_info", "status"),
        _offset(btf, "filename", "uptr"),
        _offset(btf, "filename", "name"),
    )


def _offset(btf: Btf, struct: str, member: str) -> int:
    found = member_offset(btf, struct, member)
    if found is None:
        raise KernelLacks(f"struct {struct} of this kernel has no member {member}: system calls cannot be followed")
    return found
