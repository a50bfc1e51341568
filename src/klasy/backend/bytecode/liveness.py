"""How long each value lives: the intervals that register allocation works on.

Places in the straightened code are numbered four to an operation, so that what happens within one is ordered too:

    4i      operands are read
    4i + 1  calls destroy r0 to r5
    4i + 2  operands are read that the operation needs behind its calls
    4i + 3  the result is there

An interval is the whole stretch between the first and the last place where a local is alive, holes included: the
programs are short and mostly straight, and what a finer picture would win is a register in a rare case.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from klasy.backend.bytecode.code import Local, Straight
    from klasy.compiler import ir

READ = 0
CALL = 1
READ_LATE = 2
RESULT = 3


@dataclass(frozen=True, slots=True)
class Effects:
    """What an operation does to locals and registers."""

    reads: tuple[Local, ...] = ()
    late: tuple[Local, ...] = ()  # read behind the calls
    results: tuple[Local, ...] = ()
    early: tuple[Local, ...] = ()  # results that are there before the calls
    calls: bool = False


@dataclass()
class Interval:
    """``start`` and ``end`` are places. ``crosses``: a call happens strictly between. ``uses`` counts occurrences."""

    local: Local
    start: int
    end: int
    uses: int = 0
    crosses: bool = False
    partners: list[Interval] = field(default_factory=list)  # well off in the same register

    def extend(self, place: int) -> None:
        """Make it hold ``place``."""
        self.start = min(self.start, place)
        self.end = max(self.end, place)


def intervals(blocks: list[Straight], effects: Callable[[ir.Op], Effects]) -> list[Interval]:
    """The interval of every local that occurs, by start (ties: in the order of first occurrence)."""
    known: dict[Local, Interval] = {}
    calls: list[int] = []

    def touch(local: Local, place: int, count: int = 1) -> None:
        interval = known.get(local)
        if interval is None:
            interval = known[local] = Interval(local, place, place)
        interval.extend(place)
        interval.uses += count

    all_effects = [[effects(op) for op in block.ops] for block in blocks]
    live_in, live_out = _live(blocks, all_effects)
    at = 0
    for block, block_effects in zip(blocks, all_effects, strict=True):
        for local in live_in[block.label]:
            touch(local, at, 0)
        for effect in block_effects:
            _touch(touch, effect, at)
            if effect.calls:
                calls.append(at + CALL)
            at += 4
        for local in live_out[block.label]:
            touch(local, at - 1, 0)
    for interval in known.values():
        interval.crosses = any(interval.start < call < interval.end for call in calls)
    return sorted(known.values(), key=lambda i: i.start)


def _touch(touch: Callable[[Local, int], None], effect: Effects, at: int) -> None:
    for local in effect.reads:
        touch(local, at + READ)
    for local in effect.early:
        touch(local, at + READ)
        touch(local, at + READ_LATE)
    for local in effect.late:
        touch(local, at + READ_LATE)
    for local in effect.results:
        touch(local, at + RESULT)


def _live(
    blocks: list[Straight], all_effects: list[list[Effects]]
) -> tuple[dict[int, frozenset[Local]], dict[int, frozenset[Local]]]:
    """The locals alive at the start and at the end of each block, by label."""
    needed: dict[int, frozenset[Local]] = {}
    given: dict[int, frozenset[Local]] = {}
    for block, block_effects in zip(blocks, all_effects, strict=True):
        needed[block.label], given[block.label] = _summary(block_effects)
    live_in: dict[int, frozenset[Local]] = {block.label: frozenset() for block in blocks}
    live_out = dict(live_in)
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            label = block.label
            out: frozenset[Local] = frozenset().union(*(live_in[s] for s in block.successors))
            into = needed[label] | (out - given[label])
            if out != live_out[label] or into != live_in[label]:
                live_out[label], live_in[label] = out, into
                changed = True
    return live_in, live_out


def _summary(block_effects: Iterable[Effects]) -> tuple[frozenset[Local], frozenset[Local]]:
    """What a block reads before it writes it, and what it writes."""
    needed: set[Local] = set()
    given: set[Local] = set()
    for effect in block_effects:
        needed.update(local for local in (*effect.reads, *effect.late) if local not in given)
        given.update(effect.results, effect.early)
    return frozenset(needed), frozenset(given)
