"""Unweaving 500 call sites, each with a probe of its own, against bpftrace taking out as many kprobes.

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

ASPECT = 'aspect sites { pointcut call(mutex_unlock) && within(%s); before() { log("unlocked"); } }\n'
WANTED = 500


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        aspect = Path(folder) / "sites.asp"
        aspect.write_text(ASPECT % " || ".join(f"{letter}*" for letter in "abcdefghi").replace(" || ", ") || within("))
        woven: list[int] = []

        def unweave() -> float:
            subprocess.run([KLASY, "weave", str(aspect)], check=True, stdout=subprocess.DEVNULL)
            shown = subprocess.run([KLASY, "joinpoints", "sites", "--json"], check=True, capture_output=True, text=True)
            woven.append(len(json.loads(shown.stdout)["joinpoints"]))
            return timed([KLASY, "unweave", "sites"])

        times = measure(rounds, {"klasy unweave": unweave})
    print(f"join points: {sorted(set(woven))}")
    table("klasy unweave of many call sites", times, "klasy unweave")


if __name__ == "__main__":
    main()
