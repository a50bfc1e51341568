"""Every access to one type of object that is found in the whole kernel, woven at once, under load.

``get(struct sk_buff *skb)`` is some 13,000 instructions: each gets a kernel probe, which takes an emulated guest ten to
thirty minutes. Three times they are woven: by an aspect that counts by function, by one that logs, and by a command
that gets Ctrl-C in the middle. Counts of a sample of the instructions, some that traffic passed and some drawn at
random, are compared with those of kernel probes of the run's own.

A full run finds and compiles on the host, for a snapshot of the guest's kernel.
"""

from __future__ import annotations

import marshal
import math
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.inventory import KernelLog, inventory, memory, settled

from klasy.api import open_reader
from klasy.log.rawfile import pieces
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.recipe import Recipe, from_data, recipe_of, to_data
from klasy.weaver.remove import switch
from klasy.weaver.session import machine_of, weave
from klasy.weaver.states import read_states
from klasy.weaver.unweave import unweave
from stress.account import Account, disagreements, reading
from stress.churn import busy_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klasy.kernel.image import KernelImage
    from klasy.kernel.snapshot import SnapshotKernel
    from klasy.log.reader import LogReader
    from klasy.weaver.counts import Count
    from klasy.weaver.session import Machine
    from klasy.weaver.woven import WovenAspect
    from stress import Figures

FULL, SMALL = 2, 1  # 2: the whole kernel; 1: what is named ip_rcv..

SECONDS = 20.0  # under load; scaled down, less
SETTLE = 120.0
TELL = 30.0
COMPARED = 50
BODIES = {
    "counting": "count by[joinpoint.function];\n    before(struct sk_buff *skb): {} {{ by[joinpoint.function]++; }}",
    "logging": 'before(struct sk_buff *skb): {} {{ log("%p %u", skb, skb->len); }}',
}
WHERE = {1: "get(struct sk_buff *skb) && within(ip_rcv*)", 2: "get(struct sk_buff *skb)"}


class Made(NamedTuple):
    """What is woven, by name; of each join point its number, address and what it is; what is left out, by reason."""

    recipes: dict[str, Recipe]
    points: list[tuple[int, int, str]]
    left_out: dict[str, int]
    seconds: float


def _make(kernel: KernelImage, size: int, options: PlanOptions | None = None) -> Made:
    recipes = {}
    begun = time.process_time()
    for name, body in BODIES.items():
        text = f"aspect {name} {{\n    {body.format(WHERE[size])}\n}}\n"
        (artifact,) = build(SourceFile(f"{name}.asp", text), kernel, options)
        recipes[name] = recipe_of(artifact)
    plan = artifact.plan
    points = [
        (p.id, p.shadow.address, f"{p.shadow.function and p.shadow.function.name}+{p.shadow.offset:#x}")
        for p in plan.joinpoints
    ]
    left_out = dict(Counter(each.reason for each in plan.unreached))
    return Made(recipes, points, left_out, time.process_time() - begun)


def prepare(kernel: SnapshotKernel, size: int, _: int) -> Path:
    """On the host: find and compile for the guest's kernel; the file for :func:`run`."""
    from stress.host import WORK, features

    path = WORK / f"everywhere-{kernel.release}-{size}"
    made = _make(kernel, size, PlanOptions(features(kernel)))
    print(f"found and compiled: {len(made.points)} join points, {made.seconds:.0f} s of processor time", flush=True)
    with open(path, "wb") as file:
        data = {name: to_data(recipe) for name, recipe in made.recipes.items()}
        marshal.dump((kernel.build_id, kernel.symbols[None].base, data, *made[1:]), file)
    return path


def run(size: int, seed: int, made: str | None = None) -> Figures:
    """``size``: 2 for the whole kernel, 1 for a part of it; ``made`` is the file of what was made on the host."""
    from klasy.kernel.live import LiveKernel

    print(f"everywhere: seed {seed}")
    kernel = LiveKernel()
    if made is None:
        what = _make(kernel, size)
    else:
        with open(made, "rb") as file:
            build_id, base, data, *rest = marshal.load(file)
        assert (build_id, base) == (kernel.build_id, kernel.symbols[None].base), f"made for another boot: {made}"
        what = Made({name: from_data(each) for name, each in data.items()}, *rest)
    machine = machine_of(kernel)
    log, nothing = KernelLog(), inventory()
    seconds = SECONDS if size == FULL else 1.0
    figures: Figures = {"places": len(what.points), "left out, why": what.left_out}

    def afterwards(name: str) -> None:
        left = settled(lambda found: not found - nothing, SETTLE) - nothing
        assert not left, left.text()
        complaints = log.complaints()
        assert not complaints, complaints
        print(f"    {name}: {figures[name]}", flush=True)

    with busy_kernel():
        free = memory()["MemAvailable"]
        with _woven(what.recipes["counting"], machine) as (aspect, took):
            figures["MB of memory while woven"] = (free - memory()["MemAvailable"]) // 1024
            counted = _counted(aspect, what.points, seconds, random.Random(seed))
        figures["counting"] = {**counted, **took}
        afterwards("counting")
        with _woven(what.recipes["logging"], machine) as (aspect, took):
            logged = _logged(aspect, seconds)
        figures["logging"] = {**logged, **took}
        afterwards("logging")
        figures["interrupted"] = _interrupted(what.recipes["counting"], machine, len(what.points))
        afterwards("interrupted")
    log.close()
    return {**figures, "counted wrongly": 0, "complaints of the kernel": 0, "left over": 0}


@contextmanager
def _woven(recipe: Recipe, machine: Machine) -> Iterator[tuple[WovenAspect, dict[str, float]]]:
    """An aspect while it is woven; how long that took, and at the end the unweaving."""
    took = {}
    steps: dict[str, float] = {}  # when each kind of step began last
    begun = said = time.monotonic()

    def on_step(_: str, step: str) -> None:
        nonlocal said
        now = steps[step.split(maxsplit=1)[0]] = time.monotonic()
        if now - said > TELL:
            said = now
            print(f"        {now - begun:.0f} s: {step}", flush=True)

    (aspect,) = weave([recipe], machine, on_step=on_step)
    took["seconds to weave"] = round(time.monotonic() - begun, 1)
    took["of them to define all probes"] = round(steps["define"] - steps["attach"], 1)
    took["to arm them"] = round(steps["registry"] - steps["define"], 1)
    print(f"    {recipe.name} woven: {took}", flush=True)
    try:
        with aspect:
            yield aspect, took
    finally:
        begun = time.monotonic()
        unweave([aspect.name])
        took["seconds to unweave"] = round(time.monotonic() - begun, 1)


def _counted(
    aspect: WovenAspect, points: Sequence[tuple[int, int, str]], seconds: float, rng: random.Random
) -> dict[str, object]:
    """What is hit under load; of a sample, against the kernel's own counts."""
    before = aspect.counts()
    time.sleep(seconds)
    after = aspect.counts()
    hit = [point for point in points if after[point[0]].hits > before[point[0]].hits]
    sample = set(rng.sample(hit, min(COMPARED // 2, len(hit))))
    sample.update(rng.sample(points, min(COMPARED - len(sample), len(points))))
    chosen = sorted({address: (number, address, text) for number, address, text in sample}.values(), key=lambda p: p[1])
    with Account([address for _, address, _ in chosen]) as account:

        def counts() -> list[Count]:
            every = aspect.counts()
            return [every[number] for number, _, _ in chosen]

        first = reading(account, counts)
        time.sleep(seconds)
        last = reading(account, counts)
    wrong = [f"{chosen[number][2]}: {what}" for number, what in disagreements(first, last)]
    assert not wrong, "\n".join(wrong)
    compared = [now.hits - then.hits for then, now in zip(first.counts, last.counts, strict=True)]
    assert any(compared)
    _by_function(aspect)
    return {
        "places hit, hits": f"{len(hit)}, {sum(now.hits - then.hits for then, now in zip(before, after, strict=True))}",
        "missed, and said so": round(sum(now.part - then.part for then, now in zip(before, after, strict=True))),
        "compared, of them hit, their hits": f"{len(chosen)}, {sum(map(bool, compared))}, {sum(compared)}",
    }


def _by_function(aspect: WovenAspect) -> None:
    """What the aspect itself counted by function lies between what its join points there counted before and after."""
    names = [point.function for point in aspect.joinpoints]
    before = aspect.counts()
    (state,) = read_states(aspect)
    after = aspect.counts()
    assert not state.losses.lost, state.losses
    kept: Counter[str | None] = Counter()
    for key, words in state.elements:
        kept[names[int.from_bytes(key[:4], "little")]] += words[0]
    least, most = Counter[str | None](), Counter[str | None]()
    for name, then, now in zip(names, before, after, strict=True):
        least[name] += then.hits
        most[name] += now.hits
    # A hit is counted before the advice runs: of those under way at the first reading, one a CPU, the rest may lack.
    short = os.cpu_count() or 1
    wrong = {
        name: (least[name], kept[name], most[name])
        for name in least
        if not least[name] - short <= kept[name] <= most[name]
    }
    assert not wrong, wrong


def _logged(aspect: WovenAspect, seconds: float) -> dict[str, object]:
    """What is logged under load: each hit is a record, or counted as lost."""
    records = 0
    reader, _ = open_reader([aspect])
    with reader:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            reader.wait(0.1)
            records += _read(reader, deadline)
        switch(aspect.path, on=False)
        time.sleep(0.2)
        records += _read(reader)
    counts = aspect.counts()
    hits, lost = sum(count.hits for count in counts), sum(count.lost for count in counts)
    assert hits, "nothing was logged"
    assert hits == records + lost, (hits, records, lost)
    return {"hits": hits, "records read": records, "lost for want of room, and said so": lost}


def _read(reader: LogReader, deadline: float = math.inf) -> int:
    """How many records are read, of those that there are; before a deadline, for more may come meanwhile."""
    records = 0
    for batch in reader.raw():
        if time.monotonic() > deadline:
            break  # this one is not consumed: it comes again
        assert isinstance(batch, memoryview)
        records += len(pieces(batch))
    return records


def _interrupted(recipe: Recipe, machine: Machine, places: int) -> dict[str, object]:
    """Another process weaves; when it has defined half of it, it gets what Ctrl-C sends. How long it takes to end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def on_step(_: str, step: str) -> None:
            words = step.split()
            if words[0] == "define" and int(words[1]) >= places // 2:
                os.write(writer, b"!")

        try:
            weave([recipe], machine, on_step=on_step)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writer)
    begun = time.monotonic()
    assert os.read(reader, 1), "it ended before it was half done"
    half, begun = time.monotonic() - begun, time.monotonic()
    os.kill(child, signal.SIGINT)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reader)
    assert status == 130, f"exit status {status}"
    return {"seconds until half": round(half, 1), "seconds to be gone after Ctrl-C": round(time.monotonic() - begun, 1)}
