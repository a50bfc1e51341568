"""What is known of types before any instruction is looked at: prototypes, per-CPU variables, assembly's manners."""

from __future__ import annotations

from functools import cached_property

from klasy.btf.types import Const, Enum, FuncProto, Int, Ptr, Struct
from klasy.btf.walk import find_member
from klasy.flow import cfg
from klasy.flow import decode as d
from klasy.flow.members import Types
from klasy.kernel.arch_x86_64 import LONGEST_STRUCT_IN_REGISTERS
from klasy.kernel.kallsyms import clone_of
from klasy.kernel.model import Clone
from klasy.plain import TYPE_CHECKING, dataclass, replace

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.kernel.image import KernelImage

_WORD = 8
_LARGEST_FILLED = 512  # bytes of a variable that its callee may fill; larger ones are not on the stack as a whole
CALLER_SAVED = (d.AX, d.CX, d.DX, d.SI, d.DI, 8, 9, 10, 11)

# Assembly that the compiler is told to change fewer registers than a call does. arch/x86/lib/{get,put}user.S,
# arch/x86/entry/thunk_64.S, arch/x86/lib/hweight.S
_GENTLE = {
    "__get_user_": (d.AX, d.CX, d.DX),
    "__put_user_": (d.AX, d.BX, d.CX),
    "preempt_schedule_thunk": (),
    "preempt_schedule_notrace_thunk": (),
    "__sw_hweight": (d.AX,),
    "__raw_callee_save_": (d.AX,),
    "__fentry__": (),
    "copy_user_generic": (d.AX, d.CX, d.DX, d.SI, d.DI, 8, 9, 10, 11),
    "clear_page_": (d.AX, d.CX, d.DI),
    "rep_stos_alternative": (d.AX, d.CX, d.DI),
    "rep_movs_alternative": (d.AX, d.CX, d.DX, d.SI, d.DI, 8, 9, 10, 11),
    "this_cpu_cmpxchg16b_emu": (d.AX, d.DX),
    "delay_": CALLER_SAVED,
}
_GENTLE_PREFIXES = tuple(_GENTLE)


@dataclass(frozen=True, slots=True)
class Callee:
    """What a call does. ``parameters``: what the pointers in the argument registers point to, 0 where that is unknown
    or no pointer. ``kinds``: their types in BTF. ``result``: what the result points to; ``clobbers``: registers.
    ``module``: whose types they are."""

    name: str
    parameters: tuple[int, ...]
    kinds: tuple[int, ...]
    result: int
    clobbers: tuple[int, ...]
    known: bool
    module: str | None = None


class Seeds:
    """Prototypes of functions, by address. ``types_of`` the types of each object."""

    def __init__(self, kernel: KernelImage) -> None:
        self.kernel = kernel
        self._types: dict[str | None, Types] = {}
        self._callees: dict[int, Callee] = {}
        self._called_from: dict[tuple[str | None, int], Callee] = {}
        self._protos: dict[tuple[str | None, int], Callee] = {}
        self._parameters: dict[tuple[Types, int], tuple[int, int, int]] = {}
        self._filled: dict[tuple[str | None, int], tuple[int, tuple[int, ...]]] = {}

    @cached_property
    def shared_info(self) -> tuple[int, int, int, int]:
        """struct sk_buff, the offsets of ``head`` and ``end`` in it, struct skb_shared_info: the one object that the
        kernel everywhere finds by a sum, head + end (skb_end_pointer in include/linux/skbuff.h). Zeros: no such."""
        skb, info = self.by_name("sk_buff"), self.by_name("skb_shared_info")
        btf = self.types_of(None).btf
        head = find_member(btf, skb, "head") if skb else None
        end = find_member(btf, skb, "end") if skb else None
        if not info or head is None or end is None or btf.size_of(end.type_id) != 4:
            return 0, 0, 0, 0
        return skb, head.byte_offset, end.byte_offset, info

    @cached_property
    def distances(self) -> frozenset[int]:
        """Displacements of 32-bit loads that are worth remembering."""
        return frozenset((self.shared_info[2],))

    def types_of(self, module: str | None) -> Types:
        """The types of the kernel proper or of a module; the kernel's where a module has none."""
        found = self._types.get(module)
        if found is None:
            btf = self.kernel.btf if module is None else self.kernel.btf_of(module)
            base = self.types_of(None) if module is not None else None
            found = self._types[module] = Types(btf, base) if btf is not None else self.types_of(None)
        return found

    def percpu(self, types: Types) -> int:
        """The section of per-CPU variables, 0 where BTF has none."""
        from klasy.btf.types import Datasec

        found = types.btf.find(".data..percpu", Datasec)
        return found[0] if found else 0

    def callee(self, address: int) -> Callee:
        """What a call to an address does."""
        found = self._callees.get(address)
        if found is None:
            found = self._callees[address] = self._find(address)
        return found

    def called_from(self, module: str | None, address: int) -> Callee:
        """The same with what its parameters and result point to as the types of a module, which calls it, have it."""
        found = self.callee(address)
        if found.module is None or found.module == module:
            return found
        key = module, address
        if key not in self._called_from:
            theirs, ours = self.types_of(found.module), self.types_of(module)
            parameters = tuple([ours.of_other(theirs, target) for target in found.parameters])
            result = ours.of_other(theirs, found.result)
            self._called_from[key] = replace(found, parameters=parameters, result=result)
        return self._called_from[key]

    def _find(self, address: int) -> Callee:
        holder = self.kernel.object_at(address)
        index = holder[1].at(address) if holder else None
        if holder is None or index is None or holder[1].address(index) != address:
            return Callee("", (), (), 0, CALLER_SAVED, False)
        module, symbols = holder
        names = [symbols.name(index)]
        while index + 1 < len(symbols) and symbols.starts[index + 1] == symbols.starts[index]:
            index += 1
            names.append(symbols.name(index))
        for name in names:
            if name.startswith(_GENTLE_PREFIXES):
                clobbers = next(clobbers for prefix, clobbers in _GENTLE.items() if name.startswith(prefix))
                return Callee(name, (), (), 0, clobbers, True)
        btf = self.kernel.btf_of(module)
        for name in names:
            if btf is None or clone_of(name)[1] is not Clone.NONE:
                continue
            func = btf.find_one_func(name)
            if func is not None:
                return self._from_proto(module, btf.proto(func), name)
        return Callee(names[0], (), (), 0, CALLER_SAVED, False)

    def prototype(self, module: str | None, type_id: int) -> Callee:
        """What a call through a pointer to a function type does."""
        key = module, type_id
        found = self._protos.get(key)
        if found is None:
            types = self.types_of(module)
            proto = types.btf.type(type_id)
            assert isinstance(proto, FuncProto)
            found = self._protos[key] = self._from_proto(module, proto, "")
        return found

    def filled(self, callee: Callee, argument: int) -> tuple[int, tuple[int, ...]]:
        """Of a variable whose address a call is given: how many bytes it may write, and where in them pointers are."""
        if argument >= len(callee.kinds):
            return (0 if callee.known else _WORD), ()
        key = callee.module, callee.kinds[argument]
        found = self._filled.get(key)
        if found is None:
            found = self._filled[key] = self._find_filled(*key)
        return found

    def _find_filled(self, module: str | None, kind: int) -> tuple[int, tuple[int, ...]]:
        types = self.types_of(module)
        pointer = types.btf.type(kind)
        if not isinstance(pointer, Ptr):
            return _WORD, ()
        for_reading = isinstance(types.btf.type(pointer.type_id), Const)
        target = types.pointee(kind)
        if for_reading or not target:
            return (0 if for_reading else _WORD), ()
        size = types.size(target)
        if isinstance(types.btf.type(target), FuncProto) or not 0 < size <= _LARGEST_FILLED:
            return _WORD, (0,)
        return size, tuple(offset for offset in range(0, size, _WORD) if types.loaded(target, offset))

    def _from_proto(self, module: str | None, proto: FuncProto, name: str) -> Callee:
        types = self.types_of(module)
        parameters: list[int] = []
        kinds: list[int] = []
        for parameter in proto.params:
            registers, kind, target = self._parameter(types, parameter.type_id)
            if registers == 0 or len(kinds) + registers > 6:
                continue  # on the stack; further ones may still fit
            parameters += [target] + [0] * (registers - 1)
            kinds += [kind] + [0] * (registers - 1)
        result = types.pointee(proto.ret) if isinstance(types.btf.resolved(proto.ret), Ptr) else 0
        return Callee(name, tuple(parameters), tuple(kinds), result, CALLER_SAVED, True, module)

    def _parameter(self, types: Types, type_id: int) -> tuple[int, int, int]:
        """Of a parameter: how many registers it takes, its type, and what it points to, if it is a pointer."""
        key = types, type_id
        found = self._parameters.get(key)
        if found is None:
            kind = types.btf.resolve(type_id)
            target = types.pointee(type_id) if isinstance(types.btf.type(kind), Ptr) else 0
            found = self._parameters[key] = registers_of(types.btf, type_id), kind, target
        return found

    def by_name(self, name: str) -> int:
        """The struct of a name in the kernel's types, 0 where there is none or several."""
        found = self.types_of(None).btf.find(name, Struct)
        return found[0] if len(found) == 1 else 0


def registers_of(btf: Btf, type_id: int) -> int:
    """How many argument registers a parameter takes; 0: it lies on the stack, or in a vector register."""
    kind = btf.resolved(type_id)
    if isinstance(kind, Int | Enum | Ptr):
        return (btf.size_of(type_id) + 7) // 8
    if isinstance(kind, Struct):
        return (kind.size + 7) // 8 if 0 < kind.size <= LONGEST_STRUCT_IN_REGISTERS else 0
    return 0


def thunk(name: str) -> int | None:
    """The register through which a retpoline calls, if that is what a function is."""
    return d.AX if name == "__x86_indirect_thunk_array" else cfg.thunk_register(name)
