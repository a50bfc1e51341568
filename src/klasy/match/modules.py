"""Modules' own types, of which the kernel proper has none: which module has one, and what of it is known to all.

A module's BTF goes on where the kernel's ends. What is compiled and logged goes by the kernel's types alone, so of a
module's own type only what these can say is handed on.
"""

from __future__ import annotations

from klasy.btf.types import Enum, Int, Ptr, Struct, Union
from klasy.lang.ast import TagKind
from klasy.match.datum import DataType
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.btf.types import Btf
    from klasy.kernel.image import KernelImage
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import TypeRef

_CLASSES = {TagKind.NONE: (Struct, Union), TagKind.STRUCT: (Struct,), TagKind.UNION: (Union,)}


def structs(kernel: Kernel, ref: TypeRef) -> list[tuple[str, Btf, int]]:
    """The modules that have a struct or union of a name that the kernel proper has not: each with its types and the id.
    Empty where the kernel has it, or no module that is loaded."""
    classes = _CLASSES.get(ref.tag)
    if classes is None or kernel.btf.find(ref.name, *(classes if ref.tag is not TagKind.NONE else ())):
        return []
    image: KernelImage = kernel  # type: ignore[assignment]
    found: list[tuple[str, Btf, int]] = []
    for module in filter(None, getattr(kernel, "symbols", ())):
        btf = image.btf_of(module)
        own = [each for each in btf.find(ref.name, *classes) if each >= btf.first] if btf is not None else []
        if btf is not None and own:
            found.append((module, btf, own[0]))
    return found


def as_kernels(kernel: Btf, kind: DataType) -> DataType:
    """A type as the kernel's own types say it: a number of the same size, an address, or else so many bytes."""
    for type_id in (kind.type_id, kind.btf.resolve(kind.type_id)):
        if type_id < kind.btf.first:
            return DataType(kernel, type_id)
    found = kind.resolved
    if isinstance(found, Ptr):
        return DataType(kernel, 0, 1)
    if isinstance(found, Int | Enum):
        for type_id in kernel.find(
            {1: "unsigned char", 2: "short unsigned int", 4: "unsigned int"}.get(kind.size, "long unsigned int"), Int
        ):
            return DataType(kernel, type_id)
    (byte, *_) = kernel.find("unsigned char", Int)
    return DataType(kernel, byte, counts=(kind.size,))
