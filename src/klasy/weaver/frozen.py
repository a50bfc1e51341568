"""Objects of klasy's plain classes as data that ``marshal`` can write, and back.

An object is a tuple: the number of its class, then what the class is called with to make it again. A tuple is a list;
dictionaries and all else are themselves. What is shared stays shared. An object of a class that adds no fields to those
of its base, but other ways to come by them, comes back as one of the base.
"""

from __future__ import annotations

import sys

from klasy import plain
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_THEMSELVES = (int, float, str, bytes, bool, type(None))


class Freezer:
    """Makes data of objects; of those of the class ``absent`` it makes None. TypeError for what it does not know."""

    def __init__(self, absent: type) -> None:
        self._absent = absent
        self._numbers: dict[type, int] = {}
        self._done: dict[int, tuple[object, Any]] = {}  # by id; each object is held, so that its id stays its own

    def classes(self) -> list[tuple[str, str]]:
        """Module and name of each class of the objects so far, by its number."""
        return [(cls.__module__, cls.__qualname__) for cls in self._numbers]

    def freeze(self, value: Any) -> Any:
        """The data of a value."""
        cls = type(value)
        if cls in _THEMSELVES:
            return value
        if cls is self._absent:
            return None
        if id(value) not in self._done:
            self._done[id(value)] = value, self._data(cls, value)
        return self._done[id(value)][1]

    def _data(self, cls: type, value: Any) -> Any:
        if cls is tuple:
            return list(map(self.freeze, value))
        if cls is dict:
            return {key: self.freeze(item) for key, item in value.items()}
        cls = next((base for base in cls.__mro__ if "__plain_fields__" in base.__dict__), cls)
        parts = _parts(cls, value)
        number = self._numbers.setdefault(cls, len(self._numbers))
        return (number, *map(self.freeze, parts))


def _parts(cls: Any, value: Any) -> Sequence[Any]:
    """What a class is to be called with to make an object of it again."""
    if hasattr(cls, "__plain_fields__"):
        return [getattr(value, field.name) for field in cls.__plain_fields__]
    if isinstance(value, plain.Enum):
        return (value.value,)
    if isinstance(value, tuple):
        return value
    raise TypeError(f"a {cls.__qualname__} cannot be frozen")


class Thawer:
    """Makes objects of data again; raises ImportError, AttributeError, TypeError, KeyError or IndexError for others."""

    def __init__(self, classes: Sequence[tuple[str, str]]) -> None:
        self._classes = [_find(module, name) for module, name in classes]
        self._done: dict[int, Any] = {}  # by the id of the data, which the caller holds

    def thaw(self, data: Any) -> Any:
        """What was frozen."""
        cls = type(data)
        if cls is not tuple and cls is not list and cls is not dict:
            return data
        if id(data) not in self._done:
            self._done[id(data)] = self._object(cls, data)
        return self._done[id(data)]

    def _object(self, cls: type, data: Any) -> Any:
        if cls is list:
            return tuple(map(self.thaw, data))
        if cls is dict:
            return {key: self.thaw(item) for key, item in data.items()}
        return self._classes[data[0]](*map(self.thaw, data[1:]))


def _find(module: str, name: str) -> Any:
    if not module.startswith("klasy."):
        raise ImportError(f"{module} is not of klasy")
    __import__(module)
    found = getattr(sys.modules[module], name)
    if not isinstance(found, type):
        raise TypeError(f"{name} is no class")
    return found
