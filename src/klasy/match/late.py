"""A dictionary of all functions there are, whose entries are made when they are asked for.

``call(*) && within(f)`` means any function, and a few are called there: to make objects of tens of thousands takes
more than a second in an emulated guest.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
    from typing import TypeVar

    T = TypeVar("T")
else:
    T = object


class Late(dict[int, T]):
    """What is at each address. ``find`` tells of one (None: nothing), ``fill`` of all; nothing may be taken out.

    Without ``find`` all are made at the first question.
    """

    def __init__(self, fill: Callable[[], dict[int, T]], find: Callable[[int], T | None] | None = None) -> None:
        self._fill = fill
        self._find = find
        self._whole = False

    def __contains__(self, address: object) -> bool:
        return self._at(address) is not None

    def __getitem__(self, address: int) -> T:
        found = self._at(address)
        if found is None:
            raise KeyError(address)
        return found

    def get(self, address: int, default: T | None = None) -> T | None:  # type: ignore[override]  # one of its forms
        """What is at an address, or else ``default``."""
        found = self._at(address)
        return default if found is None else found

    def _at(self, address: object) -> T | None:
        assert isinstance(address, int)
        found = dict.get(self, address)
        if found is None and not self._whole:
            if self._find is None:
                return dict.get(self.all(), address)
            found = self._find(address)
            if found is not None:
                dict.__setitem__(self, address, found)
        return found

    def all(self) -> dict[int, T]:
        """Itself, with everything there is."""
        if not self._whole:
            self._whole = True
            made = self._fill()
            made.update(dict.items(self))  # who asked before has these
            dict.clear(self)
            dict.update(self, made)
        return self

    def __len__(self) -> int:
        return dict.__len__(self.all())

    def __iter__(self) -> Iterator[int]:
        return dict.__iter__(self.all())

    def keys(self) -> KeysView[int]:  # type: ignore[override]  # what the checker calls dict_keys is one
        """All addresses."""
        return dict.keys(self.all())

    def values(self) -> ValuesView[T]:  # type: ignore[override]
        """What is at all of them."""
        return dict.values(self.all())

    def items(self) -> ItemsView[int, T]:  # type: ignore[override]
        """Both."""
        return dict.items(self.all())
