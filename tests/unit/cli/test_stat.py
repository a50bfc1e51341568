"""States as text and as JSON, from the words in their maps."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.cli.statjson import StateJson
from klasy.cli.stattext import StateText, histogram, loss_lines, range_text
from klasy.log.state import Bucket, StateDecoder
from klasy.log.symbolize import Symbolizer
from klasy.record import STACK_OWN, USER_FRAME, USER_FRAME_BUILD_ID, Field
from klasy.state import HIST_BUCKETS, STACK_FIRST, STACK_MORE, Places, State, encode_extreme
from klasy.weaver.states import Losses, StateContent
from klasy.weaver.woven import WovenJoinPoint

TID = Field("tid", "int", 0, 4, True, "int")
COMM = Field("comm", "string", 8, 16)
NONE_LOST = Losses(0, 0, 0)


def symbols() -> Symbolizer:
    return Symbolizer(None)


def decoder() -> StateDecoder:
    return StateDecoder(lambda module: None, symbols())


def content(
    kind: str,
    elements: dict[bytes, list[int]],
    *,
    keys: tuple[Field, ...] = (),
    value: Field | None = None,
    bounds: tuple[int, int, int] | None = None,
    losses: Losses = NONE_LOST,
) -> StateContent:
    size = max((f.offset + f.size for f in keys), default=0)
    made = State(0, "s", kind, 1, value, keys, size, bounds, False)
    return StateContent(made, tuple((k, tuple(v)) for k, v in elements.items()), losses, 4096)


def text(made: StateContent, top: int | None = None) -> list[str]:
    return StateText(decoder(), symbols(), top).aspect("a", [made]).splitlines()


def document(made: StateContent, top: int | None = None) -> dict:
    return json.loads(json.dumps(StateJson(decoder(), symbols(), top).aspect("a", [made])))["states"][0]


def key(tid: int, comm: str) -> bytes:
    return tid.to_bytes(4, "little", signed=True) + bytes(4) + comm.encode().ljust(16, b"\0")


def word(number: int) -> int:
    return number % (1 << 64)


def test_a_count_by_two_keys() -> None:
    """A column for each key and one for the count, the largest first; a name cannot drive the terminal."""
    made = content("count", {key(7, "a"): [3], key(-1, "b\x1b[2J"): [900], key(8, "a"): [3]}, keys=(TID, COMM))
    assert text(made) == [
        "a.s, count, 3 keys",
        "  tid  comm      COUNT",
        "  -1   b\\x1b[2J    900",
        "  7    a             3",
        "  8    a             3",
    ]
    assert document(made)["values"] == [
        {"key": [-1, "b\x1b[2J"], "value": 900},
        {"key": [7, "a"], "value": 3},
        {"key": [8, "a"], "value": 3},
    ]


def test_top() -> None:
    """Of many elements the largest only, and how many there are besides."""
    made = content("sum", {key(n, "x"): [word(n - 2)] for n in range(5)}, keys=(TID, COMM))
    assert text(made, 2)[2:] == ["    4  x       2", "    3  x       1", "  .. 3 more"]
    shown = document(made, 2)
    assert (len(shown["values"]), shown["elements"]) == (2, 5)


@pytest.mark.parametrize(
    ("kind", "words", "line", "value"),
    [
        ("count", [5], "a.s, count: 5", 5),
        ("sum", [word(-5)], "a.s, sum: -5", -5),
        ("max", [encode_extreme("max", -3)], "a.s, max: -3", -3),
        ("min", [encode_extreme("min", 12)], "a.s, min: 12", 12),
        ("min", [0], "a.s, min: none", None),
        ("avg", [2, word(-5)], "a.s, avg: -2 of 2 (-5 in all)", -2),
        ("avg", [0, 0], "a.s, avg: none of 0 (0 in all)", None),
    ],
)
def test_without_a_key(kind: str, words: list[int], line: str, value: int | None) -> None:
    """One line, with the value as a signed number; of nothing there is none."""
    made = content(kind, {b"": words})
    assert text(made) == [line]
    assert document(made)["values"][0]["value"] == value


@pytest.mark.parametrize(
    ("field", "number", "shown", "value"),
    [
        (Field("u8", "int", 0, 1, False, "u8"), 0x1FF, "255", 255),
        (Field("s8", "int", 0, 1, True, "s8"), 0x1FF, "-1", -1),
        (Field("bool", "bool", 0, 1, False, "bool"), 1, "true", True),
        (Field("struct x *", "pointer", 0, 8, False, "struct x *"), 0xFFFF888000001000, "0xffff888000001000",
         "0xffff888000001000"),
    ],
)  # fmt: skip
def test_scalars(field: Field, number: int, shown: str, value: object) -> None:
    """A scalar is shown by its type; steps in 64 bits may have left more in its word than the type holds."""
    made = content("scalar", {b"": [number]}, value=field)
    assert text(made) == [f"a.s, {field.type_name}: {shown}"]
    assert document(made)["values"] == [{"key": [], "value": value}]
    assert document(made)["type"] == field.type_name


def test_a_histogram() -> None:
    """Buckets from the first to the last that holds anything; what is there is seen; the longest bar is whole."""
    words = [0] * HIST_BUCKETS
    words[0], words[1], words[2], words[12], words[13] = 1, 0, 100, 50, 1
    shown = text(content("hist", {b"": words}))
    assert shown[0] == "a.s, hist"
    assert shown[1] == "  152 values"
    bars = dict(re.fullmatch(r"    (\S.*\S) +\d+ \|(@*) *\|", line).groups() for line in shown[2:])
    assert [*bars] == [
        "(.., 0)", "[0]", "[1]", "[2, 4)", "[4, 8)", "[8, 16)", "[16, 32)", "[32, 64)", "[64, 128)", "[128, 256)",
        "[256, 512)", "[512, 1K)", "[1K, 2K)", "[2K, 4K)",
    ]  # fmt: skip
    assert {label: len(bar) for label, bar in bars.items() if bar} == {
        "(.., 0)": 1, "[1]": 50, "[1K, 2K)": 25, "[2K, 4K)": 1,
    }  # fmt: skip


def test_a_linear_histogram_by_key() -> None:
    """Every key has its own; the key that was counted most often comes first."""
    made = content(
        "lhist", {key(1, "x"): [0, 2, 0, 1, 0], key(2, "y"): [9, 0, 0, 0, 9]}, keys=(TID, COMM), bounds=(0, 30, 10)
    )
    assert [line for line in text(made) if "|" not in line] == [
        "a.s, lhist(0, 30, 10), 2 keys",
        "  tid = 2, comm = y: 18 values",
        "  tid = 1, comm = x: 3 values",
    ]
    first, second = document(made)["values"]
    assert first["count"] == 18
    assert (first["buckets"][0], first["buckets"][-1]) == (
        {"low": None, "high": 0, "count": 9}, {"low": 30, "high": None, "count": 9},
    )  # fmt: skip
    assert second["buckets"] == [
        {"low": 0, "high": 10, "count": 2}, {"low": 10, "high": 20, "count": 0}, {"low": 20, "high": 30, "count": 1},
    ]  # fmt: skip


def test_an_empty_state() -> None:
    """Nothing yet: no table, no bars."""
    assert text(content("count", {}, keys=(TID,))) == ["a.s, count, 0 keys"]
    assert text(content("hist", {b"": [0] * HIST_BUCKETS})) == ["a.s, hist", "  0 values"]


def test_what_was_lost() -> None:
    """Each kind of loss in a line, none where there is none."""
    assert loss_lines(NONE_LOST) == []
    made = content("count", {}, keys=(TID,), losses=Losses(2, 1, 3))
    assert text(made)[1:] == [
        "  2 updates lost because there was no room for a new key: there are 4096 keys",
        "  1 update lost because the map was in use on that processor",
        "  3 updates with memory that could not be read, which counts as 0",
    ]
    shown = document(made)
    assert (shown["lost"], shown["refused"], shown["faults"], shown["room"]) == (2, 1, 3, 4096)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (None, 0, "(.., 0)"), (100, None, "[100, ..)"), (0, 1, "[0]"), (512, 1024, "[512, 1K)"),
        (1 << 62, 1 << 63, "[4E, 8E)"), (1 << 20, 1 << 21, "[1M, 2M)"), (3072, 4000, "[3072, 4000)"),
        (0, 10, "[0, 10)"),
    ],
)  # fmt: skip
def test_ranges(low: int | None, high: int | None, shown: str) -> None:
    """Powers of two from 1024 on have units; other numbers stand as they are."""
    assert range_text(low, high) == shown


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_bars_are_true(counts: list[int]) -> None:
    """No bar is longer than the widest; none is missing where something was counted, and none is where nothing was."""
    lines = histogram([Bucket(n, n + 2, count) for n, count in enumerate(counts)])
    for line, count in zip(lines, counts, strict=True):
        bar = line.split("|")[1].rstrip()
        assert len(line.split("|")[1]) == 50
        assert (len(bar) > 0) == (count > 0)
        assert abs(len(bar) - 50 * count / max([*counts, 1])) < 1


@pytest.mark.parametrize(
    ("kind", "words", "shown"),
    [("count", [3, 4, 1], ["7", "1"]), ("max", [9, 5, 1], ["9", "1"]), ("scalar", [3, 4, 1], ["4", "3", "1"])],
)
def test_one_stack_of_two_processes(kind: str, words: list[int], shown: list[str]) -> None:
    """The kernel numbers them apart; shown they are one, where two values can be one. Another caller is another."""
    frames = [USER_FRAME.pack(USER_FRAME_BUILD_ID, b"b" * 20, at) for at in (0x10, 0x20, 0x30)]
    raw = [n.to_bytes(4, "little") + bytes(4) + frames[2 if n < 7 else 0] for n in (5, 6, 7)]
    coded = [encode_extreme(kind, word) if kind == "max" else word for word in words]
    elements = {key: [word] for key, word in zip(raw, coded, strict=True)}
    value = Field("u64", "int", 0, 8) if kind == "scalar" else None
    made = content(kind, elements, keys=(Field("ustack()", "ustack", 0, 40),), value=value)
    places = Places((), dict.fromkeys(raw, frames[0] + frames[1] + bytes(USER_FRAME.size)))
    lines = text(StateContent(made.state, made.elements, made.losses, made.room, places))
    assert [line.strip() for line in lines[1:] if "build id" not in line and "ustack" not in line] == shown
    offsets = [line.rpartition("+")[2] for line in lines if "build id" in line]
    assert offsets == ["0x10", "0x30", "0x20"] * (len(shown) - 1) + ["0x10", "0x10", "0x20"]


def test_join_points_and_stacks_are_told() -> None:
    """Keys that are join points show their names; a stack stands below its line, one that is not there is said so."""
    point = WovenJoinPoint(
        0, "a", "before#0", "call", "f", 0x10, 0x8000, None, "g", None, "direct", None, None, "kprobe", ""
    )
    frames = b"".join(address.to_bytes(8, "little") for address in (0x7FF0, 0x9000, 0))
    own = (5 | STACK_OWN << STACK_FIRST).to_bytes(4, "little") + bytes(4)
    gone = (5 | STACK_MORE | STACK_OWN << STACK_FIRST).to_bytes(4, "little") + bytes(4)
    keys = (Field("joinpoint.function", "joinpoint", 0, 4, type_name="function"), Field("stack()", "stack", 8, 8))
    made = content("count", {bytes(8) + own: [3], bytes(8) + gone: [2]}, keys=keys, losses=Losses(0, 0, 0, 4))
    made = StateContent(made.state, made.elements, made.losses, made.room, Places((point,), {own: frames}))
    assert text(made) == [
        "a.s, count, 2 keys",
        "  joinpoint.function = f: 3",
        "    stack()",
        "      0x8000",
        "      0x9000",
        "  joinpoint.function = f: 2",
        "    stack(): <no stack>",
        "  4 updates lost because the stack could not be taken, or had no room",
    ]
    first, second = document(made)["values"]
    assert first["key"][0] == second["key"][0] == "f"
    assert [frame["address"] for frame in first["key"][1]] == ["0x8000", "0x9000"]
    assert second["key"][1] is None
    assert (document(made)["stacks"], document(made)["lost"]) == (4, 0)
