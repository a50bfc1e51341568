"""``around`` advice: where the kernel lets a program decide whether a function runs.

It does at functions made for that: the hooks of its security modules (``security_*``, whose result says whether an act
is allowed) and, where it is built with CONFIG_FUNCTION_ERROR_INJECTION, those marked as injectable. The program runs in
the function's place (fmod_ret): if it gives 0 the function runs, else it does not and that is its result.
"""

from __future__ import annotations

from klasy.btf.types import Int
from klasy.kernel.model import Refusal
from klasy.lang import ast
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function
    from klasy.match.options import Features
    from klasy.match.pointcut import NormalForm

HOOK = "security_"
HINT = "execution(security_*) has what can be refused; klasy search 'security_*' lists it"


_NOT_DECIDED = {
    ast.Call: "a call",
    ast.Access: "an access to data",
    ast.Event: "an event",
    ast.Syscall: "a system call as such",
}


def check_kinds(form: NormalForm, bag: DiagnosticBag) -> bool:
    """Whether only executions are selected; an error for what else is."""
    good = True
    for leaf in form.leaves:
        if isinstance(leaf, ast.Call | ast.Access | ast.Event | ast.Syscall):
            what = _NOT_DECIDED[type(leaf)]
            bag.error(
                "cannot-deny",
                f"'around' stands in the place of an execution: {what} cannot be refused",
                leaf.span,
                hints=[HINT],
            )
            good = False
    return good


def refusal(function: Function, features: Features) -> Refusal | None:
    """Why the kernel lets no program decide for a function, or None."""
    if not function.name.startswith(HOOK) and function.name not in features.error_injectable:
        return Refusal("cannot-deny", "the kernel lets programs decide at its security hooks only (security_*)")
    if function.btf is None or function.proto is None:
        return Refusal("cannot-deny", "its type is not known")
    result = function.btf.resolved(function.btf.proto(function.proto).ret)
    if not isinstance(result, Int) or not result.signed:
        return Refusal("cannot-deny", "it returns no error number, so there is nothing to refuse by")
    return None
