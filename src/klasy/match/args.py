"""``args(..)``: the arguments of a call or execution, by their places; what has other ones is left out.

The elements are compared with prototypes as those of a signature are. What they bind the binder takes from
``resolved``, as it does of signatures.
"""

from __future__ import annotations

from klasy.lang import ast
from klasy.match.prototype import Checker, Mismatch
from klasy.match.signature import Found, Resolved
from klasy.plain import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function
    from klasy.match.prototype import Named
    from klasy.match.signature import Signatures


class Arguments:
    """One ``args`` designator of an advice. ``misfit``: why the first function that was left out was."""

    def __init__(self, leaf: ast.Args, advice: ast.Advice, signatures: Signatures) -> None:
        names = {param.name for param in advice.params}
        params = tuple([by_name(param, names) for param in leaf.params])
        signature = ast.Signature(leaf.span, None, "*", params)
        self.resolved = Resolved(signature)
        self.misfit: Mismatch | None = None
        self._signatures = signatures
        self._checker = Checker(signature)
        self._answers: dict[int, bool] = {}
        self._verdicts: dict[tuple[int, int], Mapping[str, Named] | None] = {}  # by the type of the function

    def fit(self, function: Function) -> bool:
        """Whether a function has such arguments. Of one without type information that is not known: no."""
        answer = self._answers.get(function.address)
        if answer is None:
            answer = self._answers[function.address] = self._find(function)
        return answer

    def _find(self, function: Function) -> bool:
        prototype = self._signatures.prototype(function)
        if prototype is None:
            text = f"the kernel has no type information for {function}, so its arguments are not known"
            self.misfit = self.misfit or Mismatch("no-types", text, self.resolved.signature.span)
            return False
        if prototype.key not in self._verdicts:
            self._verdicts[prototype.key] = self._checker.named(prototype)
        named = self._verdicts[prototype.key]
        if named is None:
            self.misfit = self.misfit or self._checker.explain(function.base, prototype)
            return False
        self.resolved.found[function.address] = Found(function, prototype, named)
        return True

    def report(self, bag: DiagnosticBag) -> None:
        """Report types that exist nowhere, once all functions have been asked about."""
        for error in self._checker.type_errors.values():
            span = error.diagnostic.span
            if any(_is_word(param) and param.span == span for param in self.resolved.signature.params or ()):
                word = span.text if span is not None else ""
                bag.error(
                    "unknown-name",
                    f"'{word}' is neither a parameter of this advice nor a type of the kernel's",
                    span,
                    hints=[
                        f"give the advice a parameter '{word}' with its type, or write '*' for an argument of any type"
                    ],
                )
            else:
                error.report(bag)


def _is_word(param: ast.ParamPattern) -> bool:
    ref = param.type
    return ref is not None and param.name is None and ref.tag is ast.TagKind.NONE and not ref.pointers


def by_name(param: ast.ParamPattern, names: set[str]) -> ast.ParamPattern:
    """A lone word that is the name of a parameter stands for an argument of any type."""
    name = ast.bound_name(param, names)
    if name is None or param.name:
        return param
    return replace(param, kind=ast.ParamKind.ANY_ONE, type=None, name=name)
