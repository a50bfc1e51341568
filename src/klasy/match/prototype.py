"""What BTF tells of a function: its prototype, where its parameters are passed, and whether a signature agrees."""

from __future__ import annotations

from klasy.btf.types import Struct
from klasy.kernel.arch_x86_64 import ARGUMENT_REGISTERS, LONGEST_STRUCT_IN_REGISTERS, WORD
from klasy.lang.ast import ParamKind
from klasy.match.plan import Argument
from klasy.match.typeref import Comparer, TypeRefError, spelled
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.btf.types import FuncProto
    from klasy.lang.ast import ParamPattern, Signature, TypeRef
    from klasy.source import Span

_REGISTERS = len(ARGUMENT_REGISTERS)


@dataclass(frozen=True, slots=True)
class Prototype:
    """What BTF tells of a function. ``borrowed``: it is that of the function of which this one is a clone.

    ``key`` is the same for functions of the same type.
    """

    btf: Btf
    func: int
    borrowed: bool
    key: tuple[int, int]

    @classmethod
    def of(cls, btf: Btf, func: int, borrowed: bool = False) -> Prototype:
        """What the BTF_KIND_FUNC of an id tells."""
        return cls(btf, func, borrowed, (id(btf), btf.func_type(func)))

    @property
    def proto(self) -> FuncProto:
        """Types of parameters and result."""
        return self.btf.proto(self.key[1])

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
class Mismatch:
    """A contradiction between a signature and a prototype."""

    code: str
    message: str
    span: Span


class Checker:
    """Compares prototypes with one signature. Types that exist nowhere are gathered in ``type_errors``."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.params = explicit_params(signature)
        self.type_errors: dict[int, TypeRefError] = {}
        self._comparer = Comparer()
        self._known: set[int] = set()

    def unverified(self) -> dict[str, Named]:
        """Where the named parameters are if the signature is right: as far as that can be told without a prototype."""
        named: dict[str, Named] = {}
        for index, pattern in enumerate(self.params or ()):
            if pattern.kind in (ParamKind.ANY_REST, ParamKind.VARIADIC):
                break
            if pattern.name:
                named[pattern.name] = Named(Argument(index), pattern.type)
        return named

    def named(self, prototype: Prototype) -> dict[str, Named] | None:
        """Where the named parameters of a function are; None if its prototype contradicts the signature."""
        btf, proto = prototype.btf, prototype.proto
        wanted = self.signature.result
        if wanted is not None and not self._same(btf, proto.ret, wanted):
            return None
        if self.params is None:
            return {}
        positions = self._place(btf, proto, 0, 0)
        if positions is None:
            return None
        return {
            pattern.name: Named(argument(btf, proto, index), pattern.type)
            for pattern, index in zip(self.params, positions, strict=True)
            if pattern.name and index >= 0
        }

    def _same(self, btf: Btf, type_id: int, ref: TypeRef) -> bool:
        try:
            same = self._comparer.same(btf, type_id, ref)
        except TypeRefError as error:
            if id(ref) not in self._known:
                self.type_errors[id(ref)] = error
            return False
        self._known.add(id(ref))
        self.type_errors.pop(id(ref), None)
        return same

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

    def _wrong_parameter(self, btf: Btf, proto: FuncProto) -> int | None:
        """The first parameter that has not the type that the signature gives it."""
        for index, (element, param) in enumerate(zip(self.params or (), proto.params, strict=False)):
            if element.kind in (ParamKind.ANY_REST, ParamKind.VARIADIC):
                return None
            if element.type is not None and not self._same(btf, param.type_id, element.type):
                return index
        return None

    def nearly(self, prototype: Prototype) -> bool:
        """Whether the first thing in which a prototype contradicts the signature is the type of a parameter."""
        btf, proto, wanted = prototype.btf, prototype.proto, self.signature.result
        if wanted is not None and not self._same(btf, proto.ret, wanted):
            return False
        fixed = sum([p.kind in (ParamKind.ONE, ParamKind.ANY_ONE) for p in self.params or ()])
        return fixed <= len(proto.params) and self._wrong_parameter(btf, proto) is not None

    def explain(self, name: str, prototype: Prototype) -> Mismatch:
        """The first thing in which a prototype contradicts the signature. ``name`` is the function's."""
        btf, proto, params = prototype.btf, prototype.proto, self.params or ()
        wanted = self.signature.result
        if wanted is not None and not self._same(btf, proto.ret, wanted):
            what = btf.c_name(proto.ret)
            returns = "returns nothing" if what == "void" else f"returns '{what}'"
            return Mismatch("wrong-result-type", f"{name} {returns}, not '{spelled(wanted)}'", wanted.span)
        count = len(proto.params)
        fixed = [p for p in params if p.kind in (ParamKind.ONE, ParamKind.ANY_ONE)]
        rest = any(p.kind is ParamKind.ANY_REST for p in params)
        span = self.signature.span
        if len(fixed) > count:
            return Mismatch(
                "too-many-parameters", f"{name} takes {_counted(count)}, not {len(fixed)}", fixed[count].span
            )
        index = self._wrong_parameter(btf, proto)
        if index is not None and (written := params[index].type) is not None:
            real = btf.c_name(proto.params[index].type_id, proto.params[index].name)
            return Mismatch(
                "wrong-parameter-type",
                f"parameter {index + 1} of {name} is '{real}', not '{spelled(written)}'",
                params[index].span,
            )
        variadic = any(p.kind is ParamKind.VARIADIC for p in params)
        if variadic and not proto.variadic:
            return Mismatch(
                "not-variadic", f"{name} is not C-variadic: '..' stands for any parameters", params[-1].span
            )
        if len(fixed) < count and not rest:
            end = params[-1].span if params else span
            return Mismatch("too-few-parameters", f"{name} takes {_counted(count)}, not {len(fixed)}", end)
        if proto.variadic and not variadic and not rest:
            return Mismatch("variadic", f"{name} is C-variadic: end its parameters with '...' (or '..' for any)", span)
        return Mismatch("wrong-parameters", f"{name} has no parameters like these", span)


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


def says_types(signature: Signature) -> bool:
    """Whether a signature says anything of types or the number of parameters."""
    params = explicit_params(signature)
    return signature.result is not None or (
        params is not None and not (params and all(p.kind is ParamKind.ANY_REST for p in params))
    )


def type_refs(signature: Signature) -> list[TypeRef]:
    """The types that a signature mentions."""
    refs = [signature.result, *(p.type for p in explicit_params(signature) or ())]
    return [ref for ref in refs if ref is not None]


def _counted(count: int) -> str:
    return {0: "no parameters", 1: "1 parameter"}.get(count, f"{count} parameters")
