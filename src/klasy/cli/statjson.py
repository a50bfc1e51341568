"""States as JSON: the document of ``klasy stat --json``, described in docs/json.md."""

from __future__ import annotations

from klasy.log.format_json import value_json
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from klasy.log.state import Slot, StateDecoder
    from klasy.log.symbolize import Symbolizer
    from klasy.state import State
    from klasy.weaver.states import StateContent


class StateJson:
    """Renders states. ``top``: how many elements of each are there; None: all."""

    def __init__(self, decoder: StateDecoder, symbols: Symbolizer, top: int | None) -> None:
        self._decoder = decoder
        self._symbols = symbols
        self._top = top

    def aspect(self, name: str, contents: Sequence[StateContent]) -> dict[str, Any]:
        """All states of an aspect."""
        return {"aspect": name, "states": [self._state(content) for content in contents]}

    def _state(self, content: StateContent) -> dict[str, Any]:
        state, losses = content.state, content.losses
        slots = self._decoder.slots(state, content.elements, content.places)
        document: dict[str, Any] = {
            "name": state.name,
            "kind": state.kind,
            "type": state.value.type_name if state.value is not None else None,
            "keys": [field.name for field in state.keys],
            "values": [self._slot(state, slot) for slot in slots[: self._top]],
            "elements": len(slots),
            "room": content.room,
            "lost": losses.full,
            "refused": losses.busy,
            "faults": losses.faults,
            "stacks": losses.stacks,
        }
        if state.bounds is not None:
            document["bounds"] = list(state.bounds)
        return document

    def _slot(self, state: State, slot: Slot) -> dict[str, Any]:
        found: dict[str, Any] = {"key": [value_json(value, self._symbols) for value in slot.key]}
        if state.kind in ("hist", "lhist"):
            buckets = [{"low": b.low, "high": b.high, "count": b.count} for b in slot.buckets]
            return found | {"count": slot.count, "buckets": buckets}
        found["value"] = None if slot.value is None else value_json(slot.value, self._symbols)
        if state.kind == "avg":
            found |= {"count": slot.count, "total": slot.total}
        return found
