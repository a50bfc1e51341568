"""System calls: which a pointcut selects, and what its advice takes of them.

A system call is the execution of the kernel's function for it, by whatever mechanism executions are reached; so calls
that are not named cost nothing, and the way back is paired with the way in by the stack. It lies under the name that
programs know it by. A parameter binds by the name that the kernel gives the argument (``filename``, ``flags``).
"""

from __future__ import annotations

from klasy.diag import did_you_mean
from klasy.kernel import syscalls
from klasy.kernel.model import Clone, Function
from klasy.lang import ast
from klasy.match.events import Misfit, field_fits
from klasy.match.glob import matches
from klasy.match.guard import either
from klasy.match.matched import Match, Outcome
from klasy.match.plan import Binding, Result, Unreached, UserRegister
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.match.syscallplan import MOST_BY_FUNCTION
from klasy.match.typeref import TypeRefError, find_base, spelled
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.syscalls import Syscall
    from klasy.kernel.tracepoints import Field
    from klasy.match.conjunct import Conjunct
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher

_RESULT_SIZES = (4, 8)


def match_syscalls(matcher: AdviceMatcher, conjunct: Conjunct, result: AdviceMatch) -> None:
    """Match a conjunct that selects system calls."""
    found = _selected(matcher, conjunct) if _is_sound(matcher, conjunct) else []
    misfits: list[Misfit] = []
    for call in found:
        try:
            outcome = _outcome(matcher, conjunct, call)
        except Misfit as misfit:
            misfits.append(misfit)
            continue
        except TypeRefError as error:
            error.report(matcher.bag)
            break
        conjunct.hits += 1
        _add(matcher, result, call, matcher.shared(outcome), typed=len(found) <= MOST_BY_FUNCTION)
    if not conjunct.hits:
        conjunct.usable = False
        if misfits:
            first = misfits[0]
            matcher.bag.error(first.code, first.message, first.span, hints=first.hints)


def _is_sound(matcher: AdviceMatcher, conjunct: Conjunct) -> bool:
    form, bag = matcher.form, matcher.bag
    before = len(bag.errors)
    for literal in conjunct.literals:
        leaf = form.leaves[literal.leaf]
        if isinstance(leaf, ast.Within | ast.WithinModule | ast.WithinFile | ast.Target | ast.Args):
            bag.error(
                "matches-nothing",
                f"'{leaf.span.text.split('(')[0]}' says nothing of a system call: a program makes it",
                leaf.span,
                hints=['of which program: if(comm == ".."), if(pid == ..); arguments bind by their names'],
            )
    others = [leaf for leaf in form.leaves if isinstance(leaf, ast.Call | ast.Execution | ast.Event | ast.Access)]
    if matcher.binder.params and others:
        # What a pointer leads to lies in the program's memory here, and in the kernel's there.
        bag.error(
            "mixed-kinds",
            "an advice that takes arguments of system calls can take none of other join points",
            others[0].span,
            hints=["write two advice"],
        )
    return len(bag.errors) == before


def _selected(matcher: AdviceMatcher, conjunct: Conjunct) -> list[Syscall]:
    """The calls that a conjunct names. Empty where an error was reported."""
    wanted: list[ast.Syscall] = []
    excluded: list[ast.Syscall] = []
    for literal in conjunct.literals:
        leaf = matcher.form.leaves[literal.leaf]
        if not isinstance(leaf, ast.Syscall):
            continue
        if not any(matches(leaf.name, name) for name in syscalls.NAMES):
            _report_unknown(matcher, leaf)
            return []
        (wanted if literal.positive else excluded).append(leaf)
    named = [name for name in syscalls.NAMES if all(matches(leaf.name, name) for leaf in wanted)]
    named = [name for name in named if not any(matches(leaf.name, name) for leaf in excluded)]
    found = syscalls.find(matcher.kernel, named) if named else []
    if not found:
        leaf = wanted[0]
        message = f"this kernel has no system call '{leaf.name}'" if named else "no system call is all of these"
        matcher.bag.error("matches-nothing", message, leaf.span.to(wanted[-1].span))
    return found


def _report_unknown(matcher: AdviceMatcher, leaf: ast.Syscall) -> None:
    from klasy.match.near import near

    name = leaf.name
    hints = []
    for prefix in ("__x64_sys_", "__se_sys_", "__do_sys_", "sys_enter_", "sys_exit_", "sys_"):
        if name.startswith(prefix) and name.removeprefix(prefix) in syscalls.NAMES:
            hints.append(f"write syscall({name.removeprefix(prefix)})")
            break
    close = near(name, syscalls.NAMES)
    if close and not hints:
        hints.append(did_you_mean(close))
    if not hints and matcher.kernel.functions(name):
        hints.append(f"'{name}' is a function of the kernel: execution({name})")
    matcher.bag.error("unknown-syscall", f"there is no system call '{name}'", leaf.span, hints=hints)


def _outcome(matcher: AdviceMatcher, conjunct: Conjunct, call: Syscall) -> Outcome:
    """What is bound at a call. Raises Misfit where it does not offer what the advice takes."""
    leaf = matcher.form.leaves[conjunct.syscalls[0]]
    assert isinstance(leaf, ast.Syscall)
    names = None if leaf.binds is None else dict(leaf.binds)
    fields = syscalls.arguments(matcher.kernel, call.name) if matcher.binder.params else ()
    offered = {field.name: (place, field) for place, field in enumerate(fields or ())}
    bindings: list[Binding] = []
    for param in sorted(matcher.binder.params.values(), key=lambda param: param.name):
        name = param.name if names is None else names.get(param.name)
        if name is None:
            raise Misfit("unbound-parameter", f"nothing in the pointcut binds '{param.name}'", param.span)
        if name not in offered:
            raise _no_argument(call, fields, name, param)
        place, field = offered[name]
        if not field_fits(matcher.kernel.btf, field, param.type):
            raise Misfit(
                "wrong-argument-type",
                f"'{name}' of system call {call.name} is '{field.text}', but the advice declares "
                f"'{spelled(param.type)}'",
                param.span,
            )
        bindings.append(Binding(param.name, UserRegister(name, syscalls.ARGUMENT_OFFSETS[place]), param.type))
    returning = matcher.advice.returning
    if returning is not None:
        _check_result(matcher, returning, call)
        bindings.append(Binding(returning.name, Result(), returning.type))
    return Outcome(tuple(bindings), matcher.guard(conjunct))


def _no_argument(call: Syscall, fields: Sequence[Field] | None, name: str, param: ast.Param) -> Misfit:
    from klasy.match.near import near

    if fields is None:
        what = f"what system call {call.name} takes is not known: the kernel has no record of it"
        return Misfit("unknown-argument", what, param.span, "they need CONFIG_FTRACE_SYSCALLS, and root")
    texts = ", ".join(field.text for field in fields)
    close = near(name, [field.name for field in fields])
    return Misfit(
        "unknown-argument",
        f"system call {call.name} has no argument '{name}'",
        param.span,
        did_you_mean(close),
        f"it is {call.name}({texts})",
    )


def _check_result(matcher: AdviceMatcher, returning: ast.Param, call: Syscall) -> None:
    """A result is a number, negative where the call failed, or an address."""
    btf, type_ = matcher.kernel.btf, returning.type
    if type_.pointers:
        return
    base = find_base(btf, type_)
    from klasy.btf.types import Int

    if type_.array or not isinstance(btf.resolved(base), Int) or btf.size_of(base) not in _RESULT_SIZES:
        raise Misfit(
            "wrong-result-type",
            f"system call {call.name} returns 'long', but the advice declares '{spelled(type_)}'",
            returning.span,
        )


def _add(matcher: AdviceMatcher, result: AdviceMatch, call: Syscall, outcome: Outcome, *, typed: bool) -> None:
    """Where two alternatives select the same call, the advice runs there once, if either holds.

    ``typed``: the function's prototype, which takes time to find, is wanted for trampolines.
    """
    f = call.function
    kind = (f.proto, f.btf) if typed else (None, None)
    function = Function(call.name, f.address, f.size, None, call.name, Clone.NONE, f.duplicates, *kind)
    shadow = Shadow(JoinPointKind.SYSCALL, function, function.address)
    if _is_unreached(matcher, call, shadow, outcome):
        return
    for index, other in enumerate(result.executions if len(matcher.conjuncts) > 1 else ()):
        if other.shadow.kind is JoinPointKind.SYSCALL and other.shadow.address == function.address:
            if other.outcome.bindings != outcome.bindings:
                matcher.bag.error(
                    "ambiguous-binding",
                    f"at system call {call.name} the alternatives of the pointcut bind the parameters differently",
                    matcher.advice.pointcut.span,
                    hints=["let the alternatives exclude each other, or write two advice"],
                )
            guard = either(other.outcome.guard, outcome.guard)
            result.executions[index] = Match(shadow, Outcome(outcome.bindings, guard))
            return
    result.executions.append(Match(shadow, outcome))


def _is_unreached(matcher: AdviceMatcher, call: Syscall, shadow: Shadow, outcome: Outcome) -> bool:
    """Whether an after advice cannot run at a call; the reason is noted then."""
    if matcher.advice.kind is not ast.AdviceKind.AFTER:
        return False
    taken = [binding.name for binding in outcome.bindings if isinstance(binding.source, UserRegister)]
    if call.name in syscalls.NEVER_RETURN:
        code, reason = "noreturn", f"{call.name} never returns"
    elif call.name in syscalls.REPLACE_REGISTERS and taken:
        reason = f"{call.name} replaces the registers that hold '{taken[0]}': before() has it"
        code = "registers-replaced"
    else:
        return False
    matcher.unreached.append(Unreached(matcher.advice.index, shadow, code, reason))
    return True
