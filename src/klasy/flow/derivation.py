"""Where an inferred type comes from: how sure that makes it, and the chain of values in a few words."""

from __future__ import annotations

from klasy.flow import state
from klasy.flow.sites import GIVEN, PROVED
from klasy.flow.state import CONSTANT, SHIFT, constant_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from klasy.flow.infer import Inference

_LONGEST_REASON = 5


def by_debug(variable: str) -> str:
    """In words, that debug information says it, of a variable."""
    return f"by debug information: variable '{variable}'"


def confidence(inference: Inference, symbol: int, depth: int = 0) -> int:
    """How sure a symbol's type is: as the least sure of those it comes from."""
    if symbol in inference.why:
        return inference.why[symbol][0]
    if _is_told(inference, symbol):
        return PROVED
    kind, operand = inference.flow.values.kind[symbol], inference.flow.values.a[symbol]
    if depth > _LONGEST_REASON:
        return GIVEN
    if kind in (state.LOADED, state.SUM, state.MASKED):
        return confidence(inference, operand >> SHIFT, depth + 1)  # type: ignore[operator]
    if kind == state.JOIN:
        sources = [number >> SHIFT for number in operand]  # type: ignore[attr-defined]
        sources = [source for source in sources if source >= state.FIRST and source != symbol]
        if any(inference.place[source] is None for source in sources):
            return GIVEN
        return min([confidence(inference, source, depth + 1) for source in sources], default=PROVED)
    return GIVEN if kind == state.ARGUMENT and operand in inference.evidence else PROVED


def reason(inference: Inference, symbol: int, depth: int = 0) -> str:
    """In a few words, where a symbol's type comes from."""
    if symbol in inference.why:
        return inference.why[symbol][1]
    if _is_told(inference, symbol):
        return by_debug(inference.facts[symbol][1])
    if symbol == CONSTANT:
        return "a known variable"
    values = inference.flow.values
    kind, operand = values.kind[symbol], values.a[symbol]
    if depth > _LONGEST_REASON:
        return ".."
    if kind == state.ARGUMENT:
        assert isinstance(operand, int)
        place = inference.arguments.get(operand)
        shown = f" ({inference.types.name(place[0])} *)" if place else ""
        return f"argument {operand + 1} of {inference.name}{shown}{inference.evidence.get(operand, '')}"
    if kind == state.RESULT:
        return f"result of {inference.seeds.callee(operand).name}"  # type: ignore[arg-type]
    if kind == state.RESULT_INDIRECT:
        return f"result of a call through {reason(inference, operand >> SHIFT, depth + 1)}"  # type: ignore[operator]
    if kind == state.LOADED:
        return _reason_of_load(inference, operand, depth)  # type: ignore[arg-type]
    if kind == state.JOIN:
        for number in operand:  # type: ignore[attr-defined]
            source = number >> SHIFT
            if source >= state.FIRST and source != symbol and inference.place[source] is not None:
                return reason(inference, source, depth + 1)
        return "a join"
    if kind == state.SUM:
        other: Any = values.b[symbol]
        if inference.by_distance(operand, other[0]):  # type: ignore[arg-type]
            return "head + end of a struct sk_buff"
    if kind in (state.SUM, state.MASKED):
        return reason(inference, operand >> SHIFT, depth + 1)  # type: ignore[operator]
    if kind == state.FILLED:
        return f"filled in by {inference.seeds.callee(operand).name}"  # type: ignore[arg-type]
    return "unknown"


def _reason_of_load(inference: Inference, address: int, depth: int) -> str:
    symbol = address >> SHIFT
    place = inference.place_of(address)
    if symbol == CONSTANT and place is None and inference.percpu:
        place = inference.percpu, constant_of(address)
    if place is None:
        return reason(inference, symbol, depth + 1)
    name = inference.types.member_name(place[0], place[1])
    if symbol == CONSTANT or place[0] == inference.percpu:
        return f"per-CPU {name}" if place[0] == inference.percpu else name
    return f"{reason(inference, symbol, depth + 1)} -> {name}"


def _is_told(inference: Inference, symbol: int) -> bool:
    """Whether only debug information says what a symbol points to."""
    if symbol not in inference.facts or inference.place[symbol] != inference.facts[symbol][0]:
        return False
    return inference.evaluate(inference.flow.values.kind[symbol], symbol) != inference.place[symbol]
