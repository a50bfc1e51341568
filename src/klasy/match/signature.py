"""A signature against the functions of a kernel: which match, where their parameters are passed, and what is wrong.

A name without wildcards names one function of the kernel: what else the signature says of it must then be true, and
is an error, with the real prototype, where it is not. With wildcards the types select among the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.btf.types import Func, Struct
from klasy.kernel.arch_x86_64 import ARGUMENT_REGISTERS, LONGEST_STRUCT_IN_REGISTERS, WORD
from klasy.kernel.model import Clone
from klasy.lang.ast import ParamKind
from klasy.match.glob import is_glob, star
from klasy.match.plan import Argument
from klasy.match.typeref import TypeRefError, find_base, same_as, same_type, spelled
from klasy.plain import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.btf.types import Btf, FuncProto
    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function, Kernel
    from klasy.lang.ast import ParamPattern, Signature, TypeRef
    from klasy.source import Span

# Clones whose parameters need not be those of the source: what is passed, and where, is known to the compiler alone.
ALTERED = frozenset({Clone.CONSTPROP, Clone.ISRA, Clone.PART})

_REGISTERS = len(ARGUMENT_REGISTERS)
_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Prototype:
    """What BTF tells of a function. ``borrowed``: it is that of the function of which this one is a clone."""

    btf: Btf
    func: int
    borrowed: bool

    @property
    def key(self) -> tuple[int, int]:
        """The same for functions of the same type."""
        found = self.btf.type(self.func)
        return id(self.btf), found.type_id if isinstance(found, Func) else self.func

    @property
    def proto(self) -> FuncProto:
        """Types of parameters and result."""
        return self.btf.proto(self.func)

    @property
    def text(self) -> str:
        """It as C writes it."""
        return self.btf.c_prototype(self.func)


@dataclass(frozen=True, slots=True)
class Named:
    """A parameter that the signature names: where it is passed, and its type as written there (None: any)."""

    argument: Argument
    type: TypeRef | None


@dataclass(frozen=True, slots=True)
class Found:
    """One function that a signature matches. ``prototype`` None: what it says of types could not be verified."""

    function: Function
    prototype: Prototype | None
    named: Mapping[str, Named]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The outcome for one signature.

    ``found`` are by address, without ``.cold`` pieces, which are no functions; ``lies_in`` are the addresses of all
    functions, pieces included, whose text counts as that of a matching function. ``failed``: an error was reported.
    """

    signature: Signature
    found: dict[int, Found] = field(default_factory=dict)
    lies_in: dict[int, Function] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class _Mismatch:
    """A contradiction between a signature and a prototype."""

    code: str
    message: str
    span: Span


class Signatures:
    """Resolves signatures, each once."""

    def __init__(self, kernel: Kernel, bag: DiagnosticBag) -> None:
        self.kernel = kernel
        self.bag = bag
        self._resolved: dict[Signature, Resolved] = {}
        self._named: dict[str, list[Function]] = {}
        self._prototypes: dict[tuple[int, str], int | None] = {}

    def functions(self, name: str) -> list[Function]:
        """The functions, clones and pieces included, of a name with wildcards."""
        pattern = star(name)
        if pattern not in self._named:
            self._named[pattern] = self.kernel.functions(pattern)
        return self._named[pattern]

    def resolve(self, signature: Signature, negative: bool = False) -> Resolved:
        """What a signature matches; errors go to the bag, once.

        ``negative``: it stands under ``!``, where types that match nothing and wildcards that do are harmless.
        """
        resolved = self._resolved.get(signature)
        if resolved is None:
            resolved = self._resolved[signature] = self._resolve(signature, negative)
        return resolved

    def _resolve(self, signature: Signature, negative: bool) -> Resolved:
        functions = self.functions(signature.name)
        if not functions:
            if negative and is_glob(signature.name):
                self.bag.warning(
                    "empty-exclusion",
                    f"no function matches '{signature.name}', so this excludes nothing",
                    signature.span,
                )
                return Resolved(signature)
            self._report_unknown(signature)
            self._check_types_exist(signature)
            return Resolved(signature, failed=True)
        entries = [f for f in functions if f.clone is not Clone.COLD]
        if not _says_types(signature):
            found = {f.address: Found(f, None, {}) for f in entries}
            return Resolved(signature, found, {f.address: f for f in functions})
        return self._select(signature, functions, entries, negative)

    # --- types

    def prototype(self, function: Function) -> Prototype | None:
        """What BTF tells of a function, or of the one of which it is a clone."""
        btf = function.btf
        if btf is not None and function.proto is not None:
            return Prototype(btf, function.proto, False)
        if function.clone is Clone.NONE:
            return None
        btf = btf or (self.kernel.btf if function.module is None else self.kernel.module_btf(function.module))
        if btf is None:
            return None
        key = id(btf), function.base
        if key not in self._prototypes:
            self._prototypes[key] = btf.find_func(function.base)
        func = self._prototypes[key]
        return Prototype(btf, func, True) if func is not None else None

    def _select(
        self, signature: Signature, functions: list[Function], entries: list[Function], negative: bool
    ) -> Resolved:
        """The functions whose prototypes agree with the types that the signature gives."""
        verdicts: dict[tuple[int, int], tuple[_Mismatch | None, Mapping[str, Named]]] = {}
        found: dict[int, Found] = {}
        refused: list[tuple[Function, Prototype, _Mismatch]] = []
        unverified: list[Function] = []
        checker = _Checker(signature)
        for function in entries:
            prototype = self.prototype(function)
            if prototype is None:
                unverified.append(function)
                found[function.address] = Found(function, None, checker.unverified())
                continue
            verdict = verdicts.get(prototype.key)
            if verdict is None:
                verdict = verdicts[prototype.key] = checker.check(function, prototype)
            mismatch, named = verdict
            if mismatch is None:
                found[function.address] = Found(function, prototype, named)
            else:
                refused.append((function, prototype, mismatch))
        if checker.type_errors and (not found or not is_glob(signature.name)):
            for error in checker.type_errors.values():
                error.report(self.bag)
            return Resolved(signature, failed=True)
        if is_glob(signature.name):
            # Nothing is known of these, and many functions have the name: they are not meant.
            for function in unverified:
                del found[function.address]
            if not found and not negative:
                self._report_none_selected(signature, len(functions), refused)
                return Resolved(signature, failed=True)
        elif not found:
            self._report_contradiction(signature, refused)
            return Resolved(signature, failed=True)
        elif unverified and not negative:
            names = ", ".join(dict.fromkeys(str(f) for f in unverified[:_MOST_SHOWN]))
            self.bag.warning(
                "unverified-signature",
                f"the kernel has no type information for {names}: this signature is taken on trust",
                signature.span,
            )
        bases = {(f.function.base, f.function.module) for f in found.values()}
        lies_in = {f.address: f for f in functions if (f.base, f.module) in bases}
        return Resolved(signature, found, lies_in)

    def _check_types_exist(self, signature: Signature) -> None:
        """Report the types of a signature that do not exist, where its function does not exist either."""
        if not _says_types(signature):
            return
        btf = self.kernel.btf
        for ref in _type_refs(signature):
            if not is_glob(ref.name):
                try:
                    find_base(btf, ref)
                except TypeRefError as error:
                    error.report(self.bag)

    # --- messages

    def _report_unknown(self, signature: Signature) -> None:
        from klasy.match.near import near

        name = signature.name
        hints = []
        other = self._other_reading(signature)
        if other:
            hints.append(other)
        if is_glob(name):
            close = near(star(name).strip("*").strip("_"), self.kernel.function_names())
            message = f"no function of this kernel matches '{name}'"
        else:
            close = near(name, self.kernel.function_names())
            known = self.kernel.why_absent(name)
            message = (
                f"there is no function '{name}' to weave into" if known else f"this kernel has no function '{name}'"
            )
            if known:
                hints.append(f"'{name}': {known}")
        if close:
            hints.append(f"did you mean {_quoted(close)}?")
            hints += [f"the kernel has '{text}'" for text in self._texts(close)]
        self.bag.error("unknown-function", message, signature.span, hints=hints)

    def _texts(self, names: Sequence[str]) -> list[str]:
        """Prototypes of functions by their names, as far as known."""
        texts = []
        for name in names:
            for function in self.functions(name):
                prototype = self.prototype(function) if function.btf is not None else None
                if prototype is not None:
                    texts.append(prototype.text)
                    break
        return texts

    def _other_reading(self, signature: Signature) -> str | None:
        """A hint where the second reading of a ``*`` would match."""
        other = signature.other
        if other is None:
            return None
        quiet = Signatures(self.kernel, type(self.bag)())
        found = quiet.resolve(other)
        if found.failed or not found.found:
            return None
        names = list(dict.fromkeys(f.function.base for f in found.found.values()))
        count = f"{len(names)} functions match" if len(names) > 1 else "it matches"
        shown = ", ".join(names[:_MOST_SHOWN]) + (", .." if len(names) > _MOST_SHOWN else "")
        return f"read as {_reading(other)}, {count} ({shown}): write {_unambiguous(other)} for that"

    def _report_contradiction(
        self, signature: Signature, refused: Sequence[tuple[Function, Prototype, _Mismatch]]
    ) -> None:
        mismatches = {(m.code, m.message): m for _, _, m in refused}
        texts = list(dict.fromkeys(prototype.text for _, prototype, _ in refused))
        hints = [f"its prototype is '{text}'" for text in texts[:_MOST_SHOWN]]
        if len(texts) > _MOST_SHOWN:
            hints.append(f"and {len(texts) - _MOST_SHOWN} other functions have that name")
        other = self._other_reading(signature)
        if other:
            hints.append(other)
        first = next(iter(mismatches.values()))
        self.bag.error(first.code, first.message, first.span, hints=hints)

    def _report_none_selected(
        self, signature: Signature, count: int, refused: Sequence[tuple[Function, Prototype, _Mismatch]]
    ) -> None:
        ranked = sorted(refused, key=lambda r: (r[2].code != "wrong-parameter-type", len(r[0].name)))
        texts = list(dict.fromkeys(prototype.text for _, prototype, _ in ranked))
        hints = [f"one of them is '{text}'" for text in texts[:_MOST_SHOWN]]
        other = self._other_reading(signature)
        if other:
            hints.append(other)
        self.bag.error(
            "matches-nothing",
            f"{count} function{'s match' if count != 1 else ' matches'} '{signature.name}', "
            "but none has parameters and a result of these types",
            signature.span,
            hints=hints,
        )


class _Checker:
    """Compares prototypes with one signature. Types that exist nowhere are gathered in ``type_errors``."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.params = explicit_params(signature)
        self.type_errors: dict[int, TypeRefError] = {}
        self._bases: dict[tuple[int, int], int | None] = {}
        self._known: set[int] = set()
        self._compared: dict[tuple[int, int, int], bool] = {}

    def unverified(self) -> dict[str, Named]:
        """Where the named parameters are if the signature is right: as far as that can be told without a prototype."""
        named: dict[str, Named] = {}
        for index, pattern in enumerate(self.params or ()):
            if pattern.kind in (ParamKind.ANY_REST, ParamKind.VARIADIC):
                break
            if pattern.name:
                named[pattern.name] = Named(Argument(index), pattern.type)
        return named

    def check(self, function: Function, prototype: Prototype) -> tuple[_Mismatch | None, Mapping[str, Named]]:
        """What contradicts, or None and where the named parameters are."""
        signature, btf, proto = self.signature, prototype.btf, prototype.proto
        wanted = signature.result
        if wanted is not None and not self._same(btf, proto.ret, wanted):
            what = btf.c_name(proto.ret)
            returns = "returns nothing" if what == "void" else f"returns '{what}'"
            return _Mismatch(
                "wrong-result-type", f"{function.base} {returns}, not '{spelled(wanted)}'", wanted.span
            ), {}
        if self.params is None:
            return None, {}
        positions = self._place(btf, proto, 0, 0)
        if positions is None:
            return self._explain(function, btf, proto), {}
        named: dict[str, Named] = {}
        for pattern, index in zip(self.params, positions, strict=True):
            if pattern.name and index >= 0:
                named[pattern.name] = Named(argument(btf, proto, index), pattern.type)
        return None, named

    def _same(self, btf: Btf, type_id: int, ref: TypeRef) -> bool:
        key = id(btf), type_id, id(ref)
        if key not in self._compared:
            self._compared[key] = self._compare(btf, type_id, ref)
        return self._compared[key]

    def _compare(self, btf: Btf, type_id: int, ref: TypeRef) -> bool:
        if is_glob(ref.name):
            return same_type(btf, type_id, ref)
        key = id(btf), id(ref)
        if key not in self._bases:
            try:
                self._bases[key] = find_base(btf, ref)
                self._known.add(id(ref))
                self.type_errors.pop(id(ref), None)
            except TypeRefError as error:
                self._bases[key] = None
                if id(ref) not in self._known:
                    self.type_errors[id(ref)] = error
        base = self._bases[key]
        return base is not None and same_as(btf, type_id, ref, base)

    def _place(self, btf: Btf, proto: FuncProto, pattern: int, param: int) -> list[int] | None:
        """For each element of the parameter list from one on, the index of its parameter (-1: none), leftmost first."""
        params = self.params or ()
        if pattern == len(params):
            return [] if param == len(proto.params) and not proto.variadic else None
        element = params[pattern]
        if element.kind is ParamKind.ANY_REST:
            if pattern + 1 == len(params):
                return [-1]
            for start in range(param, len(proto.params) + 1):
                rest = self._place(btf, proto, pattern + 1, start)
                if rest is not None:
                    return [-1, *rest]
            return None
        if element.kind is ParamKind.VARIADIC:
            return [-1] if param == len(proto.params) and proto.variadic else None
        if param == len(proto.params):
            return None
        if element.type is not None and not self._same(btf, proto.params[param].type_id, element.type):
            return None
        rest = self._place(btf, proto, pattern + 1, param + 1)
        return None if rest is None else [param, *rest]

    def _explain(self, function: Function, btf: Btf, proto: FuncProto) -> _Mismatch:
        """The first thing in which the parameters differ."""
        name, params = function.base, self.params or ()
        count = len(proto.params)
        fixed = [p for p in params if p.kind in (ParamKind.ONE, ParamKind.ANY_ONE)]
        rest = any(p.kind is ParamKind.ANY_REST for p in params)
        span = self.signature.span
        if len(fixed) > count:
            return _Mismatch(
                "too-many-parameters", f"{name} takes {_counted(count)}, not {len(fixed)}", fixed[count].span
            )
        for index, element in enumerate(params):
            if element.kind in (ParamKind.ANY_REST, ParamKind.VARIADIC) or index == count:
                break
            type_id = proto.params[index].type_id
            if element.type is not None and not self._same(btf, type_id, element.type):
                real = btf.c_name(type_id, proto.params[index].name)
                return _Mismatch(
                    "wrong-parameter-type",
                    f"parameter {index + 1} of {name} is '{real}', not '{spelled(element.type)}'",
                    element.span,
                )
        variadic = any(p.kind is ParamKind.VARIADIC for p in params)
        if variadic and not proto.variadic:
            return _Mismatch(
                "not-variadic", f"{name} is not C-variadic: '..' stands for any parameters", params[-1].span
            )
        if len(fixed) < count and not rest:
            end = params[-1].span if params else span
            return _Mismatch("too-few-parameters", f"{name} takes {_counted(count)}, not {len(fixed)}", end)
        if proto.variadic and not variadic and not rest:
            return _Mismatch("variadic", f"{name} is C-variadic: end its parameters with '...' (or '..' for any)", span)
        return _Mismatch("wrong-parameters", f"{name} has no parameters like these", span)


def argument(btf: Btf, proto: FuncProto, index: int) -> Argument:
    """Where a function gets a parameter, by the kernel's calling convention."""
    slot = registers = stack = 0
    plain = True
    for number, param in enumerate(proto.params):
        found = btf.resolved(param.type_id)
        words = max(1, -(-btf.size_of(param.type_id) // WORD))
        by_value = isinstance(found, Struct)
        plain &= not by_value
        in_registers = registers + words <= _REGISTERS and WORD * words <= LONGEST_STRUCT_IN_REGISTERS
        if number == index:
            return (
                Argument(index) if plain else Argument(index, slot, registers if in_registers else _REGISTERS + stack)
            )
        if in_registers:
            registers += words
        else:
            stack += words
        slot += words
    raise IndexError(f"parameter {index} of {len(proto.params)}")


def argument_words(btf: Btf, proto: FuncProto) -> int:
    """How many 8-byte words the arguments take: what a BPF trampoline must save."""
    return sum(max(1, -(-btf.size_of(param.type_id) // WORD)) for param in proto.params)


def explicit_params(signature: Signature) -> tuple[ParamPattern, ...] | None:
    """The parameter list, with ``(void)`` as the empty one."""
    params = signature.params
    if params and len(params) == 1:
        only = params[0]
        ref = only.type
        if only.kind is ParamKind.ONE and ref and ref.name == "void" and not ref.pointers and not only.name:
            return ()
    return params


def _says_types(signature: Signature) -> bool:
    params = explicit_params(signature)
    return signature.result is not None or (
        params is not None and not (params and all(p.kind is ParamKind.ANY_REST for p in params))
    )


def _type_refs(signature: Signature) -> list[TypeRef]:
    refs = [signature.result, *(p.type for p in explicit_params(signature) or ())]
    return [ref for ref in refs if ref is not None]


def _counted(count: int) -> str:
    return {0: "no parameters", 1: "1 parameter"}.get(count, f"{count} parameters")


def _quoted(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _reading(signature: Signature) -> str:
    result = "any type" if signature.result is None else f"type '{spelled(signature.result)}'"
    return f"{result} and name '{signature.name}'"


def _unambiguous(signature: Signature) -> str:
    """A spelling of a signature's head with one reading: ``%`` is a wildcard everywhere."""
    name = signature.name.replace("*", "%")
    return f"'{name}'" if signature.result is None else f"'{spelled(signature.result)} {name}'"
