"""``klasy check``: parse and type-check aspects."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from klasy.cli.sources import read_source
from klasy.diag import render
from klasy.errors import EXIT_INPUT, EXIT_OK, InputError

if TYPE_CHECKING:
    import argparse

HELP = "Parse and type-check aspects against the running kernel, without weaving them."
EXAMPLE = "  klasy check log_dequeue.asp other.asp"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="an .asp file")


def run(args: argparse.Namespace) -> int:
    """Check each file; all errors of all files are shown."""
    from klasy.weaver.build import build

    status = EXIT_OK
    for name in args.files:
        try:
            built = build(read_source(name))
        except InputError as error:
            from klasy.cli.main import report

            report(error)
            status = EXIT_INPUT
            continue
        colour = sys.stderr.isatty()
        for artifact in built:
            for diagnostic in artifact.plan.diagnostics:
                print(render(diagnostic, colour=colour), file=sys.stderr)
            points = len(artifact.plan.joinpoints)
            print(f"{name}: aspect {artifact.plan.aspect.name}: {points} join point{'s' if points != 1 else ''}")
    return status
