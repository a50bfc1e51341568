"""States as text for people: tables, and histograms drawn in the terminal."""

from __future__ import annotations

from klasy.cli.table import plural, shown, table
from klasy.log.format_text import harmless, value_text
from klasy.log.state import key_text
from klasy.plain import TYPE_CHECKING
from klasy.state import STACK_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.log.state import Bucket, Slot, StateDecoder
    from klasy.log.symbolize import Symbolizer
    from klasy.log.value import Value
    from klasy.state import State
    from klasy.weaver.states import Losses, StateContent

_BAR = 50  # characters of the longest bar
_UNITS = ("", "K", "M", "G", "T", "P", "E")
_HEADS = {
    "count": ("COUNT",), "sum": ("SUM",), "min": ("MIN",), "max": ("MAX",), "avg": ("AVERAGE", "COUNT", "TOTAL"),
}  # fmt: skip


class StateText:
    """Renders states. ``top``: how many elements of each are shown; None: all."""

    def __init__(self, decoder: StateDecoder, symbols: Symbolizer, top: int | None) -> None:
        self._decoder = decoder
        self._symbols = symbols
        self._top = top

    def aspect(self, name: str, contents: Sequence[StateContent]) -> str:
        """All states of an aspect, an empty line between them."""
        return "\n\n".join(self._state(name, content) for content in contents)

    def _state(self, aspect: str, content: StateContent) -> str:
        state = content.state
        slots = self._decoder.slots(state, content.elements, content.places)
        kept = slots if self._top is None else slots[: self._top]
        kind = state.value.type_name if state.value is not None else _kind(state)
        head = f"{aspect}.{state.name}, {shown(kind)}"
        if state.key_size:
            head += f", {plural(len(slots), 'key')}"
        if not slots:
            lines = [head]
        elif any(field.kind in STACK_KINDS for field in state.keys):
            lines = [head, *self._stacks(state, kept)]
        elif state.kind in ("hist", "lhist"):
            lines = [head, *self._histograms(state, kept)]
        elif not state.key_size:
            lines = [f"{head}: {self._alone(state, slots[0])}"]
        else:
            lines = [head, *_indented(self._table(state, kept))]
        if len(kept) < len(slots):
            lines.append(f"  .. {len(slots) - len(kept)} more")
        return "\n".join([*lines, *(f"  {line}" for line in loss_lines(content.losses, content.room))])

    def _alone(self, state: State, slot: Slot) -> str:
        value = self._value(slot)
        if state.kind == "avg":
            return f"{value} of {slot.count} ({slot.total} in all)"
        return value

    def _table(self, state: State, slots: Sequence[Slot]) -> str:
        head = [*(field.name for field in state.keys), *_HEADS.get(state.kind, ("VALUE",))]
        rows: list[list[object]] = []
        for slot in slots:
            more = [slot.count, slot.total] if state.kind == "avg" else []
            rows.append([*self._keys(slot), self._value(slot), *more])
        return table(head, rows)

    def _stacks(self, state: State, slots: Sequence[Slot]) -> list[str]:
        """Of keys with stacks: what else there is in a line, and the stacks below."""
        lines = []
        for slot in slots:
            keys = list(zip(state.keys, self._keys(slot), strict=True))
            short = ", ".join(f"{field.name} = {key}" for field, key in keys if field.kind not in STACK_KINDS)
            value = plural(slot.count or 0, "value") if state.kind in ("hist", "lhist") else self._alone(state, slot)
            lines.append(f"  {short}: {value}" if short else f"  {value}")
            for (field, _), key in zip(keys, slot.key, strict=True):
                if field.kind in STACK_KINDS:
                    told = self._text(key).replace("\n        ", "\n      ")
                    lines.append(f"    {field.name}{'' if told.startswith(chr(10)) else ': '}{told}")
            lines += [f"    {line}" for line in histogram(slot.buckets)]
        return lines

    def _keys(self, slot: Slot) -> list[str]:
        return [harmless(text) for text in key_text(slot.key, self._text)]

    def _value(self, slot: Slot) -> str:
        return "none" if slot.value is None else self._text(slot.value)

    def _text(self, value: Value) -> str:
        return value_text(value, self._symbols)

    def _histograms(self, state: State, slots: Sequence[Slot]) -> list[str]:
        lines = []
        for slot in slots:
            number = plural(slot.count or 0, "value")
            if state.key_size:
                pairs = zip(state.keys, self._keys(slot), strict=True)
                lines.append("  " + ", ".join(f"{field.name} = {key}" for field, key in pairs) + f": {number}")
            else:
                lines.append(f"  {number}")
            lines += [f"    {line}" for line in histogram(slot.buckets)]
        return lines


def _kind(state: State) -> str:
    return f"lhist({', '.join(map(str, state.bounds))})" if state.bounds else state.kind


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.split("\n")]


def histogram(buckets: Sequence[Bucket]) -> list[str]:
    """A histogram, one bucket a line: its range, its count, a bar."""
    labels = [range_text(bucket.low, bucket.high) for bucket in buckets]
    counts = [str(bucket.count) for bucket in buckets]
    width = max((len(label) for label in labels), default=0)
    digits = max((len(count) for count in counts), default=0)
    largest = max((bucket.count for bucket in buckets), default=0) or 1
    lines = []
    for label, text, bucket in zip(labels, counts, buckets, strict=True):
        # What is there at all is seen: at least one mark.
        bar = "@" * -(-bucket.count * _BAR // largest)
        lines.append(f"{label:{width}}  {text:>{digits}} |{bar:{_BAR}}|")
    return lines


def range_text(low: int | None, high: int | None) -> str:
    """``[1K, 2K)``; a single number as ``[1]``; without a bound ``(.., 0)``, ``[100, ..)``."""
    if low is None:
        return f"(.., {_number(high)})"
    if high is None:
        return f"[{_number(low)}, ..)"
    return f"[{_number(low)}]" if high == low + 1 else f"[{_number(low)}, {_number(high)})"


def _number(number: int | None) -> str:
    """A power of two from 1024 on with its unit; any other number as it is."""
    assert number is not None
    power = 0
    rest = number
    while rest >= 1024 and rest % 1024 == 0 and power < len(_UNITS) - 1:
        rest, power = rest // 1024, power + 1
    return f"{rest}{_UNITS[power]}" if number & (number - 1) == 0 else str(number)


def loss_lines(losses: Losses, room: int | None = None) -> list[str]:
    """What of a state was lost, in words; nothing where all is well."""
    lines = []
    if losses.full:
        keys = f": there are {room} keys" if room is not None else ""
        lines.append(f"{plural(losses.full, 'update')} lost because there was no room for a new key{keys}")
    if losses.busy:
        lines.append(f"{plural(losses.busy, 'update')} lost because the map was in use on that processor")
    if losses.stacks:
        lines.append(f"{plural(losses.stacks, 'update')} lost because the stack could not be taken, or had no room")
    if losses.faults:
        lines.append(f"{plural(losses.faults, 'update')} with memory that could not be read, which counts as 0")
    return lines
