"""Calls through pointers: where a function may be called by one, and whether such calls are what an advice means."""

from __future__ import annotations

from klasy.kernel.model import CallKind
from klasy.match.matched import IndirectSite
from klasy.match.matcher import LITTLE_TEXT
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.kernel.model import Function
    from klasy.match.matched import AdviceMatch
    from klasy.match.matcher import AdviceMatcher

# A function with at most so many direct calls may be meant where only an indirect call can reach it.
_FEW_CALLS = 3


def find_sites(matcher: AdviceMatcher, result: AdviceMatch) -> list[IndirectSite]:
    """The indirect calls in functions that a ``within`` names, with the outcome for each callee."""
    areas: dict[int, Function] = {}
    for conjunct in matcher.conjuncts:
        if conjunct.usable and conjunct.calls and conjunct.asks_where:
            areas.update(matcher.area(conjunct, True) or {})
    if not areas or sum(f.size for f in areas.values()) > LITTLE_TEXT:
        return []
    found = []
    for site in matcher.sites.calls_in(areas):
        if site.kind is CallKind.INDIRECT:
            bits = matcher.bits(site.caller)
            outcomes = {a: matcher.call(f, bits) for a, f in result.callees.items()}
            sure = {address: outcome for address, outcome in outcomes.items() if outcome is not None}
            if sure:
                found.append(IndirectSite(site, sure))
    return found


def check(matcher: AdviceMatcher, result: AdviceMatch) -> None:
    """Where no direct call is left: whether indirect ones may be meant."""
    if result.unknown:
        result.only_indirect = True
    elif not any(c.hits for c in matcher.conjuncts if c.calls):
        if len(matcher.sites.callers(result.callees)) <= _FEW_CALLS and find_sites(matcher, result):
            result.only_indirect = True
        else:
            for conjunct in matcher.conjuncts:  # what looking for indirect calls counted
                conjunct.hits = 0 if conjunct.calls else conjunct.hits
    if result.only_indirect:
        from klasy.match import lint

        lint.report_only_indirect(matcher, result)
