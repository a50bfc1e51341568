"""Names for addresses of code, and of variables where they are asked for, looked up when a log is read."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from klasy.kernel.model import DataSymbol, Function
    from klasy.kernel.references import Reference
    from klasy.log.userspace import UserSymbols


class CodeMap(Protocol):
    """The part of a kernel model that is needed here."""

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address."""

    def data_at(self, address: int) -> DataSymbol | None:
        """The variable that holds an address."""

    def access_before(self, ip: int) -> Reference | None:
        """The instruction whose access to data left the processor at an address."""


class Symbolizer:
    """Names of what addresses lie in; remembers what it has looked up."""

    def __init__(self, code: CodeMap | None, user: UserSymbols | None = None) -> None:
        self.code = code
        self._found: dict[int, tuple[str, str, int] | None] = {}
        self._variables: dict[int, tuple[str, str, int] | None] = {}
        self._user = user

    def place(self, address: int) -> str:
        """``function+0x12`` or ``function+0x12 [module]``; hexadecimal where no function is there."""
        return _shown(self._lookup(address), address, offset=True)

    def function(self, address: int) -> str:
        """``function`` or ``function [module]``, wherever in it the address lies; hexadecimal where there is none."""
        return _shown(self._lookup(address), address, offset=False)

    def symbol(self, address: int, *, offset: bool) -> str:
        """What printk shows for ``%pS`` (with ``offset``) or ``%ps``: where no function is, the variable that is."""
        return _shown(self._lookup(address) or self._variable(address), address, offset=offset)

    def frame(self, address: int, *, returns: bool) -> tuple[str | None, int, str | None]:
        """Function, offset and module of a frame of a stack. ``returns``: it is a return address.

        A call at the very end of a function that is not to return has its return address in the next one.
        """
        function = self.code.function_at(address - returns) if self.code else None
        return (None, 0, None) if function is None else (function.name, address - function.address, function.module)

    def start(self, address: int) -> int | None:
        """Where the function begins that holds an address."""
        function = self.code.function_at(address) if self.code else None
        return None if function is None else function.address

    @property
    def user(self) -> UserSymbols:
        """Those of processes."""
        if self._user is None:
            from klasy.log.userspace import UserSymbols

            self._user = UserSymbols()
        return self._user

    def name(self, address: int) -> str:
        """What a pointer to a function is shown as: the function where it begins there, else the place."""
        found = self._lookup(address)
        return self.function(address) if found and not found[2] else self.place(address)

    def _lookup(self, address: int) -> tuple[str, str, int] | None:
        """Function, module in brackets if in one, and offset."""
        if address not in self._found:
            self._found[address] = _within(self.code.function_at(address) if self.code else None, address)
        return self._found[address]

    def _variable(self, address: int) -> tuple[str, str, int] | None:
        """Variable, module in brackets if in one, and offset."""
        if address not in self._variables:
            self._variables[address] = _within(self.code.data_at(address) if self.code else None, address)
        return self._variables[address]


def _within(symbol: Function | DataSymbol | None, address: int) -> tuple[str, str, int] | None:
    if symbol is None:
        return None
    return symbol.name, f" [{symbol.module}]" if symbol.module else "", address - symbol.address


def _shown(found: tuple[str, str, int] | None, address: int, *, offset: bool) -> str:
    if found is None:
        return f"{address:#x}"
    name, module, distance = found
    return f"{name}+{distance:#x}{module}" if offset else f"{name}{module}"
