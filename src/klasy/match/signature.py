"""A signature against the functions of a kernel: which match, and by which of their prototypes.

A name without wildcards names one function of the kernel: what else the signature says of it must then be true, and
is an error, with the real prototype, where it is not. With wildcards the types select among the functions.
"""

from __future__ import annotations

from klasy.kernel.model import Clone
from klasy.match.glob import is_glob, star
from klasy.match.prototype import Checker, Prototype, says_types
from klasy.plain import TYPE_CHECKING, NamedTuple, cached_property, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function, Kernel
    from klasy.lang.ast import Signature
    from klasy.match.programs import Programs
    from klasy.match.prototype import Named

# Clones whose parameters need not be those of the source: what is passed, and where, is known to the compiler alone.
ALTERED = frozenset({Clone.CONSTPROP, Clone.ISRA, Clone.PART})

_NOTHING: Mapping[str, Named] = {}


class Found(NamedTuple):
    """One function that a signature matches. ``prototype`` None: what it says of types could not be verified."""

    function: Function
    prototype: Prototype | None
    named: Mapping[str, Named]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The outcome for one signature.

    ``found`` are by address, without ``.cold`` pieces, which are no functions; ``lies_in`` are the addresses of all
    functions, pieces included, whose text counts as that of a matching function. ``failed``: an error was reported.
    ``every``: all functions match, and both are made as they are asked for.
    """

    signature: Signature
    found: dict[int, Found] = field(default_factory=dict)
    lies_in: dict[int, Function] = field(default_factory=dict)
    failed: bool = False
    every: bool = False


class Signatures:
    """Resolves signatures, each once."""

    def __init__(self, kernel: Kernel, bag: DiagnosticBag) -> None:
        self.kernel = kernel
        self.bag = bag
        self._resolved: dict[tuple[Signature, bool, bool], Resolved] = {}
        self._named: dict[str, list[Function]] = {}
        self._prototypes: dict[Function, Prototype | None] = {}

    @cached_property
    def programs(self) -> Programs:
        """The same for functions of user programs."""
        from klasy.match.programs import Programs

        return Programs(self.bag)

    def functions(self, name: str) -> list[Function]:
        """The functions, clones and pieces included, of a name with wildcards."""
        pattern = star(name)
        if pattern not in self._named:
            self._named[pattern] = self.kernel.functions(pattern)
        return self._named[pattern]

    def resolve(self, signature: Signature, negative: bool = False, inlined: bool = False) -> Resolved:
        """What a signature matches; errors go to the bag, once.

        ``negative``: it stands under ``!``, where types that match nothing and wildcards that do are harmless.
        ``inlined``: a function of which there are only inlined copies will do, and is left to who asks.
        """
        key = signature, negative, inlined
        resolved = self._resolved.get(key)
        if resolved is None or (resolved.failed and resolved.signature.span != signature.span):
            resolved = self._resolved[key] = self._resolve(signature, negative, inlined)
        return resolved

    def _resolve(self, signature: Signature, negative: bool, inlined: bool) -> Resolved:
        if star(signature.name) == "*" and not says_types(signature):
            return self._every(signature)
        functions = self.functions(signature.name)
        if not functions:
            if inlined and not is_glob(signature.name) and self.kernel.inlined(signature.name):
                return Resolved(signature)
            if negative and is_glob(signature.name):
                self.bag.warning(
                    "empty-exclusion",
                    f"no function matches '{signature.name}', so this excludes nothing",
                    signature.span,
                )
                return Resolved(signature)
            from klasy.match import signature_help

            signature_help.report_unknown(self, signature)
            return Resolved(signature, failed=True)
        entries = [f for f in functions if f.clone is not Clone.COLD]
        if not says_types(signature):
            found = {f.address: Found(f, None, _NOTHING) for f in entries}
            return Resolved(signature, found, {f.address: f for f in functions})
        return self._select(signature, functions, entries, negative)

    def _every(self, signature: Signature) -> Resolved:
        """All functions."""
        from klasy.match.late import Late

        def find(address: int) -> Found | None:
            function = self.kernel.entered_at(address)
            return Found(function, None, _NOTHING) if function is not None else None

        def fill() -> dict[int, Found]:
            entries = [f for f in self.functions("*") if f.clone is not Clone.COLD]
            return {f.address: Found(f, None, _NOTHING) for f in entries}

        everywhere = Late(lambda: {f.address: f for f in self.functions("*")})
        return Resolved(signature, Late(fill, find), everywhere, every=True)

    # --- types

    def prototype(self, function: Function) -> Prototype | None:
        """What BTF tells of a function, or of the one of which it is a clone."""
        try:
            return self._prototypes[function]
        except KeyError:
            found = self._prototypes[function] = self._find_prototype(function)
            return found

    def _find_prototype(self, function: Function) -> Prototype | None:
        btf, proto = function.btf, function.proto
        if btf is not None and proto is not None:
            return Prototype.of(btf, proto)
        if function.clone is Clone.NONE:
            return None
        if btf is None:
            btf = self.kernel.btf if function.module is None else self.kernel.module_btf(function.module)
        func = btf.find_func(function.base) if btf is not None else None
        return Prototype.of(btf, func, True) if btf is not None and func is not None else None

    def _select(
        self, signature: Signature, functions: list[Function], entries: list[Function], negative: bool
    ) -> Resolved:
        """The functions whose prototypes agree with the types that the signature gives."""
        verdicts: dict[tuple[int, int], Mapping[str, Named] | None] = {}
        found: dict[int, Found] = {}
        refused: list[tuple[Function, Prototype]] = []
        unverified: list[Function] = []
        checker = Checker(signature)
        for function in entries:
            address, prototype = function.address, self.prototype(function)
            if address in found and found[address].prototype is not None:
                continue  # another name of the same code
            if prototype is None:
                unverified.append(function)
                found[address] = Found(function, None, checker.unverified())
                continue
            key = prototype.key
            if key not in verdicts:
                verdicts[key] = checker.named(prototype)
            named = verdicts[key]
            if named is None:
                refused.append((function, prototype))
            else:
                found[address] = Found(function, prototype, named)
        selects = is_glob(signature.name)
        if checker.type_errors and (not found or not selects):
            for error in checker.type_errors.values():
                error.report(self.bag)
            return Resolved(signature, failed=True)
        if selects:
            # Nothing is known of these, and many functions have the name: they are not meant.
            found = {address: each for address, each in found.items() if each.prototype is not None}
        if not found and not (selects and negative):
            from klasy.match import signature_help

            signature_help.report_contradiction(self, signature, checker, refused, len(functions))
            return Resolved(signature, failed=True)
        if unverified and not negative and not selects:
            names = ", ".join(dict.fromkeys(str(function) for function in unverified))
            self.bag.warning(
                "unverified-signature",
                f"the kernel has no type information for {names}: this signature is taken on trust",
                signature.span,
            )
        bases = {(f.function.base, f.function.module) for f in found.values()}
        lies_in = {f.address: f for f in functions if (f.base, f.module) in bases}
        return Resolved(signature, found, lies_in)
