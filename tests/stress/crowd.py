"""Many processes that weave and unweave at once, all at the same function: nobody loses a hit, and nothing is left.

Each process weaves, replaces and unweaves aspects of its own, whose advice is for its own hits only; and all of them
contend for one aspect of one name. Meanwhile CPU 1 goes and comes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from support.inventory import KernelLog, inventory, settled

from klasy.kernel.live import LiveKernel
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.session import AlreadyWoven, Machine, machine_of, weave
from klasy.weaver.unweave import unweave
from klasy.weaver.woven import NotWoven
from stress.versions import work

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import SynchronizedArray

    from klasy.backend.artifact import Artifact
    from stress import Figures

FULL, SMALL = 200, 8  # weaves, of all processes together
PROCESSES = 20
CALLS = 5

MECHANISMS = (
    "before(): execution(__x64_sys_setfsuid)",
    "after(): execution(__x64_sys_setfsuid)",
    "before(): call(__sys_setfsuid) && within(__x64_sys_setfsuid)",
    "before(): syscall(setfsuid)",
)
SHARED = "aspect shared { before(): execution(__x64_sys_setfsuid) { log(pid); } }"
CPU1 = Path("/sys/devices/system/cpu/cpu1/online")


def run(size: int, seed: int) -> Figures:
    """``size`` weaves in all."""
    print(f"crowd: seed {seed}")
    kernel = LiveKernel()
    machine = machine_of(kernel)
    number = min(PROCESSES, size)
    # A process knows its own name only when it is there, so what it is to weave is told apart by a thread's name.
    made = [_build(kernel, f"own{n}", MECHANISMS[n % len(MECHANISMS)], f"crowd{n}") for n in range(number)]
    shared = build(SourceFile("shared.asp", SHARED), kernel)
    log, nothing = KernelLog(), inventory()
    fork = multiprocessing.get_context("fork")
    tallies = [fork.Array("l", 4) for _ in range(number)]
    children = [
        fork.Process(target=_child, args=(f"crowd{n}", seed + n, -(-size // number), (made[n], shared, machine), tally))
        for n, tally in enumerate(tallies)
    ]
    begun = time.monotonic()
    for child in children:
        child.start()
    turns = 0
    complaints = []
    while any(child.is_alive() for child in children):
        CPU1.write_text("0")
        CPU1.write_text("1")
        turns += 1
        complaints += log.complaints()  # read in time: each CPU that comes and goes is told of there
        time.sleep(0.5)
    for child in children:
        child.join()
    took = time.monotonic() - begun
    assert [child.exitcode for child in children] == [0] * number
    with suppress(NotWoven):
        unweave(["shared"])
    left = settled(lambda found: not found - nothing) - nothing
    assert not left, left.text()
    complaints += log.complaints()
    log.close()
    assert not complaints, complaints
    weaves, hits, missed, contended = (sum(column) for column in zip(*(tally[:] for tally in tallies), strict=True))
    return {
        "processes": number,
        "weaves and replacements": weaves,
        "hits": hits,
        "of them missed, and said so": missed,
        "refused because another had the name, or had taken it out": contended,
        "CPU 1 offline and online again": turns,
        "seconds": round(took, 1),
        "left over": 0,
    }


def _build(kernel: LiveKernel, name: str, head: str, comm: str) -> list[Artifact]:
    text = f'aspect {name} {{ {head} && if(comm == "{comm}") {{ log(now); }} }}'
    return build(SourceFile(f"{name}.asp", text), kernel)


def _child(
    comm: str,
    seed: int,
    rounds: int,
    what: tuple[list[Artifact], list[Artifact], Machine],
    tally: SynchronizedArray[int],
) -> None:
    """Weave, be hit, replace, be hit, unweave; and contend. Whatever is wrong ends it with another status than 0."""
    try:
        Path("/proc/self/comm").write_text(comm)
        rng = random.Random(seed)
        own, shared, machine = what
        name = own[0].plan.aspect.name
        for _ in range(rounds):
            for replacing in (False, True) if rng.random() < 0.5 else (False,):
                (aspect,) = weave(own, machine, replace=replacing)
                with aspect:
                    work(CALLS)
                    (count,) = aspect.counts()
                # On the older kernel what other aspects' programs kept from running shows in all of their counts.
                assert count.hits <= CALLS <= count.hits + count.missed, (name, count)
                tally[0] += 1
                tally[1] += count.hits
                tally[2] += CALLS - count.hits
            try:
                if rng.random() < 0.5:
                    for one in weave(shared, machine, replace=rng.random() < 0.5):
                        one.close()
                else:
                    unweave(["shared"])
            except (AlreadyWoven, NotWoven):
                tally[3] += 1
            assert unweave([name]) == [name]
    except BaseException:
        traceback.print_exc()
        os._exit(1)
