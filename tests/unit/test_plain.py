"""klasy.plain does what the standard dataclasses do, for what klasy uses."""

import contextlib
import copy
import dataclasses
import enum
import pickle

import pytest

from klasy import plain


def make(module):
    """The same classes, made by either module."""

    @module.dataclass(frozen=True)
    class Base:
        place: int = module.field(compare=False, repr=False)

    @module.dataclass(frozen=True)
    class Node(Base):
        name: str
        items: tuple = ()
        extra: list = module.field(default_factory=list, compare=False)

    return Base, Node


BASE, NODE = make(plain)
STD_BASE, STD_NODE = make(dataclasses)


@plain.dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    y: int = 2


@plain.dataclass()
class Mutable:
    x: int
    seen: list[int] = plain.field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen.append(self.x)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, "a"), {}), ((1, "a", (2,)), {}), ((), {"place": 1, "name": "b", "items": (3,)}), ((1,), {"name": "c"})],
)
def test_same_fields_and_text(args, kwargs):
    """Construction by position and by name, defaults and repr agree with the standard decorator."""
    ours, std = NODE(*args, **kwargs), STD_NODE(*args, **kwargs)
    assert (ours.place, ours.name, ours.items, ours.extra) == (std.place, std.name, std.items, std.extra)
    assert repr(ours).rsplit(".", 1)[-1] == repr(std).rsplit(".", 1)[-1]


@pytest.mark.parametrize("args", [(), (1,), (1, "a", (), [], 5)])
def test_same_refusals(args):
    """Too few or too many arguments are a TypeError for both."""
    for cls in (NODE, STD_NODE):
        with pytest.raises(TypeError):
            cls(*args)


@pytest.mark.parametrize(
    ("args", "kwargs", "right"),
    [
        ((1, "a"), {}, True),
        ((1,), {"name": "b", "items": (3,)}, True),
        ((), {"name": "b", "place": 1}, True),
        ((1, "a"), {"name": "b"}, False),
        ((1,), {}, False),
        ((1, "a"), {"nothing": 3}, False),
        ((1, "a", (), [], 5), {}, False),
    ],
)
def test_the_first_objects_and_the_later_ones(args, kwargs, right):
    """Before and after __init__ is compiled, the same arguments are right, and give the same object."""
    _, node = make(plain)
    results = []
    for _ in range(100):
        try:
            made = node(*args, **kwargs)
            results.append((made.place, made.name, made.items, made.extra))
        except TypeError as error:
            results.append(str(error))
    assert results == [results[0]] * 100
    assert isinstance(results[0], tuple) is right


def test_comparison_leaves_out_fields_that_say_so():
    """Objects that differ in a compare=False field are equal and hash alike; others are not."""
    assert NODE(1, "a") == NODE(2, "a")
    assert hash(NODE(1, "a")) == hash(NODE(2, "a"))
    assert NODE(1, "a") != NODE(1, "b")
    assert BASE(1) != NODE(1, "a")


def test_factories_give_each_object_its_own():
    """A default_factory runs for each object."""
    first, second = NODE(1, "a"), NODE(1, "a")
    first.extra.append(1)
    assert second.extra == []


@pytest.mark.parametrize("obj", [NODE(1, "a"), Slotted(1)])
def test_frozen_objects_cannot_change(obj):
    """Setting or deleting a field of a frozen object is an AttributeError."""
    name = plain.asdict(obj).popitem()[0]
    with pytest.raises(AttributeError):
        setattr(obj, name, 1)
    with pytest.raises(AttributeError):
        delattr(obj, name)


def test_slots():
    """A slotted class has no dictionary, keeps its defaults and can be hashed."""
    assert not hasattr(Slotted(1), "__dict__")
    assert Slotted(1) == Slotted(1, 2)
    assert len({Slotted(1), Slotted(1, 2), Slotted(2)}) == 2
    assert Slotted.__slots__ == ("x", "y")


def test_mutable():
    """Without frozen, fields can be set, __post_init__ runs, and the object cannot be hashed."""
    obj = Mutable(3)
    obj.x = 4
    assert (obj.x, obj.seen) == (4, [3])
    with pytest.raises(TypeError):
        hash(obj)


def test_replace_and_asdict():
    """replace changes some fields of a copy; asdict goes into objects and tuples."""
    node = NODE(1, "a", (Slotted(5),))
    assert plain.replace(node, name="b").name == "b"
    assert plain.asdict(node) == {"place": 1, "name": "a", "items": [{"x": 5, "y": 2}], "extra": []}


def test_match_statement():
    """Positional patterns work as with the standard decorator."""
    match Slotted(7, 8):
        case Slotted(x, y):
            assert (x, y) == (7, 8)


def test_pickle():
    """Objects survive pickling."""
    for obj in (Mutable(3), Slotted(3)):
        assert pickle.loads(pickle.dumps(obj)) == obj


def make_tuple(base):
    """The same named tuple, made by either module."""

    class Point(base):
        """A point."""

        x: int
        y: int = 3

        @property
        def total(self):
            return self.x + self.y

    return Point


def test_named_tuples_are_as_the_standard_ones():
    """Construction, defaults, order, representation, copies and errors are those of typing.NamedTuple."""
    from typing import NamedTuple

    ours, std = make_tuple(plain.NamedTuple), make_tuple(NamedTuple)
    for args, named in (((1,), {}), ((1, 2), {}), ((), {"y": 1, "x": 5}), ((4,), {"y": 6})):
        mine, theirs = ours(*args, **named), std(*args, **named)
        assert mine == theirs == tuple(theirs)
        assert repr(mine) == repr(theirs)
        assert (mine.x, mine.y, mine.total) == (theirs.x, theirs.y, theirs.total)
        assert mine._asdict() == theirs._asdict()
        assert mine._replace(y=9) == theirs._replace(y=9)
        assert isinstance(mine._replace(y=9), ours)
        assert ours._make([7, 8]) == std._make([7, 8])
    assert ours._fields == std._fields
    assert ours.__match_args__ == std.__match_args__
    assert ours.__doc__ == "A point."
    for args, named in (((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})):
        with pytest.raises(TypeError):
            ours(*args, **named)
    with pytest.raises(AttributeError):
        ours(1).x = 2
    assert not hasattr(ours(1), "__dict__")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((1, 2), {}),
        ((), {"x": 1}),
        ((1,), {"y": 2}),
        ((), {}),
        ((1, 2, 3), {}),
        ((1,), {"x": 2}),
        ((1,), {"z": 2}),
    ],
)
def test_the_first_tuples_and_the_later_ones(args, kwargs):
    """Before and after __new__ is compiled, the same arguments are right, and give what typing's gives."""
    from typing import NamedTuple

    ours, std = make_tuple(plain.NamedTuple), make_tuple(NamedTuple)
    for _ in range(100):
        try:
            expected = std(*args, **kwargs)
        except TypeError:
            with pytest.raises(TypeError):
                ours(*args, **kwargs)
        else:
            assert ours(*args, **kwargs) == expected


def test_a_class_below_a_named_tuple():
    """Its objects are its own, the first as the later ones."""

    class Below(make_tuple(plain.NamedTuple)):
        pass

    assert {type(Below(1)) for _ in range(100)} == {Below}


def enumerations(module):
    """The same enumerations, made by either module."""

    class Colour(module.Enum):
        """Colours."""

        RED = "red"
        BLUE = "blue"

        @property
        def short(self):
            return self.value[0]

    class Number(module.IntEnum):
        NONE = 0
        ONE = 1

    return Colour, Number


COLOUR, NUMBER = enumerations(plain)
COLOUR.__qualname__, NUMBER.__qualname__ = "COLOUR", "NUMBER"  # for pickle


@pytest.mark.parametrize("colour_and_number", [(COLOUR, NUMBER), enumerations(enum)])
def test_enumerations_are_as_the_standard_ones(colour_and_number):
    """Members by name and value, their texts, order, comparison, use as keys and as numbers."""
    colour, number = colour_and_number
    assert [m.name for m in colour] == ["RED", "BLUE"]
    assert [m.value for m in colour] == ["red", "blue"]
    assert colour("red") is colour.RED
    assert (colour.RED == colour.RED, colour.RED == colour.BLUE, colour.RED == "red") == (True, False, False)
    assert {colour.RED: 1, colour.BLUE: 2}[colour("blue")] == 2
    assert (str(colour.RED), repr(colour.RED)) == ("Colour.RED", "<Colour.RED: 'red'>")
    assert (colour.BLUE.short, len(colour), isinstance(colour.RED, colour)) == ("b", 2, True)
    with pytest.raises(ValueError, match="'green' is not a valid"):
        colour("green")
    assert (number.ONE + 1, number(1) is number.ONE, str(number.ONE), f"{number.ONE}", number.NONE < number.ONE) == (
        2, True, "1", "1", True
    )  # fmt: skip
    assert (repr(number.ONE), [1, 2].index(number.ONE), bool(number.NONE)) == ("<Number.ONE: 1>", 0, False)


def test_members_stay_themselves():
    """A copy of a member is the member."""
    for member in (COLOUR.RED, NUMBER.ONE):
        assert copy.deepcopy([member])[0] is copy.copy(member) is member


def contexts(module, error):
    """What happens with a context that meets an error or none: as it was seen by each side."""
    seen = []

    @module.contextmanager
    def context(quiet=False, other=None):
        seen.append("in")
        try:
            yield "value"
        except LookupError as caught:
            seen.append(repr(caught))
            if other:
                raise other from None
            if not quiet:
                raise
        finally:
            seen.append("out")

    for arguments in ({}, {"quiet": True}, {"other": ZeroDivisionError("new")}):
        try:
            with context(**arguments) as value:
                seen.append(value)
                if error:
                    raise error
        except BaseException as raised:
            seen += [repr(raised), raised is error]
    return seen


@pytest.mark.parametrize(
    "error", [None, KeyError("k"), OSError("o"), StopIteration("s"), GeneratorExit(), SystemExit(1)]
)
def test_contexts_are_as_the_standard_ones(error):
    """What goes in and comes out of a generator's context is the same."""
    assert contexts(plain, error) == contexts(contextlib, error)


def test_a_context_goes_on_once():
    """A generator with two yields is a mistake, and said to be one."""

    @plain.contextmanager
    def twice():
        yield
        yield

    with pytest.raises(RuntimeError, match="went on"), twice():
        pass


def test_suppress():
    """The exceptions that are named, and those derived from them, end there; others do not."""
    with plain.suppress(LookupError, OSError):
        raise KeyError
    with pytest.raises(ValueError, match="x"), plain.suppress(LookupError):
        raise ValueError("x")


def test_cached():
    """Computed once for each object, and for each arguments."""
    calls = []

    class Holder:
        @plain.cached_property
        def value(self):
            """A value."""
            calls.append(self)
            return len(calls)

    @plain.cache
    def twice(x, y=0):
        calls.append(x)
        return 2 * x + y

    one, other = Holder(), Holder()
    assert (one.value, other.value, one.value, Holder.value.__doc__) == (1, 2, 1, "A value.")
    assert (twice(3), twice(3), twice(3, 1), calls[2:]) == (6, 6, 7, [3, 3])
    twice.cache_clear()
    assert (twice(3), len(calls)) == (6, 5)
