"""``dataclass``, ``NamedTuple``, ``Enum`` and the like, without the standard library's import cost.

The standard decorator compiles five methods for each class when its module is imported and pulls in ``inspect``:
some hundred classes cost a third of the time that a weave may take, and ``typing`` alone another tenth. Here
``__init__`` is compiled when some objects of a class have been made, and the other methods are shared by all classes.
``enum``, ``functools`` and ``contextlib`` bring ``collections`` and a dozen others with them, another tenth, for what
takes some lines: what is here does what its name says in the standard library, as far as klasy uses it.
``re`` needs all of these and compiles in Python; :func:`pattern` does without where the pack holds what it compiled.
Type checkers take all of it for what it stands for: to them ``TYPE_CHECKING`` is true, whoever defines it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator
    from contextlib import contextmanager as contextmanager  # noqa: PLC0414
    from contextlib import suppress as suppress  # noqa: PLC0414
    from enum import Enum as Enum  # noqa: PLC0414
    from enum import IntEnum as IntEnum  # noqa: PLC0414
    from functools import cache as cache  # noqa: PLC0414
    from functools import cached_property as cached_property  # noqa: PLC0414
    from operator import attrgetter
    from typing import Any, AnyStr, Self, TypeVar, dataclass_transform
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414
    from typing import Protocol as Protocol  # noqa: PLC0414

    T = TypeVar("T")
else:
    from _collections import _tuplegetter
    from _operator import attrgetter

    Protocol = object

    def dataclass_transform(**_: object) -> object:
        """Only type checkers need the real one."""
        return lambda f: f


_MISSING = object()


class _Field:
    """What ``field()`` leaves in the class body."""

    __slots__ = ("compare", "default", "default_factory", "name", "repr")

    def __init__(self, default: Any, default_factory: Callable[[], Any] | None, compare: bool, repr: bool) -> None:
        self.name = ""
        self.default = default
        self.default_factory = default_factory
        self.compare = compare
        self.repr = repr


def field(
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    compare: bool = True,
    repr: bool = True,
) -> Any:
    """Say more of a field: its default, and whether it counts in comparison and is shown."""
    return _Field(default, default_factory, compare, repr)


@dataclass_transform(field_specifiers=(field,))
def dataclass(*parts: Any, frozen: bool = False, slots: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """A class decorator: fields from the annotations; ``frozen`` ones cannot be set and, with ``eq``, can be hashed.

    :func:`klasy.pack.lean` makes a metaclass of it, called with the three ``parts`` of a class. A class that is
    complete when it is made costs half of one that is changed afterwards, or with ``slots`` even made twice.
    """
    if parts:
        name, bases, body = parts
        _complete(bases, body, frozen, slots, eq)
        return type(name, bases, body)

    def decorate(cls: Any) -> Any:
        body = {k: v for k, v in cls.__dict__.items() if k not in ("__dict__", "__weakref__")}
        before = dict(body)
        _complete(cls.__bases__, body, frozen, slots, eq)
        if slots:
            return type(cls)(cls.__name__, cls.__bases__, body)
        for key in before.keys() - body.keys():
            delattr(cls, key)
        for key, value in body.items():
            if before.get(key, _MISSING) is not value:
                setattr(cls, key, value)
        return cls

    return decorate


def _complete(bases: tuple[Any, ...], body: dict[str, Any], frozen: bool, slots: bool, eq: bool) -> None:
    """Add to the body of a class what makes it one of ours."""
    fields: dict[str, _Field] = {}
    for base in reversed(bases):
        for inherited in getattr(base, "__plain_fields__", ()):
            fields[inherited.name] = inherited
    new = [name for name in body.get("__annotations__", ()) if name not in fields] if slots else ()
    for name, annotation in body.get("__annotations__", {}).items():
        if str(annotation).startswith("ClassVar"):
            continue
        entry = body.get(name, _MISSING)
        if not isinstance(entry, _Field):
            entry = _Field(entry, None, True, True)
        elif entry.default is not _MISSING:
            body[name] = entry.default
        else:
            del body[name]
        entry.name = name
        fields[name] = entry
        if slots:
            body.pop(name, None)
    if slots:
        body["__slots__"] = tuple(name for name in new if name in fields)
    ordered = tuple(fields.values())
    body["__plain_fields__"] = ordered
    body["__match_args__"] = tuple(fields)
    body["__init__"] = _first_init(ordered, frozen)
    body.setdefault("__repr__", _repr)
    if eq and "__eq__" not in body:
        body["__eq__"] = _eq
        body["__hash__"] = _hash if frozen else None
    if frozen:
        body["__setattr__"] = body["__delattr__"] = _refuse
        if slots:
            body["__reduce__"] = _reduce  # the default way to unpickle sets the slots one by one


_FEW = 40  # objects of a class: to compile a method for it takes as long as to make some hundred without


def _first_init(fields: tuple[_Field, ...], frozen: bool) -> Callable[..., None]:
    """An ``__init__`` for any fields. When it has been called often, it compiles one for these, which takes its place.

    The compiled one is for wrong arguments, too: it knows what to say.
    """
    left = _FEW

    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0 and _fill(self, fields, args, kwargs):
            if hasattr(self, "__post_init__"):
                self.__post_init__()
            return
        cls: Any = next(base for base in type(self).__mro__ if base.__dict__.get("__init__") is __init__)
        cls.__init__ = real = _compile_init(cls, fields, frozen)
        real(self, *args, **kwargs)

    return __init__


def _fill(obj: Any, fields: tuple[_Field, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Set the fields of an object from arguments; False where these are wrong."""
    given = len(args)
    if given > len(fields):
        return False
    put = object.__setattr__
    named = 0
    for place, f in enumerate(fields):
        name = f.name
        if place < given:
            put(obj, name, args[place])
        elif name in kwargs:
            named += 1
            put(obj, name, kwargs[name])
        elif f.default_factory is not None:
            put(obj, name, f.default_factory())
        elif f.default is not _MISSING:
            put(obj, name, f.default)
        else:
            return False
    return named == len(kwargs)


def _compile_init(cls: Any, fields: tuple[_Field, ...], frozen: bool) -> Any:
    names: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": _MISSING}
    parameters = ["self"]
    body = []
    for f in fields:
        value = f.name
        if f.default_factory is not None:
            names[f"_make_{f.name}"] = f.default_factory
            parameters.append(f"{f.name}=_MISSING")
            value = f"_make_{f.name}() if {f.name} is _MISSING else {f.name}"
        elif f.default is not _MISSING:
            names[f"_default_{f.name}"] = f.default
            parameters.append(f"{f.name}=_default_{f.name}")
        else:
            parameters.append(f.name)
        body.append(f"_set(self, {f.name!r}, {value})" if frozen else f"self.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"]), names)
    init = names["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def _repr(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in self.__plain_fields__ if f.repr)
    return f"{type(self).__qualname__}({shown})"


_keys: dict[type, Callable[[Any], Any]] = {}  # by class, once asked for: what gives the fields that are compared


def _key_of(cls: Any) -> Callable[[Any], Any]:
    names = [f.name for f in cls.__plain_fields__ if f.compare]
    found = _keys[cls] = attrgetter(*names) if names else lambda _: ()
    return found


def _eq(self: Any, other: object) -> Any:
    cls = self.__class__
    if other.__class__ is not cls:
        return NotImplemented
    key = _keys.get(cls) or _key_of(cls)
    return key(self) == key(other)


def _hash(self: Any) -> int:
    cls = self.__class__
    return hash((cls, (_keys.get(cls) or _key_of(cls))(self)))


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), tuple(getattr(self, f.name) for f in self.__plain_fields__)


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise AttributeError(f"cannot change field {name!r} of a frozen {type(self).__name__}")


def replace(obj: T, **changes: Any) -> T:
    """A copy of an object with some fields changed."""
    values = {f.name: getattr(obj, f.name) for f in obj.__plain_fields__}  # type: ignore[attr-defined]
    return type(obj)(**(values | changes))


def asdict(obj: Any) -> dict[str, Any]:
    """The fields as a dictionary; objects, tuples and lists inside become dictionaries and lists too."""
    return {f.name: _as_data(getattr(obj, f.name)) for f in obj.__plain_fields__}


def _as_data(value: Any) -> Any:
    if hasattr(value, "__plain_fields__"):
        return asdict(value)
    if isinstance(value, tuple | list):
        return [_as_data(item) for item in value]
    return value


# --- named tuples -----------------------------------------------------------------------------------------------------

if not TYPE_CHECKING:

    class _NamedTupleType(type):
        """Makes a class that derives from :class:`NamedTuple` a plain subclass of tuple with its fields by name."""

        def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            members = {field: _tuplegetter(i, field) for i, field in enumerate(fields)}
            cls = type(name, (tuple,), {"__slots__": (), **_TUPLE_METHODS, **body, **members})
            cls._fields = cls.__match_args__ = fields
            cls.__new__ = _first_new(cls, fields, defaults)
            return cls

    class NamedTuple(metaclass=_NamedTupleType):
        """As ``typing.NamedTuple``: a tuple whose fields have the names and defaults of the class body."""

    def _first_new(cls: Any, fields: tuple[str, ...], defaults: dict[str, Any]) -> Callable[..., Any]:
        """A ``__new__`` for any fields. When it has been called often, or wrongly, it compiles one for these."""
        left = _FEW

        def __new__(kind: Any, /, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                if len(args) == len(fields) and not kwargs:
                    return tuple.__new__(kind, args)
                given = dict(zip(fields, args, strict=False))
                values = defaults | given | kwargs
                whole = len(given) == len(args) and values.keys() == frozenset(fields)
                if whole and not given.keys() & kwargs.keys():
                    return tuple.__new__(kind, map(values.__getitem__, fields))
            cls.__new__ = _compile_new(fields, defaults)
            return kind(*args, **kwargs)

        return __new__

    def _compile_new(fields: tuple[str, ...], defaults: dict[str, Any]) -> Callable[..., Any]:
        names = {f"_default_{name}": value for name, value in defaults.items()} | {"_make": tuple.__new__}
        parameters = [f"{name}=_default_{name}" if name in defaults else name for name in fields]
        values = "".join(f"{name}, " for name in fields)
        exec(f"def __new__(_cls, {', '.join(parameters)}):\n return _make(_cls, ({values}))", names)
        return names["__new__"]

    def _tuple_repr(self: Any) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({shown})"

    def _tuple_replace(self: Any, /, **changes: Any) -> Any:
        replaced = tuple.__new__(type(self), map(changes.pop, self._fields, self))
        if changes:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(changes))!r}")
        return replaced

    _TUPLE_METHODS = {
        "__repr__": _tuple_repr,
        "__getnewargs__": lambda self: (*self,),
        "_make": classmethod(lambda cls, values: cls(*values)),
        "_asdict": lambda self: dict(zip(self._fields, self, strict=True)),
        "_replace": _tuple_replace,
    }


# --- enumerations -----------------------------------------------------------------------------------------------------

if not TYPE_CHECKING:

    class _EnumType(type):
        """Makes members of the values in the class body: all that are no methods."""

        def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
            cls = super().__new__(mcs, name, bases, body)
            cls._by_value = members = {}
            for key, value in body.items():
                if key[0] != "_" and not hasattr(value, "__get__"):
                    member = cls.__new__(cls, value) if issubclass(cls, int) else object.__new__(cls)
                    member.name = key
                    member.value = value
                    members[value] = member
                    type.__setattr__(cls, key, member)
            return cls

        def __call__(cls, value: object) -> Any:
            try:
                return cls._by_value[value]
            except KeyError:
                raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

        def __iter__(cls) -> Iterator[Any]:
            return iter(cls._by_value.values())

        def __len__(cls) -> int:
            return len(cls._by_value)

    class Enum(metaclass=_EnumType):
        """As ``enum.Enum``: members by name, by value and in turn; each is one object. No aliases."""

        def __repr__(self) -> str:
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __str__(self) -> str:
            return f"{type(self).__name__}.{self.name}"

        def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
            return type(self), (self.value,)

    class IntEnum(int, Enum):
        """As ``enum.IntEnum``: members that are numbers."""

        __repr__ = Enum.__repr__
        __str__ = int.__repr__


# --- of functools and contextlib --------------------------------------------------------------------------------------

if not TYPE_CHECKING:

    class cached_property:  # the name in the standard library
        """A property that is computed once; the object keeps it under the same name, and gives it out itself then."""

        def __init__(self, function: Callable[[Any], Any]) -> None:
            self.function = function
            self.__doc__ = function.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self.name = name

        def __get__(self, instance: Any, owner: type) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self.name] = self.function(instance)
            return value

    def cache(function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose results are kept, by its arguments."""
        known: dict[tuple[Any, ...], Any] = {}

        def cached(*arguments: Any) -> Any:
            if arguments not in known:
                known[arguments] = function(*arguments)
            return known[arguments]

        cached.__wrapped__ = function
        cached.cache_clear = known.clear
        return cached

    class suppress:
        """A context that some exceptions end quietly."""

        def __init__(self, *exceptions: type[BaseException]) -> None:
            self.exceptions = exceptions

        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
            return kind is not None and issubclass(kind, self.exceptions)

    class _Context:
        """The context that a generator makes: up to its only ``yield``, and from there on."""

        def __init__(self, generator: Any) -> None:
            self.generator = generator

        def __enter__(self) -> Any:
            return next(self.generator)

        def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
            if error is None:
                for _ in self.generator:
                    raise RuntimeError("the generator went on")
                return False
            try:
                self.generator.throw(error)
            except StopIteration as end:
                return end is not error
            except BaseException as raised:
                # A generator turns a StopIteration that goes through it into the cause of a RuntimeError.
                if raised is not error and not (isinstance(error, StopIteration) and raised.__cause__ is error):
                    raise
                error.__traceback__ = trace
                return False
            raise RuntimeError("the generator went on")

    def contextmanager(function: Callable[..., Any]) -> Callable[..., _Context]:
        """A function that makes contexts, from one that makes generators."""

        def make(*args: Any, **kwargs: Any) -> _Context:
            return _Context(function(*args, **kwargs))

        make.__wrapped__ = function
        make.__doc__ = function.__doc__
        return make


class Closing:
    """A context that ends with ``close()``: what ``contextlib.closing`` does, for who inherits it."""

    __slots__ = ()

    def close(self) -> None:
        """Give up what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- regular expressions ----------------------------------------------------------------------------------------------

MULTILINE, DOTALL, ASCII = 8, 16, 256  # as in re


def pattern(text: AnyStr, flags: int = 0, compiled: tuple[Any, ...] | None = None) -> re.Pattern[AnyStr]:
    """As ``re.compile``. Who calls it gives constants, and :func:`klasy.pack.lean` adds the rest to the call."""
    if compiled is None:
        import re

        return re.compile(text, flags)
    from _sre import compile  # type: ignore[import-not-found]

    whole_flags, code, groups, names, name_of_group = compiled
    expression: re.Pattern[AnyStr] = compile(
        text, whole_flags, memoryview(code).cast("I").tolist(), groups, dict(names), name_of_group
    )
    return expression
