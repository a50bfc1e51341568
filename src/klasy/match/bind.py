"""What an advice's parameters are at a shadow: arguments by the names in the signature, and the result."""

from __future__ import annotations

from klasy.lang import ast
from klasy.lang.walk import free_names
from klasy.match.glob import is_glob
from klasy.match.plan import Binding, Result
from klasy.match.signature import ALTERED
from klasy.match.typeref import Comparer, TypeRefError, spelled
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import ClassVar

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function
    from klasy.match.pointcut import NormalForm
    from klasy.match.prototype import Named, Prototype
    from klasy.match.signature import Found, Resolved


class Binder:
    """Binds what one advice and its conditions use. Faults are reported once each."""

    # Given in place of bindings where the function's parameters are not where its source says.
    ALTERED: ClassVar[tuple[Binding, ...]] = (
        Binding("", Result(), ast.TypeRef(None, ast.TagKind.NONE, "void")),  # type: ignore[arg-type]
    )

    def __init__(
        self,
        advice: ast.Advice,
        form: NormalForm,
        resolved: Mapping[int, Resolved],
        bag: DiagnosticBag,
        prototype: Callable[[Function], Prototype | None],
    ) -> None:
        self.advice = advice
        self.prototype = prototype
        self.form = form
        self.resolved = resolved
        self.bag = bag
        self.params = {param.name: param for param in advice.params}
        self.in_conditions = {
            name.name for leaf in form.leaves if isinstance(leaf, ast.If) for name in free_names(leaf.condition)
        }
        # Why functions with a matching signature were left out, by leaf: for the message if none is left.
        self.dropped: dict[int, str] = {}
        self.elsewhere: set[str] = set()  # parameters that something else than a signature binds
        self._unbound: set[str] = set()
        self._checked: dict[tuple[object, ...], bool] = {}
        self._bound: dict[tuple[object, ...], tuple[Binding, ...] | None] = {}
        self._comparer = Comparer()
        self._equal: dict[tuple[Binding, ...], tuple[Binding, ...]] = {}

    def bind(self, leaves: Sequence[int], target: Function) -> tuple[Binding, ...] | None:
        """The bindings at a shadow whose callee or body is ``target``, by the designators that name it.

        None where the types of the advice's parameters leave the function out; ``ALTERED`` where it cannot be known
        where its parameters are.
        """
        founds = [self.resolved[leaf].found[target.address] for leaf in leaves]
        key: list[object] = [target.clone in ALTERED]
        for leaf, found in zip(leaves, founds, strict=True):
            key += leaf, *self.asked(found)
        alike = tuple(key)
        if alike not in self._bound:
            self._bound[alike] = self._bind(leaves, founds, target)
        return self._bound[alike]

    def asked(self, found: Found) -> tuple[object, object]:
        """What is asked of a function that a designator has found: those of which it is the same bind the same."""
        prototype, returning = found.prototype, self.advice.returning is not None
        if prototype is None and returning:  # what it returns is asked of any function
            prototype = self.prototype(found.function)
        return id(found.named), prototype.key if prototype is not None else returning and found.function.in_program

    def bind_found(
        self, leaves: Sequence[int], founds: Sequence[Found], target: Function
    ) -> tuple[Binding, ...] | None:
        """The same where what the designators found is of a function that has no entry: an inlined one."""
        return self._bind(leaves, founds, target)

    def _bind(self, leaves: Sequence[int], founds: Sequence[Found], target: Function) -> tuple[Binding, ...] | None:
        bound: dict[str, Binding] = {}
        fits = True
        for leaf, found in zip(leaves, founds, strict=True):
            for name, named in found.named.items():
                param = self.params.get(name)
                if param is None and name not in self.in_conditions:
                    continue
                written = param.type if param else named.type
                if written is None:
                    continue
                binding = Binding(name, named.argument, written)
                if bound.setdefault(name, binding).source != binding.source:
                    self._report_ambiguous(name, target)
                if param is not None:
                    fits &= self._param_fits(leaf, found, named, param)
            fits &= self._result_fits(leaf, found)
        for name, param in self.params.items():
            if name not in bound and name not in self._unbound and name not in self.elsewhere:
                self._unbound.add(name)
                self.bag.error(
                    "unbound-parameter",
                    f"nothing in the pointcut binds '{name}'",
                    param.span,
                    hints=[f"name a parameter of the signature so: call(f({spelled(param.type)} {name}, ..))"],
                )
        if not fits:
            return None
        returning = self.advice.returning
        if (bound or returning) and target.clone in ALTERED:
            return self.ALTERED
        bindings = [bound[name] for name in sorted(bound)]
        if returning is not None:
            bindings.append(Binding(returning.name, Result(), returning.type))
        result = tuple(bindings)
        return self._equal.setdefault(result, result)

    def merge(self, left: tuple[Binding, ...], right: tuple[Binding, ...], target: Function) -> tuple[Binding, ...]:
        """What two alternatives that both hold at a shadow bind. They must agree on what both bind."""
        if left == right:
            return left
        bound = {binding.name: binding for binding in left}
        for binding in right:
            if bound.setdefault(binding.name, binding).source != binding.source:
                self._report_ambiguous(binding.name, target)
        results = [b for b in bound.values() if isinstance(b.source, Result)]
        return (*sorted((b for b in bound.values() if b not in results), key=lambda b: b.name), *results)

    def _report_ambiguous(self, name: str, target: Function) -> None:
        param = self.params.get(name)
        self.bag.error(
            "ambiguous-binding",
            f"at {target.name} the pointcut binds '{name}' to two different parameters",
            param.span if param else self.advice.head,
            hints=["let the alternatives exclude each other, or write two advice"],
        )

    def _param_fits(self, leaf: int, found: Found, named: Named, param: ast.Param) -> bool:
        prototype = found.prototype
        if prototype is None:
            return True
        key = leaf, prototype.key, param.name
        if key not in self._checked:
            actual = prototype.proto.params[named.argument.index]

            def fact() -> str:
                text = prototype.btf.c_name(actual.type_id, actual.name)
                return f"parameter {named.argument.index + 1} of {found.function.base} is '{text}'"

            self._checked[key] = self._type_fits(
                leaf, prototype, actual.type_id, param, code="wrong-parameter-type", fact=fact
            )
        return self._checked[key]

    def _result_fits(self, leaf: int, found: Found) -> bool:
        returning = self.advice.returning
        if returning is None:
            return True
        if found.function.in_program:
            return True  # was looked at where the function was found
        prototype = found.prototype or self.prototype(found.function)
        if prototype is None:
            return not self._selects(leaf)  # of many functions those are meant of which it is known
        key = leaf, prototype.key
        if key not in self._checked:
            result = prototype.proto.ret

            def fact() -> str:
                name = prototype.btf.c_name(result)
                return f"{found.function.base} returns " + ("nothing" if name == "void" else f"'{name}'")

            self._checked[key] = self._type_fits(
                leaf, prototype, result, returning, code="wrong-result-type", fact=fact
            )
        return self._checked[key]

    def _type_fits(
        self, leaf: int, prototype: Prototype, type_id: int, param: ast.Param, *, code: str, fact: Callable[[], str]
    ) -> bool:
        btf = prototype.btf
        try:
            if self._comparer.same(btf, type_id, param.type) and btf.resolve(type_id) != 0:
                return True
        except TypeRefError as error:
            error.report(self.bag)
            return False
        if self._selects(leaf):
            if leaf not in self.dropped:
                self.dropped[leaf] = f"{fact()}, not '{spelled(param.type)}'"
        else:
            self.bag.error(
                code,
                f"{fact()}, but the advice declares '{spelled(param.type)}'",
                param.span,
                hints=[f"its prototype is '{prototype.text}'"],
            )
        return False

    def _selects(self, leaf: int) -> bool:
        """Whether a designator's name has wildcards, so that types select among many functions."""
        node = self.form.leaves[leaf]
        if isinstance(node, ast.Args):
            return True
        assert isinstance(node, ast.Call | ast.Execution)
        return is_glob(node.signature.name)
