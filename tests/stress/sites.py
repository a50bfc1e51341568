"""Call sites and accesses to members all over the kernel, drawn at random: woven by the hundred, they count rightly.

In each round an aspect of up to a hundred of them is woven under load. Each join point's count is compared with that of
a kernel probe of the run's own at the same instruction. What klasy refuses it must refuse with its reason; what it
weaves must do the kernel no harm, and leave nothing in it.

A full run draws and compiles on the host, for a snapshot of the guest's kernel; scaled down, all of it happens in the
guest.
"""

from __future__ import annotations

import marshal
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.inventory import KernelLog, inventory, settled

from klasy.errors import InputError
from klasy.flow.cfg import Unit
from klasy.flow.engine import Engine
from klasy.flow.sites import PROVED
from klasy.kernel.model import CallKind
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.recipe import Recipe, from_data, recipe_of, to_data
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave
from stress.account import Account, disagreements, reading
from stress.churn import busy_kernel
from stress.versions import work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klasy.kernel.image import KernelImage
    from klasy.kernel.snapshot import SnapshotKernel
    from klasy.match.plan import JoinPoint
    from klasy.weaver.counts import Count
    from klasy.weaver.session import Machine
    from stress import Figures

FULL, SMALL = 2000, 3
ROUND = 100
MEMBERS = 0.4  # of the sites
SECONDS = 2.0  # under load, in a whole round


class Drawn(NamedTuple):
    """A pointcut for one random site (and what else it selects in the same function), or why klasy refuses it."""

    pointcut: str
    refused: str | None


def _aspect(pointcuts: list[str]) -> SourceFile:
    either = "\n        || ".join(f"({pointcut})" for pointcut in pointcuts)
    return SourceFile("drawn.asp", f"aspect drawn {{\n    count n;\n    before(): {either} {{ n++; }}\n}}\n")


# --- drawing --------------------------------------------------------------------------------------------------------


def draw(kernel: KernelImage, size: int, seed: int) -> list[Drawn]:
    """So many that klasy weaves, and those that came between and that it refuses."""
    rng = random.Random(seed)
    symbols = kernel.symbols[None]
    engine = Engine(kernel)
    drawn: list[Drawn] = []
    seen = set()
    wanted = size
    while wanted:
        index = rng.randrange(len(symbols.starts))
        make = _member if rng.random() < MEMBERS else _call
        pointcut = make(kernel, engine, rng, index)
        if pointcut is None or pointcut in seen:
            continue
        seen.add(pointcut)
        try:
            build(_aspect([pointcut]), kernel)
        except InputError as error:
            codes = " ".join(sorted({item.code for item in error.diagnostics}))
            if not codes:
                raise
            drawn.append(Drawn(pointcut, codes))
            continue
        drawn.append(Drawn(pointcut, None))
        wanted -= 1
    return drawn


def _known(kernel: KernelImage, name: str) -> bool:
    """Whether a name means one function, and can be written."""
    return name.isidentifier() and len(kernel.functions(name)) == 1


def _call(kernel: KernelImage, _: Engine, rng: random.Random, index: int) -> str | None:
    caller = kernel.function_at(kernel.symbols[None].address(index))
    if caller is None or not _known(kernel, caller.name):
        return None
    sites = [site for site in kernel.calls_in([caller]) if site.callee and _known(kernel, site.callee.name)]
    if not sites:
        return None
    callee = rng.choice(sites).callee
    assert callee is not None
    return f"call({callee.name}) && within({caller.name})"


def _member(kernel: KernelImage, engine: Engine, rng: random.Random, index: int) -> str | None:
    function = kernel.function_at(kernel.symbols[None].address(index))
    if function is None or not _known(kernel, function.name):
        return None
    types = engine.seeds.types_of(None)
    rows = [row for row in engine.rows(Unit(engine.text(None), index)) if row.type_id and row.confidence == PROVED]
    if not rows:
        return None
    row = rng.choice(rows)
    struct, member = types.name(row.type_id), types.member_name(row.type_id, row.offset)
    kind = {1: "get", 2: "set", 3: "access"}[row.rw]
    if not all(part.isidentifier() for part in (*struct.split(), *member.split("."))):
        return None
    return f"{kind}({struct}.{member}) && within({function.name})"


# --- what is made of it ---------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A join point: its number in the aspect, its instruction, and what is said of it.

    ``conditional``: it need not happen each time that its instruction is passed.
    """

    number: int
    address: int
    kind: str
    conditional: bool
    text: str


class Round(NamedTuple):
    """What is woven at once."""

    recipe: Recipe
    places: list[Place]


def _rounds(kernel: KernelImage, drawn: list[Drawn]) -> Iterator[Round]:
    good = [each.pointcut for each in drawn if each.refused is None]
    for start in range(0, len(good), ROUND):
        (artifact,) = build(_aspect(good[start : start + ROUND]), kernel)
        places = [_place(point) for point in artifact.plan.joinpoints if point.shadow.address]
        yield Round(recipe_of(artifact), places)


def _place(point: JoinPoint) -> Place:
    shadow = point.shadow
    conditional = shadow.site is not None and shadow.site.kind is CallKind.TAIL
    what = f"{shadow.kind.value} of {shadow.callee or shadow.data} at {shadow.function}+{shadow.offset:#x}"
    return Place(
        point.id, shadow.address, shadow.kind.value, conditional, f"{what}, by {point.mechanism} ({point.why})"
    )


def prepare(kernel: SnapshotKernel, size: int, seed: int) -> Path:
    """On the host: draw and compile for the guest's kernel; the file for :func:`run`."""
    from stress.host import WORK

    path = WORK / f"sites-{kernel.release}-{size}-{seed}"
    drawn = draw(kernel, size, seed)
    with open(path, "wb") as file:
        marshal.dump((kernel.build_id, kernel.symbols[None].base, [tuple(each) for each in drawn]), file)
        for recipe, places in _rounds(kernel, drawn):
            marshal.dump((to_data(recipe), [tuple(place) for place in places]), file)
    return path


def _read(path: Path, kernel: KernelImage) -> Iterator[Round]:
    with open(path, "rb") as file:
        assert marshal.load(file)[:2] == (kernel.build_id, kernel.symbols[None].base), f"made for another boot: {path}"
        while file.peek(1):
            recipe, places = marshal.load(file)
            yield Round(from_data(recipe), [Place(*place) for place in places])


# --- weaving --------------------------------------------------------------------------------------------------------


def run(size: int, seed: int, made: str | None = None) -> Figures:
    """``size`` sites; ``made`` is the file of what was drawn and compiled on the host."""
    from klasy.kernel.live import LiveKernel

    print(f"sites: seed {seed}")
    kernel = LiveKernel()
    if made is None:
        drawn = draw(kernel, size, seed)
        rounds = _rounds(kernel, drawn)
    else:
        with open(made, "rb") as file:
            drawn = [Drawn(*each) for each in marshal.load(file)[2]]
        rounds = _read(Path(made), kernel)
    machine = machine_of(kernel)
    log, nothing = KernelLog(), inventory()
    seen: Counter[str] = Counter()
    fired: Counter[str] = Counter()
    took: list[float] = []
    with busy_kernel():
        for each in rounds:
            took.append(_one_round(each, machine, seen, fired))
            left = settled(lambda found: not found - nothing) - nothing
            assert not left, left.text()
            complaints = log.complaints()
            assert not complaints, (complaints, [place.text for place in each.places])
            print(f"    round {len(took)}: {took[-1]:.1f} s; {dict(seen | fired)}", flush=True)
    log.close()
    return {
        "pointcuts drawn": len(drawn),
        "refused with the reason": dict(Counter(each.refused for each in drawn if each.refused is not None)),
        "rounds": len(took),
        **dict(sorted(seen.items())),
        **dict(sorted(fired.items())),
        "counted wrongly": 0,
        "complaints of the kernel": 0,
        "left over": 0,
        "seconds to weave a round, median": round(statistics.median(took), 1),
    }


def _one_round(each: Round, machine: Machine, seen: Counter[str], fired: Counter[str]) -> float:
    """How long it took to weave it."""
    probed = {point.address for probe in each.recipe.probes for point in probe.points}
    # Where klasy has no probe the kernel lets nobody have one: such a call is seen at its callee's entry.
    places = [place for place in each.places if place.address in probed]
    seen["join points: seen elsewhere, and not compared"] += len(each.places) - len(places)
    with Account(sorted({place.address for place in places})) as account:
        begun = time.monotonic()
        (aspect,) = weave([each.recipe], machine)
        took = time.monotonic() - begun
        with aspect:

            def counts() -> list[Count]:
                every = aspect.counts()
                by_address = {place.address: every[place.number] for place in places}
                return [by_address[address] for address in account.addresses]

            first = reading(account, counts)
            deadline = time.monotonic() + SECONDS * len(each.places) / ROUND
            while time.monotonic() < deadline:
                work(1)
            last = reading(account, counts)
        unweave([aspect.name])
    at = {account.addresses.index(place.address): place for place in places}
    wrong = [
        f"{at[number].text}: {what}"
        for number, what in disagreements(first, last, {number for number, place in at.items() if place.conditional})
    ]
    assert not wrong, "\n".join(wrong)
    for number, place in at.items():
        seen[f"join points: {place.kind}"] += 1
        hits, missed = (
            getattr(last.counts[number], what) - getattr(first.counts[number], what) for what in ("hits", "missed")
        )
        if hits:
            fired += Counter({"of them fired, and were counted rightly": 1, "hits": hits, "hits missed": missed})
    return took
