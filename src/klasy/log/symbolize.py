"""Names for code addresses, looked up when a log is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from klasy.kernel.model import Function


class CodeMap(Protocol):
    """The part of a kernel model that is needed here."""

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address."""


class Symbolizer:
    """Turns addresses into ``function+0x12`` or ``function+0x12 [module]``; remembers what it has looked up."""

    def __init__(self, code: CodeMap | None) -> None:
        self._code = code
        self._names: dict[int, str] = {}

    def name(self, address: int) -> str:
        """The address as a person reads it; hexadecimal where no function is there."""
        found = self._names.get(address)
        if found is None:
            found = self._names[address] = self._lookup(address)
        return found

    def exact(self, address: int) -> str | None:
        """The name of the function that begins at the address, or None."""
        function = self._code.function_at(address) if self._code else None
        return str(function) if function and function.address == address else None

    def _lookup(self, address: int) -> str:
        function = self._code.function_at(address) if self._code else None
        if function is None:
            return f"{address:#x}"
        module = f" [{function.module}]" if function.module else ""
        return f"{function.name}+{address - function.address:#x}{module}"
