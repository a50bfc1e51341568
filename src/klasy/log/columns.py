"""Columns of values: taken out of many records at once, shown, and put together to lines."""

from __future__ import annotations

from _operator import itemgetter
from itertools import chain
from struct import Struct

from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_SIZE, HEADER_SIZE, RUN_HEAD, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from klasy.record import Field, Format

    Column = Callable[[bytes], list[Any]]
    Show = Callable[[Any], str]
    Texts = str | Sequence[str]  # of values: one that is that of all, or of each its own

NUMBERS = {(1, True): "b", (1, False): "B", (2, True): "h", (2, False): "H"}
NUMBERS |= {(4, True): "i", (4, False): "I", (8, True): "q", (8, False): "Q"}
_MANY = 64  # values from which on it pays to look whether they are few different ones
_SOME = 32  # of those, to tell by whether it does


def interleaved(
    begins: list[str], stamps: list[str], heads: list[str | None], columns: list[Texts], literals: list[str]
) -> str:
    """Lines, each with its end. ``heads``: one for each, or one for all; the first literal is part of it."""
    row: list[Any] = [begins[0], None]  # the parts of a line; None: each has its own
    own: list[tuple[int, Sequence[Any]]] = [(1, stamps)]
    if len(begins) > 1:
        own.append((0, begins))
    same = ""
    head = heads if len(heads) > 1 else heads[0] or ""
    for column, literal in zip([head, *columns], ["", *literals[1:]], strict=True):
        if isinstance(column, str):
            same += column + literal
            continue
        if same:
            row.append(same)
        own.append((len(row), column))
        row.append(None)
        same = literal
    if same:
        row.append(same)
    parts = row * len(stamps)
    for at, filling in own:
        parts[at :: len(row)] = filling
    parts[0] = begins[0][1:]
    parts.append("\n")
    return "".join(parts)


def texts(column: Sequence[Any], show: Show) -> Texts:
    """Each value as ``show`` shows it, which is asked once for each of those that come again and again; or all."""
    if len(column) >= _MANY and len(set(column[:_SOME])) <= _SOME // 2:
        distinct = set(column)
        if len(distinct) == 1:
            return show(column[0])
        if len(distinct) <= len(column) // 2:
            shown = dict(zip(distinct, map(show, distinct), strict=True))
            found: tuple[str, ...] = itemgetter(*column)(shown)
            return found
    return list(map(show, column))


def alike(column: memoryview) -> bool:
    """Whether all of a column are the same."""
    return column[1:] == column[:-1]


def is_number(entry: Field) -> bool:
    """Whether the column of a field holds numbers; else it holds the bytes of each."""
    return entry.kind in ("int", "pointer") and (entry.size, entry.signed) in NUMBERS


def columns_of(form: Format, size: int) -> list[Column] | None:
    """What takes each value out of records of one size, all of it at once; None where they do not lie in them."""
    columns: list[Column] = []
    step = step_of(size)
    for entry in form.fields:
        at, width = RUN_HEAD + entry.offset, entry.size
        if entry.kind == "joinpoint":  # takes no bytes
            columns.append(_nothing)
            continue
        if entry.kind == "call":  # all that is left
            width = size - entry.offset
            if width < CALL_SIZE:
                return None
        if entry.offset < HEADER_SIZE or at + width > step:
            return None
        number = NUMBERS[width, entry.signed] if is_number(entry) else None
        columns.append(_of_bytes(at, width, step) if number is None else _of_numbers(number, at, width, step))
    return columns


def _nothing(_: bytes) -> list[Any]:
    return []


def _of_bytes(at: int, width: int, step: int) -> Column:
    layout = Struct(f"{at}x{width}s{step - at - width}x")
    return lambda data: list(chain.from_iterable(layout.iter_unpack(data)))


def _of_numbers(code: str, at: int, width: int, step: int) -> Column:
    off = at % width  # nearly always 0

    def column(data: bytes) -> list[int]:
        view = memoryview(data)
        if off:
            view = view[off : len(data) - (width - off)]
        found: list[int] = view.cast(code)[at // width :: step // width].tolist()  # type: ignore[call-overload]
        return found

    return column
