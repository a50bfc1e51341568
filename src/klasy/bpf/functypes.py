"""The types of a program's functions, without which the kernel takes none of them as a helper's callback.

What it wants of them is that there is one for each: all are told as ``static int f(void)``.
"""

from __future__ import annotations

import struct

from klasy.bpf import sys
from klasy.bpf import uapi as u
from klasy.bpf.sys import Buffer, Descriptor
from klasy.btf.types import Func, FuncProto, Int
from klasy.btf.write import write
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.bpf.assembled import Assembled

_LOAD = struct.Struct("<QQIII4x")  # union bpf_attr of BPF_BTF_LOAD
_ROW = struct.Struct("<II")  # struct bpf_func_info: the first slot, the id of the type
ROW_BYTES = _ROW.size
_MAIN = "main"  # the program as a whole, at slot 0, which has no name


class FunctionTypes(Descriptor):
    """BTF in the kernel that describes the functions of a program. ``rows``: which begins at which instruction."""

    def __init__(self, code: Assembled) -> None:
        functions = ((_MAIN, 0), *code.subprograms)
        types = [Int("int", 4, signed=True), FuncProto(1, ()), *(Func(name, 2) for name, _ in functions)]
        data = Buffer(write(types))
        attributes = Buffer(_LOAD.pack(data.address, 0, data.size, 0, 0))
        super().__init__(sys.bpf(u.BPF_BTF_LOAD, attributes, "loading the types of a program's functions"))
        self.number = len(functions)
        self.rows = Buffer(b"".join(_ROW.pack(slot, 3 + place) for place, (_, slot) in enumerate(functions)))
