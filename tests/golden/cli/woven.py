"""Woven aspects for the golden cases of commands: as a registry entry, maps and counters would have them."""

from __future__ import annotations

from typing import Any, Never, Self

from klasy.errors import KernelRefused
from klasy.match.filter import Cgroup, Filter, User
from klasy.weaver.counts import Count
from klasy.weaver.woven import Cost, WovenJoinPoint


class FakeWoven:
    """What the commands use of a WovenAspect."""

    watches_data = False
    watches_objects = False
    states = ()

    def __init__(
        self,
        name: str,
        joinpoints: tuple[WovenJoinPoint, ...],
        counts: list[Count],
        *,
        source: str | None = None,
        since_ns: int = 9_000_000_000_000,
        active: bool = True,
        unreached: tuple[dict[str, Any], ...] = (),
        cost: Cost | None = None,
        wanted: Filter | None = None,
    ) -> None:
        self.name = name
        self.joinpoints = joinpoints
        self.source_name = source or f"{name}.asp"
        self.since_ns = self.monotonic_ns = since_ns
        self.document = {"probes": []}
        self.active = active
        self.stopped = not active
        self.unreached = list(unreached)
        self._counts = counts
        self._cost = cost or Cost(0, 0)
        self.budget = 2.5 if cost else None
        self.filter = wanted.to_json() if wanted else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self) -> Never:
        """There is no log to be looked at."""
        raise KernelRefused("no map", 2)

    def counts(self) -> list[Count]:
        """Of each join point."""
        return self._counts

    @staticmethod
    def hits(counts: list[Count]) -> int:
        """In all."""
        return sum(count.hits for count in counts)

    def cost(self) -> Cost:
        """Of the programs."""
        return self._cost

    def costs(self) -> dict[int, Cost]:
        """Each join point's, where there is one."""
        return dict.fromkeys(range(len(self.joinpoints)), self._cost) if self._cost.runs else {}

    def over_budget(self) -> tuple[int, int] | None:
        """What is stopped has been by its budget."""
        return (25_100_000, 900_000_000) if self.stopped else None

    def unfollowed(self) -> int:
        """Some, where children are followed at all."""
        return 3 if self.filter and self.filter["children"] else 0

    def unknown_callers(self) -> dict[int, int]:
        """None: their names come from the running kernel."""
        return {}


def _call(
    aspect: str, number: int, caller: str, callee: str = "skb_dequeue", module: str | None = None
) -> WovenJoinPoint:
    return WovenJoinPoint(
        number, aspect, "before#0", "call", caller, 0x10 + number, 0xFFFF_FFFF_8100_0010 + number, module, callee, None,
        "tail" if caller.endswith("_tail") else "direct", None, None, "kprobe dispatch", "many calls",
    )  # fmt: skip


def _execution(aspect: str, number: int, function: str, advice: str = "before#0") -> WovenJoinPoint:
    return WovenJoinPoint(
        number, aspect, advice, "execution", function, 0, 0xFFFF_FFFF_8100_0000, None, None, None, None, None, None,
        "fentry" if advice.startswith("before") else "fexit", "no trap",
    )  # fmt: skip


def _few() -> FakeWoven:
    points = [_call("few", n, c) for n, c in enumerate(("unix_read", "netpoll", "queue_tail", "tcp_recvmsg"))]
    unknown = WovenJoinPoint(
        4, "few", "before#0", "call", None, None, None, None, "skb_dequeue", None, None, None, None,
        "kprobe dispatch", "many calls",
    )  # fmt: skip
    hits_and_lost = ((7, 0), (0, 0), (4_321, 5), (0, 0), (3, 0))
    counts = [Count(hits, lost, 0, 2, shared=True, part=0.4) for hits, lost in hits_and_lost]
    return FakeWoven("few", (*points, unknown), counts, cost=Cost(4_331, 4_331_000))


def _many() -> FakeWoven:
    points = [_call("many", n, f"caller_{n}", "kfree", "ext4" if n % 2 else None) for n in range(200)]
    counts = [Count(200 - n if n < 80 else 0, 0, 0, 0) for n in range(200)]
    missing = {
        "advice": "before#0", "kind": "call", "offset": 4, "address": 1, "module": None, "callee": "kfree",
        "callee_module": None, "call": "direct", "file": None, "line": None, "code": "notrace",
        "reason": "it is marked notrace",
    }  # fmt: skip
    unreached = tuple(missing | {"function": f"hidden_{n}"} for n in range(30))
    return FakeWoven("many", tuple(points), counts, unreached=unreached, active=False)


def _pair() -> FakeWoven:
    points = (_execution("pair", 0, "tcp_sendmsg"), _execution("pair", 1, "tcp_sendmsg", "after#1"))
    counts = [Count(0, 0, 0, 0, partly=True), Count(0, 0, 0, 3, partly=True, part=3)]
    return FakeWoven("pair", points, counts, source="a\x1b[2J.asp", since_ns=9_999_000_000_000)


def _silent() -> FakeWoven:
    wanted = Filter((12, 34), (b"a\x1b[2J",), (Cgroup("/a/b", 7, 2),), (User(0, "0 (root)"),), children=True)
    return FakeWoven("silent", (_execution("silent", 0, "tcp_ack"),), [Count(0, 0, 0, 0)], wanted=wanted)


ASPECTS = {aspect.name: aspect for aspect in (_few(), _many(), _pair(), _silent())}


def foreign() -> dict[str, str]:
    """What stands where aspects should be and is none."""
    return {"other": "not a registry entry of klasy"}
