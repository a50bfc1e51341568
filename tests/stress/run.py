"""Makes the reliability runs and prints their figures: here, in the lab's guest; from the host, in one guest for each.

tests/stress/run.py                             all of them at full size, on every kernel of the lab
tests/stress/run.py --kernel 6.12 killing       one of them, on one kernel
tests/stress/run.py --size 20 --seed 7 killing  another number of rounds; the seed that a failure has printed
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

NAMES = ("killing", "churn", "crowd", "verifying", "sites", "network", "danger", "everywhere")
SECONDS = 7200
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """0: all is well; 1: a run has failed, or a guest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--kernel", action="append", help="of the lab's; default: all")
    parser.add_argument("--size", type=int, help="rounds, instead of the full number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by-host", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.names or NAMES
    sys.path.insert(0, str(ROOT / "tests"))
    if os.environ.get("KLASY_LAB"):
        return max([_run(name, args.size, args.seed, by_host=args.by_host) for name in names])
    from klasy.lab.kernels import KERNELS

    worst = 0
    for kernel in args.kernel or [kernel.name for kernel in KERNELS]:
        for name in names:  # a guest for each: what one run leaves in a kernel is nothing that another has to bear
            words = [str(Path(__file__).relative_to(ROOT)), name, "--seed", str(args.seed)]
            words += ["--size", str(args.size)] if args.size is not None else []
            lab = [Path(sys.executable).parent / "klasy", "lab", "--kernel", kernel, "--timeout", str(SECONDS)]
            print(f"== {name} on {kernel}", flush=True)
            worst |= _in_a_guest(name, [*lab, "--", sys.executable, *words], args.size, args.seed) != 0
    return worst


def _in_a_guest(name: str, command: list[str | Path], size: int | None, seed: int) -> int:
    """The exit status of one run. Where its module can, what is slow in a guest is made here."""
    module = import_module(f"stress.{name}")
    if not hasattr(module, "prepare"):
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    from stress.host import attend

    size = module.FULL if size is None else size
    return attend([*command, "--by-host"], lambda kernel: module.prepare(kernel, size, seed))


def _run(name: str, size: int | None, seed: int, *, by_host: bool) -> int:
    module = import_module(f"stress.{name}")
    from klasy.diag import render

    size = module.FULL if size is None else size
    what = f"{name}, size {size}, seed {seed}, Linux {os.uname().release}"
    begun = time.monotonic()
    try:
        if by_host:
            from stress.host import ask_host

            figures = module.run(size, seed, ask_host())
        else:
            figures = module.run(size, seed)
    except Exception as error:
        traceback.print_exc()
        for diagnostic in getattr(error, "diagnostics", ()):
            print(render(diagnostic))
        print(f"{what}: FAILED after {time.monotonic() - begun:.0f} s")
        return 1
    print(f"{what}: {time.monotonic() - begun:.0f} s")
    for name_of, figure in figures.items():
        print(f"    {name_of}: {figure}")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
