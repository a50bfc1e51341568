"""Unweaving more than 500 call sites, each with a probe of its own.

    klasy lab -- .venv/bin/python benchmarks/unweave.py

The aim: under 2 s in the guest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import KLASY, measure, table, timed

# All calls in the socket layer: many callees with few calls each, so every call instruction gets a probe.
ASPECT = "aspect sites { pointcut call(*) && within(sock_*); before() { log(pid); } }\n"
PYTHON = str(Path(KLASY).with_name("python"))


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    points: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        aspect = Path(folder) / "sites.asp"
        aspect.write_text(ASPECT)

        def unweave() -> float:
            subprocess.run([KLASY, "weave", str(aspect)], check=True, capture_output=True)
            shown = subprocess.run([KLASY, "joinpoints", "sites", "--json"], check=True, capture_output=True, text=True)
            points.add(sum(p["mechanism"] == "kprobe" for p in json.loads(shown.stdout)["joinpoints"]))
            return timed([KLASY, "unweave", "sites"])

        times = measure(
            rounds, {"python": lambda: timed([PYTHON, "-c", "pass"]), "klasy unweave, whole command": unweave}
        )
    table(f"taking out probes at {sorted(points)} call sites", times, "python")


if __name__ == "__main__":
    main()
