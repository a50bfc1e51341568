"""The call sites of a kernel, looked up once however many advice of an aspect ask."""

from __future__ import annotations

from klasy.kernel.model import CallSite, Clone
from klasy.match.shadow import JoinPointKind, Shadow
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.kernel.model import Function, Kernel

_SPLITS = (Clone.PART, Clone.COLD)


class Sites:
    """Call sites as the matcher and the planner see them: the compiler's own splits left out."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._callers: dict[frozenset[int], list[CallSite]] = {}
        self._calls_in: dict[frozenset[int], list[CallSite]] = {}
        self._shadows: dict[int, Shadow] = {}

    def callers(self, callees: Mapping[int, Function]) -> list[CallSite]:
        """The direct and tail calls that reach one of some functions."""
        key = frozenset(callees)
        if key not in self._callers:
            found = self.kernel.callers(callees.values())
            if any(callee.clone in _SPLITS for callee in callees.values()):
                found = [site for site in found if not _is_split(site)]
            self._callers[key] = found
        return self._callers[key]

    def calls_in(self, functions: Mapping[int, Function]) -> list[CallSite]:
        """All calls in the text of some functions."""
        key = frozenset(functions)
        if key not in self._calls_in:
            found = self.kernel.calls_in(functions.values())
            self._calls_in[key] = [site for site in found if not _is_split(site)]
        return self._calls_in[key]

    def shadow(self, site: CallSite) -> Shadow:
        """The shadow of a call site."""
        shadow = self._shadows.get(site.address)
        if shadow is None:
            shadow = self._shadows[site.address] = Shadow(
                JoinPointKind.CALL, site.caller, site.address, site.callee, site
            )
        return shadow


def _is_split(site: CallSite) -> bool:
    """Whether a "call" is the compiler's: a function going on in the part of it that was split off."""
    callee = site.callee
    return (
        callee is not None
        and callee.clone in _SPLITS
        and callee.base == site.caller.base
        and callee.module == site.caller.module
    )
