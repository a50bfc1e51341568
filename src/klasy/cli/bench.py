"""``klasy bench``: measure what klasy costs on this machine, against other tools."""

from __future__ import annotations

import os
import sys

from klasy.bench import EXPERIMENTS
from klasy.errors import EXIT_OK, NotRoot, UsageError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    from klasy.bench.measure import Report, Scale
    from klasy.cli.options import Arguments, Parser

    class Experiment(Protocol):
        """What the module of an experiment offers."""

        def measure(self, scale: Scale) -> Report:
            """Run it."""


_WIDTH = max(map(len, EXPERIMENTS))

HELP = "Measure what klasy costs here, against a program written by hand and the tools that are installed."
EXAMPLE = (
    "  klasy bench hits\n"
    "  klasy bench hits --only fentry --rounds 9 --png hits.png\n"
    "  klasy bench unwoven --json\n\nexperiments:\n"
    + "\n".join(f"  {name:{_WIDTH}}  {what}" for name, what in EXPERIMENTS.items())
    + "\n\nIt loads the machine, weaves aspects named klasy_bench and needs root. docs/measurements.md says more."
)


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="which experiment; without one they are listed")
    parser.add_argument("--rounds", metavar="N", help="how often each variant has its turn (default: 5)")
    parser.add_argument("--seconds", metavar="S", help="how long one sample is to last")
    parser.add_argument("--only", action="append", metavar="PART", help="only the parts whose name holds this")
    parser.add_argument("--no-peers", action="store_true", help="leave other tools out")
    parser.add_argument("--json", action="store_true", help="one document with every sample")
    parser.add_argument("--png", metavar="FILE", help="draw a picture too (needs matplotlib)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say on standard error what is measured")


def run(args: Arguments) -> int:
    """Measure and show."""
    if args.name is None:
        print("\n".join(f"{name:{_WIDTH}}  {what}" for name, what in EXPERIMENTS.items()))
        return EXIT_OK
    if args.name not in EXPERIMENTS:
        raise UsageError(f"there is no experiment '{args.name}'", hint=f"there are: {', '.join(EXPERIMENTS)}")
    scale = _scale(args)
    if os.geteuid() != 0:
        raise NotRoot("klasy bench needs root: it weaves aspects and starts other tracers")
    if args.png:
        from klasy.bench import picture

        picture.check()
    from klasy.bench import machine, measure

    measure.show_progress(args.verbose or (sys.stderr.isatty() and not args.json))
    name = f"klasy.bench.{args.name}"
    __import__(name)
    experiment: Experiment = sys.modules[name]  # a module fits the protocol
    report = experiment.measure(scale)
    if args.only and not report.rows and not report.missing:
        parts = " or ".join(f"'{part}'" for part in args.only)
        raise UsageError(f"no part of {args.name} has {parts} in its name", hint="without --only all have their turn")
    here = machine.describe()
    if args.json:
        import json

        print(json.dumps(report.to_json(here), indent=2))
    else:
        from klasy.cli import benchtext

        print(benchtext.text(report, here, scale.rounds))
    if args.png:
        picture.draw(report, args.png)
    return EXIT_OK


def _scale(args: Arguments) -> Scale:
    from klasy.bench.measure import Scale

    usual = Scale()
    try:
        rounds = usual.rounds if args.rounds is None else int(args.rounds)
        seconds = usual.seconds if args.seconds is None else float(args.seconds)
    except ValueError:
        raise UsageError("--rounds takes a whole number, --seconds a number") from None
    if rounds < 1 or not (0 < seconds <= 60 or args.seconds is None):
        raise UsageError("--rounds takes a number from 1 on, --seconds one above 0 and up to 60")
    return Scale(rounds, seconds, tuple(args.only or ()), not args.no_peers)
