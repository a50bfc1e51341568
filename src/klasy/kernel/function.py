"""Functions as ``KernelImage`` has them."""

from __future__ import annotations

from klasy.kernel.kallsyms import clone_of
from klasy.kernel.model import Clone, Function
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from klasy.btf.btf import Btf
    from klasy.kernel.image import KernelImage
    from klasy.kernel.kallsyms import Symbols


class KernelFunction(Function):
    """A function of a ``KernelImage``.

    Its names and its prototype are looked up when asked for: of the thousands of callers of a function most are only
    counted.
    """

    __slots__ = ("_index", "_kernel", "_symbols")
    _index: int
    _kernel: KernelImage
    _symbols: Symbols

    def __init__(
        self, kernel: KernelImage, module: str | None, symbols: Symbols, index: int, name: str | None = None
    ) -> None:
        _set_kernel(self, kernel)
        _set_symbols(self, symbols)
        _set_index(self, index)
        _set_address(self, symbols.base + symbols.starts[index])
        _set_size(self, symbols.sizes[index])
        _set_module(self, module)
        if name is not None:
            _set_name(self, name)
            if "." not in name:
                _set_base(self, name)
                _set_clone(self, Clone.NONE)

    def __getattr__(self, attribute: str) -> Any:
        """What was not looked up so far: this is called where a slot is empty."""
        if attribute == "name":
            found: object = self._symbols.name(self._index)
        elif attribute == "duplicates":
            found = self._symbols.shares[self._index]
        elif attribute == "proto":
            found = self._kernel.find_proto(self)
        elif attribute in ("base", "clone"):
            base, clone = clone_of(self.name)
            found = base if attribute == "base" else clone
        else:
            raise AttributeError(attribute)
        object.__setattr__(self, attribute, found)
        return found

    @property
    def first(self) -> tuple[Symbols, int]:
        """Its place in its object's table, or that of the first of several names that it has."""
        return self._symbols, self._symbols.first_at(self._index)

    @property
    def btf(self) -> Btf | None:
        """The types its prototype is among."""
        return self._kernel.btf_of(self.module)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelFunction) and (self.address, self.name) == (other.address, other.name)

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"KernelFunction({self} at {self.address:#x}, {self.size} bytes)"


# The slots' own way to be set; the class lets nothing be changed.
_set_kernel = KernelFunction.__dict__["_kernel"].__set__
_set_symbols = KernelFunction.__dict__["_symbols"].__set__
_set_index = KernelFunction.__dict__["_index"].__set__
_set_address, _set_size, _set_module = (Function.__dict__[name].__set__ for name in ("address", "size", "module"))
_set_name, _set_base, _set_clone = (Function.__dict__[name].__set__ for name in ("name", "base", "clone"))
