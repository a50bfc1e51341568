"""``klasy joinpoints`` for ``call(kfree)`` over the whole kernel, against a bare Python start plus its imports.

    klasy lab -- .venv/bin/python benchmarks/joinpoints.py

The aim: under 1.5 times (bare start + imports + 1 s), in the guest. "cold" is without klasy's caches, as in the first
use after a boot.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from common import CACHES, KLASY, measure, table, timed

ASPECT = 'aspect frees { pointcut call(kfree); before() { log("freed"); } }\n'
IMPORTS = (
    "from klasy import startup; startup.install(); "  # out of the pack of modules, as the command imports them
    "import klasy.cli.main, klasy.cli.joinpoints, klasy.weaver.build, klasy.kernel.live, klasy.match, klasy.compiler, "
    "klasy.backend, klasy.backend.bytecode.emit, klasy.weaver.manifest, klasy.weaver.features"
)


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    python = str(Path(KLASY).with_name("python"))
    with tempfile.TemporaryDirectory() as folder:
        aspect = Path(folder) / "frees.asp"
        aspect.write_text(ASPECT)

        def cold() -> float:
            for cache in CACHES:
                shutil.rmtree(cache, ignore_errors=True)
            return timed([KLASY, "joinpoints", str(aspect)])

        times = measure(
            rounds,
            {
                "python": lambda: timed([python, "-c", "pass"]),
                "python and imports": lambda: timed([python, "-c", IMPORTS]),
                "klasy joinpoints, cold": cold,
                "klasy joinpoints": lambda: timed([KLASY, "joinpoints", str(aspect)]),
            },
        )
    table("klasy joinpoints, call(kfree)", times, "python and imports")
    allowed = 1.5 * (statistics.median(times["python and imports"]) + 1)
    print(f"allowed: 1.5 * (imports + 1 s) = {allowed:.3f} s")
    for name in ("klasy joinpoints", "klasy joinpoints, cold"):
        taken = statistics.median(times[name])
        print(f"{name}: {taken:.3f} s, {taken / allowed:.2f} of it")


if __name__ == "__main__":
    main()
