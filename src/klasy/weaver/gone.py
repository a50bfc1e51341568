"""Probes that have gone: those at instructions of a module that was unloaded, as the kernel's own list of them says.

Such a probe does not hold its module, and does not come back with it, at the same address or another.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.weaver.woven import WovenAspect

KPROBES = "/sys/kernel/debug/kprobes/list"


@dataclass(frozen=True, slots=True)
class Gone:
    """How many join points are without a probe, and the modules that took them along."""

    joinpoints: int
    modules: tuple[str, ...]


def gone(aspect: WovenAspect, path: str = KPROBES) -> Gone | None:
    """What of an aspect has gone; None: nothing, or it cannot be told."""
    probes = [probe for probe in aspect.document["probes"] if any(module for *_, module in probe["points"])]
    if not probes:
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            addresses = {int(line.split()[0], 16) for line in file if "[GONE]" in line}
    except OSError:
        return None
    ids: set[int] = set()
    modules: set[str] = set()
    for probe in probes:
        for (address, _, _, module), served in zip(probe["points"], probe["joinpoints"], strict=True):
            if module and address in addresses:
                ids.update(served)
                modules.add(module)
    return Gone(len(ids), tuple(sorted(modules))) if ids else None
