"""What is not woven costs nothing: the load before any weave, with other functions woven, and after unweaving.

``woven elsewhere`` has aspects on 20 other functions while the load runs, none of which it calls. ``woven here`` is
there to show that the load would tell.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from klasy.bench import own, peers
from klasy.bench.hits import FUNCTION
from klasy.bench.measure import Limit, Report, Variant, rows, run
from klasy.bench.syscall_loop import LSEEK, SyscallLoop
from klasy.plain import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klasy.backend.artifact import Artifact
    from klasy.bench.measure import Scale


GROUP = "lseek on /dev/null"
LIMIT = Limit("of never woven", most=1.05)
ELSEWHERE = "pointcut execution(vfs_m*) || execution(vfs_s*); before() { }"
_SAMPLES = 60
_SECONDS = 0.005


def measure(scale: Scale) -> Report:
    """Run the experiment."""
    here = own.aspect(f"pointcut execution({FUNCTION}); before() {{ }}")
    call = own.aspect(f"pointcut execution({FUNCTION}); before() {{ }}", force="kprobe")
    elsewhere = own.aspect(ELSEWHERE)
    with SyscallLoop(LSEEK, 2, cpu=max(os.sched_getaffinity(0))) as loop:
        calls = loop.calls_in(scale.seconds or _SECONDS)

        def sample() -> float:
            return loop.seconds(calls) / calls * 1e9

        @contextmanager
        def bare(before: Artifact | None = None) -> Iterator[Callable[[], float]]:
            if before is not None:
                with own.woven(before):
                    sample()
                peers.free_of(FUNCTION)
            sample()
            yield sample

        @contextmanager
        def woven(artifact: Artifact) -> Iterator[Callable[[], float]]:
            with own.woven(artifact):
                sample()
                yield sample
            peers.free_of(FUNCTION)

        # The first of all: in the first round nothing was woven yet at all, in later ones some time has gone by.
        variants = [
            Variant(GROUP, "never woven", "reference", bare),
            Variant(GROUP, "woven elsewhere", "klasy", lambda: woven(elsewhere)),
            Variant(GROUP, "unwoven (fentry)", "klasy", lambda: bare(here)),
            Variant(GROUP, "unwoven (kprobe)", "klasy", lambda: bare(call)),
            Variant(GROUP, "woven here (fentry)", "contrast", lambda: woven(here)),
            Variant(GROUP, "woven here (kprobe)", "contrast", lambda: woven(call)),
        ]
        first = min(sample() for _ in range(_SAMPLES))
        samples, missing = run(variants, scale, each=_SAMPLES)
    found = rows(variants, samples)
    base = found[0].median
    found = [replace(row, ratios={LIMIT.name: row.median / base}) for row in found]
    note = f"before the first weave of all: {first:.1f} ns a call"
    number = len(elsewhere.plan.joinpoints)
    found = [replace(row, note=f"{number} functions") if row.name == "woven elsewhere" else row for row in found]
    return Report("unwoven", "a call on whose way nothing is woven", "ns", tuple(found), missing, (LIMIT,), (note,))
