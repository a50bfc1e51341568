"""``klasy weave``: weave aspects into the running kernel."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from klasy.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from klasy.backend.artifact import Artifact

HELP = "Weave aspects into the running kernel. They stay woven, without a process, until klasy unweave."
EXAMPLE = "  klasy weave log_dequeue.asp\n  klasy weave -f log_dequeue.asp      # show the log; unweave at Ctrl-C"

_LOOK_AROUND = 1.0  # seconds between looks whether the aspects are still woven
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="an .asp file; - is standard input")
    parser.add_argument("-f", "--follow", action="store_true", help="show the log as it comes; unweave at Ctrl-C")
    parser.add_argument("--for", dest="time", metavar="TIME", help="unweave after this time: 500ms, 10s, 5m, 1h")
    parser.add_argument("--replace", action="store_true", help="replace a woven aspect of the same name, without a gap")
    parser.add_argument("--json", action="store_true", help="with -f: one JSON object a line")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors and warnings")


def run(args: argparse.Namespace) -> int:
    """Weave all aspects of all files, or none."""
    limit = _seconds(args.time) if args.time is not None else None
    if args.json and not args.follow:
        raise UsageError("--json goes with -f")
    from klasy.cli.sources import read_source
    from klasy.kernel.live import running_kernel
    from klasy.weaver.build import build_all
    from klasy.weaver.session import machine_of, weave

    artifacts = build_all([read_source(name) for name in args.files])
    _warn(artifacts)
    kernel = running_kernel()
    machine = machine_of(kernel)
    names = [artifact.plan.aspect.name for artifact in artifacts]
    with _terminated_like_interrupted(limit is not None or args.follow):
        try:
            for woven in weave(artifacts, machine, replace=args.replace):
                woven.close()
            if not args.quiet:
                _report(artifacts)
            if args.follow:
                _follow(names, limit, as_json=args.json)
            elif limit is not None:
                time.sleep(limit)
        except KeyboardInterrupt:
            if not args.follow and limit is None:
                raise
        finally:
            if args.follow or limit is not None:
                _unweave(names)
    return EXIT_OK


def _seconds(text: str) -> float:
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise UsageError(f"'{text}' is no time", hint="write it as 500ms, 10s, 5m or 1h") from None
    if not 0 < value < 366 * 86400:
        raise UsageError(f"'{text}' is out of range", hint="more than nothing, less than a year")
    return value


def _warn(artifacts: Sequence[Artifact]) -> None:
    from klasy.diag import render

    for artifact in artifacts:
        for diagnostic in artifact.plan.diagnostics:
            print(render(diagnostic, colour=sys.stderr.isatty()), file=sys.stderr)


def _report(artifacts: Sequence[Artifact]) -> None:
    """What was woven goes to standard error: with -f, standard output is the log's alone."""
    from klasy.cli.table import plural

    for artifact in artifacts:
        plan = artifact.plan
        kinds = sorted({point.mechanism for point in plan.joinpoints})
        missing = f", {plural(len(plan.unreached), 'shadow')} not reached" if plan.unreached else ""
        points = plural(len(plan.joinpoints), "join point")
        print(f"woven: {plan.aspect.name}, {points} by {', '.join(kinds)}{missing}", file=sys.stderr)


def _follow(names: Sequence[str], limit: float | None, *, as_json: bool) -> None:
    """Show the log until the time is over, Ctrl-C, or nothing is woven any more."""
    from klasy.cli.reading import identity, losses, open_reader, renderer, still_there, write_batch
    from klasy.weaver.woven import open_woven

    end = None if limit is None else time.monotonic() + limit
    aspects = [open_woven(name) for name in names]
    identities = [identity(woven) for woven in aspects]
    reader, symbols = open_reader(aspects)
    show = renderer(symbols, as_json=as_json)
    with reader:
        try:
            while any(map(still_there, identities)):
                for batch in reader.batches():
                    write_batch([show(event) for event in batch])
                left = _LOOK_AROUND if end is None else min(_LOOK_AROUND, end - time.monotonic())
                if left <= 0:
                    break
                reader.wait(left)
        except KeyboardInterrupt:
            for batch in reader.batches():
                write_batch([show(event) for event in batch])
        finally:
            for woven in aspects:
                text = losses(woven)
                if text:
                    print(f"klasy: {text}", file=sys.stderr)
                woven.close()


def _unweave(names: Sequence[str]) -> None:
    """Take out what is left of ours: another klasy may have unwoven it meanwhile."""
    from klasy.weaver.unweave import unweave
    from klasy.weaver.woven import NotWoven

    for name in names:
        try:
            unweave([name])
        except NotWoven:
            continue


@contextmanager
def _terminated_like_interrupted(wanted: bool) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a bounded weave as Ctrl-C does: with everything taken out."""

    def end(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    if wanted:
        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
