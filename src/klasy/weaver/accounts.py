"""Hits of data join points by instruction: what the programs counted, and what the instructions prove to be.

A program runs an advice also at instructions of which it does not know whether they read or write. Here they are
disassembled: hits that were not of the join point's kind are taken off its count, those of which it cannot be told
stay in it and are counted as undecided. What was learnt goes into the map ``kinds``, for the program to know.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_ACCESSES, MAP_KINDS
from klasy.errors import KernelRefused
from klasy.kernel.references import KNOWN, accessor, belongs
from klasy.plain import TYPE_CHECKING, dataclass, replace, suppress
from klasy.weaver import watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.model import Kernel
    from klasy.weaver.counts import Count
    from klasy.weaver.woven import WovenAspect


@dataclass(frozen=True, slots=True)
class Account:
    """Hits of one join point by one instruction.

    ``address`` and what follows is the instruction's; None where it is not known. ``does``: bits as in
    match.plan.READS, 0 where it is not known. ``counts``: it is of the join point's kind, or may be.
    """

    joinpoint: int
    hits: int
    ip: int
    address: int | None
    length: int
    function: str | None
    offset: int
    module: str | None
    does: int
    counts: bool

    @property
    def is_undecided(self) -> bool:
        """Whether it is not known what the instruction did."""
        return not self.does


def accounts(aspect: WovenAspect, kernel: Kernel | None = None) -> list[Account]:
    """The hits of an aspect's data join points by instruction, the most frequent first.

    ``kernel`` is the one it is woven into; by default the running one. Teaches the aspect's programs what the
    instructions are. Raises KernelRefused if the map cannot be read.
    """
    by_place: dict[tuple[int, int], dict[int, int]] = {}
    for key, value in aspect.map(MAP_ACCESSES).items():
        ip, joinpoint = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:12], "little")
        known = int.from_bytes(key[12:], "little")
        by_place.setdefault((joinpoint, ip), {})[known] = int.from_bytes(value, "little")
    kinds = [point.kind for point in aspect.joinpoints]
    found = [_account(kinds[joinpoint], joinpoint, ip, hits, kernel) for (joinpoint, ip), hits in by_place.items()]
    _teach(aspect, by_place, found)
    return sorted(found, key=lambda account: (-account.hits, account.joinpoint, account.ip))


def _account(kind: str, joinpoint: int, ip: int, hits: dict[int, int], kernel: Kernel | None) -> Account:
    number = sum(hits.values())
    does = next((known & KNOWN for known in hits if known & KNOWN), 0)
    if kernel is None:
        from klasy.kernel.live import running_kernel

        kernel = running_kernel()
    found = accessor(kernel, ip)
    does = found.does or does
    address = found.address if found.is_known else None
    place = (address, found.length, found.function, found.offset, found.module)
    return Account(joinpoint, number, ip, *place, does, belongs(kind, does))


def _teach(aspect: WovenAspect, by_place: dict[tuple[int, int], dict[int, int]], found: Sequence[Account]) -> None:
    """Tell the programs of instructions that they did not know."""
    unknown = {ip for (_, ip), hits in by_place.items() if any(not known & KNOWN for known in hits)}
    for account in found:
        if account.ip in unknown and account.does:
            with suppress(KernelRefused):  # the map is full: they go on not knowing
                aspect.map(MAP_KINDS).update(account.ip.to_bytes(8, "little"), account.does.to_bytes(8, "little"))


def settle(aspect: WovenAspect, counts: Sequence[Count]) -> list[Count]:
    """The counts of an aspect's join points with what is known of its accesses to data."""
    result = list(counts)
    for account in accounts(aspect):
        count = result[account.joinpoint]
        if not account.counts:
            result[account.joinpoint] = replace(count, hits=max(0, count.hits - account.hits))
        elif account.is_undecided:
            result[account.joinpoint] = replace(count, undecided=count.undecided + account.hits)
    served = served_by(aspect)
    missed = watch.missed(aspect)
    if aspect.watches_objects:
        from klasy.weaver import objects

        missed |= {probe: watch.Misses(number, False) for probe, number in objects.missed(aspect).items()}
    for probe, misses in missed.items():
        ids = served.get(probe, [])
        for index in ids:
            count = result[index]
            result[index] = replace(
                count,
                missed=count.missed + misses.number,
                partly=count.partly or misses.partly,
                shared=count.shared or (len(ids) > 1 and misses.number > 0),
                part=count.part + misses.number / len(ids),
            )
    return result


def served_by(aspect: WovenAspect) -> dict[int, list[int]]:
    """The join points of each watch, by the index of its probe."""
    found = {watched["probe"]: watched["joinpoints"] for watched in watch.watches_of(aspect)}
    for index, probe in enumerate(aspect.document["probes"]):
        if probe.get("object"):
            found[index] = probe["object"]["joinpoints"]
    return found
