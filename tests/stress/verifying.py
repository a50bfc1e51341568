"""Random aspects that klasy accepts, and some large ones: the kernel's verifier accepts every program made of them.

They are loaded and not attached. What klasy itself refuses in its own words (an advice that is too large, say) is
counted apart; what the verifier refuses is a fault of klasy's, and printed with the aspect.

A full run compiles on the host, for a snapshot of the guest's kernel, where that takes a twentieth of the time,
and hands the programs to the guest. Scaled down, all of it happens in the guest.
"""

from __future__ import annotations

import marshal
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from support.aspectgen import AspectGenerator

from klasy.bpf.verifier import TOO_LARGE, VerifierError
from klasy.errors import InputError
from klasy.match.options import Features, PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.recipe import from_data, recipe_of, to_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from klasy.backend.artifact import MapSpec
    from klasy.bpf.maps import Map
    from klasy.kernel.image import KernelImage
    from klasy.kernel.snapshot import SnapshotKernel
    from klasy.weaver.recipe import Recipe
    from stress import Figures

FULL, SMALL = 10_000, 4
FAULTS = 5  # after so many there is enough to mend

FORCED = (None, "fentry", "kprobe")
# Of the whole kernel: some thousand join points each, of which a program has much to tell apart. None may be refused.
LARGE = (
    "aspect a { count by[joinpoint.function]; before(): call(kfree) { by[joinpoint.function]++; } }",
    "aspect a { before(void *p): call(kfree(void *p)) { log(p); log(stack()); } after(): call(kfree) { log(pid); } }",
    "aspect a { before(struct file *f): execution(*(.., struct file *f, ..)) { log(f->f_mode, joinpoint.function); } }",
    "aspect a { before(struct file *f): call(*(.., struct file *f, ..)) { log(f->f_mode); } }",
    "aspect a { count at[joinpoint.address]; "
    "before(struct inode *i): access(struct inode *i) { at[joinpoint.address]++; log(i->i_ino); } }",
    "aspect a { before(struct sk_buff *s): get(struct sk_buff *s) { log(s, s->len); } }",
    "aspect a { before(struct sock *s): get(struct sock *s) { log(s); } "
    "after(struct sock *s): set(struct sock *s) { log(s); } }",
    "aspect a { before(struct task_struct *t): set(struct task_struct *t) { log(t->pid, t->comm); } }",
    "aspect a { before(): set(struct sk_buff.len) || set(struct sk_buff.data_len) { log(old, new); } "
    "after(struct sk_buff *s): set(struct sk_buff.len) && target(s) { log(old, new, s->data_len); } }",
    "aspect a { before(): execution(s*) { log(joinpoint.function); } "
    "after() returning (long r): execution(s*) { log(r); } }",
)


def run(size: int, seed: int, made: str | None = None) -> Figures:
    """``size`` aspects; ``made`` is the file of what was made of them on the host."""
    print(f"verifying: seed {seed}")
    if made is not None:
        return _verify(_read(Path(made)), "loading")
    from klasy.kernel.live import LiveKernel
    from klasy.weaver.features import RunningFeatures

    return _verify(_compile(LiveKernel(), RunningFeatures(), size, seed), "compiling and loading")


# --- compiling ------------------------------------------------------------------------------------------------------


def _compile(
    kernel: KernelImage, features: Features, size: int, seed: int, large: Sequence[str] = ()
) -> Iterator[tuple[str, Recipe | set[str]]]:
    """The texts, each with what was made of it or the codes of what klasy said against it."""
    rng = random.Random(seed)
    generator = AspectGenerator(rng, kernel, min(200, 4 * size))
    for text in [*large, *(generator.text() for _ in range(size))]:
        options = PlanOptions(features, None if text in large else rng.choice(FORCED))
        try:
            (artifact,) = build(SourceFile("random.asp", text), kernel, options)
        except InputError as error:
            yield text, {d.code for d in error.diagnostics if d.severity.value == "error"} or {"other"}
            continue
        yield text, recipe_of(artifact)


def prepare(kernel: SnapshotKernel, size: int, seed: int) -> Path:
    """On the host: compile for the guest's kernel; the file for :func:`run`. What it holds is for that build only."""
    from stress.host import WORK, features

    told = features(kernel)
    path = WORK / f"verifying-{kernel.release}-{size}-{seed}"
    begun = time.process_time()
    with open(path, "wb") as file:
        asked = (told.kprobe_multi, told.max_trampoline_arg_registers)
        marshal.dump((kernel.build_id, asked), file)
        for text, what in _compile(kernel, told, size, seed, LARGE):
            marshal.dump((text, what if isinstance(what, set) else to_data(what)), file)
    print(f"compiled: {size} aspects, {(time.process_time() - begun) * 1000 / size:.0f} ms of processor time each")
    return path


def _read(path: Path) -> Iterator[tuple[str, Recipe | set[str]]]:
    """What a file has that was made for this kernel."""
    from klasy.kernel.live import LiveKernel
    from klasy.weaver.features import RunningFeatures

    running = RunningFeatures()
    with open(path, "rb") as file:
        build_id, asked = marshal.load(file)
        assert build_id == LiveKernel().build_id, "made for another kernel"
        assert asked == (running.kprobe_multi, running.max_trampoline_arg_registers)
        while file.peek(1):
            text, what = marshal.load(file)
            yield text, what if isinstance(what, set) else from_data(what)


# --- loading --------------------------------------------------------------------------------------------------------


def _verify(made: Iterable[tuple[str, Recipe | set[str]]], doing: str) -> Figures:
    """Load all of it."""
    from klasy.weaver.attach import ModuleBtf, load

    refused: Counter[str] = Counter()
    aspects = programs = instructions = accepted = most = 0
    faults: list[str] = []
    begun = time.monotonic()
    with ExitStack() as held:
        modules = ModuleBtf()
        held.callback(modules.close)
        kept: dict[Any, Map] = {}
        for text, recipe in made:
            aspects += 1
            if isinstance(recipe, set):
                refused.update(recipe)
                faults += [f"klasy refuses it: {recipe}\n{text}"] if text in LARGE else []
                continue
            with ExitStack() as its_own:
                its_maps = {spec.name: _map(spec, kept, held, its_own) for spec in recipe.maps}
                try:
                    for spec in recipe.programs:
                        load(spec, recipe.probes[spec.probe], its_maps, modules).close()
                        programs += 1
                        instructions += len(spec.code.code) // 8
                        most = max(most, len(spec.code.code) // 8)
                except VerifierError as error:
                    if TOO_LARGE in error.message and text not in LARGE:  # the weaver says so in the user's terms
                        refused["too-large"] += 1
                        continue
                    faults.append(f"{error}\n{text}")
                    if len(faults) >= FAULTS:
                        break
                    continue
            accepted += 1
    assert not faults, f"refused, by the verifier if no one else is named: {len(faults)}\n\n" + "\n\n".join(faults)
    assert accepted > aspects / 2, f"of {aspects} aspects klasy itself refuses too many: {refused}"
    return {
        "aspects": aspects,
        "accepted by klasy and the verifier": accepted,
        "programs, instructions, the most of one": f"{programs}, {instructions}, {most}",
        "refused by klasy, why": dict(refused),
        "refused by the verifier": 0,
        f"ms an aspect, {doing}": round((time.monotonic() - begun) * 1000 / aspects),
    }


def _map(spec: MapSpec, kept: dict[Any, Map], held: ExitStack, its_own: ExitStack) -> Map:
    """A map; an empty one serves other aspects that want one like it, as nothing runs."""
    from support.livebackend import create

    if spec.initial or spec.frozen:
        return its_own.enter_context(create(spec))
    like = (spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)
    if like not in kept:
        kept[like] = held.enter_context(create(spec))
    return kept[like]
