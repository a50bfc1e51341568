"""Random aspects that klasy accepts: the running kernel's verifier accepts every program made of them.

They are loaded and not attached. What klasy itself refuses in its own words (an advice that is too large, say) is
counted apart; what the verifier refuses is a fault of klasy's, and printed with the aspect.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

from support.aspectgen import AspectGenerator
from support.livebackend import create

from klasy.bpf.verifier import TOO_LARGE, VerifierError
from klasy.errors import InputError
from klasy.kernel.live import LiveKernel
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.attach import ModuleBtf, load
from klasy.weaver.build import build
from klasy.weaver.features import RunningFeatures

if TYPE_CHECKING:
    from stress import Figures

FULL, SMALL = 10_000, 4
FAULTS = 5  # after so many there is enough to mend


def run(size: int, seed: int) -> Figures:
    """``size`` aspects."""
    print(f"verifying: seed {seed}")
    rng = random.Random(seed)
    kernel = LiveKernel()
    generator = AspectGenerator(rng, kernel, min(200, 4 * size))
    features = RunningFeatures()
    refused: Counter[str] = Counter()
    programs = instructions = accepted = 0
    faults: list[str] = []
    begun = time.monotonic()
    modules = ModuleBtf()
    for _ in range(size):
        text = generator.text()
        options = PlanOptions(features, rng.choice((None, "fentry", "kprobe")))
        try:
            (artifact,) = build(SourceFile("random.asp", text), kernel, options)
        except InputError as error:
            refused.update({d.code for d in error.diagnostics if d.severity.value == "error"} or {"other"})
            continue
        with ExitStack() as held:
            its_maps = {spec.name: held.enter_context(create(spec)) for spec in artifact.maps}
            try:
                for spec in artifact.programs:
                    load(spec, artifact.plan.probes[spec.probe], its_maps, modules).close()
                    programs += 1
                    instructions += len(spec.code.instructions)
            except VerifierError as error:
                if TOO_LARGE in error.message:  # the weaver says so in the user's terms
                    refused["too-large"] += 1
                    continue
                faults.append(f"{error}\n{text}")
                if len(faults) >= FAULTS:
                    break
                continue
        accepted += 1
    modules.close()
    assert not faults, f"seed {seed}: the verifier refuses {len(faults)} of {accepted}:\n\n" + "\n\n".join(faults)
    assert accepted > size / 2, f"of {size} aspects klasy itself refuses too many: {refused}"
    return {
        "aspects": size,
        "accepted by klasy and the verifier": accepted,
        "programs, instructions": f"{programs}, {instructions}",
        "refused by klasy, why": dict(refused),
        "refused by the verifier": 0,
        "ms an aspect": round((time.monotonic() - begun) * 1000 / size),
    }
