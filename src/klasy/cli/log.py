"""``klasy log``: read what woven aspects logged."""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack

from klasy.cli.reading import LogOutput, follow, open_reader, say_losses
from klasy.cli.stopped import stopped, take_out
from klasy.errors import EXIT_OK
from klasy.plain import TYPE_CHECKING
from klasy.weaver.woven import open_aspects

if TYPE_CHECKING:
    from klasy.cli.options import Arguments, Parser
    from klasy.cli.reading import Output
    from klasy.weaver.woven import WovenAspect

HELP = "Read what woven aspects logged. Each record is read once; what was lost is said at the end."
EXAMPLE = (
    "  klasy log log_dequeue\n  klasy log -f --json | jq .values\n  klasy log --keep | head\n"
    "  klasy log -f --raw > busy.klog\n  klasy log busy.klog"
)

_UNCOLLECTED = 100_000  # objects: a batch of records stays below; looking for cycles in it took a fifth of the time
_HINT = "the events that were not written stay in the kernel's buffer; make room and run klasy log again"


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "aspects", nargs="*", metavar="ASPECT", help="name of a woven aspect (default: all), or a file of --raw"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as records come, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--raw", action="store_true", help="as the kernel wrote it: a file for klasy log FILE, anywhere"
    )
    parser.add_argument("--keep", action="store_true", help="leave the records in the buffer, to be read again")


def run(args: Arguments) -> int:
    """Print the records there are; with --follow those that come, as long as an aspect is woven."""
    if args.follow and args.keep:
        from klasy.errors import UsageError

        raise UsageError("--keep does not go with --follow")
    files = _files(args.aspects)
    if files or args.raw:
        from klasy.cli import rawlog

        if files:
            return rawlog.show(files, args)
        rawlog.check(args)
    with ExitStack() as stack:
        aspects = [stack.enter_context(woven) for woven in open_aspects(args.aspects)]
        if not aspects:
            print("no aspect is woven", file=sys.stderr)
            return EXIT_OK
        ended = [] if args.keep else stopped(aspects)  # before the last of their log is read
        try:
            _read(aspects, args)
            if args.follow:
                ended = stopped(aspects)
        finally:
            say_losses(aspects, still_woven=True)
        if ended:
            take_out(ended)
    return EXIT_OK


def _files(names: list[str]) -> list[str]:
    """Those of the names that can be no aspects', for they are paths."""
    return [name for name in names if "/" in name or "." in name]


def _read(aspects: list[WovenAspect], args: Arguments) -> None:
    gc.set_threshold(_UNCOLLECTED)
    reader, symbols = open_reader(aspects)
    with reader:
        output: Output = LogOutput(reader, symbols, as_json=args.json, hint=_HINT)
        if args.raw:
            from klasy.cli import rawlog

            output = rawlog.RawOutput(reader, aspects, hint=_HINT)
        if not args.follow:
            output.drain(keep=args.keep)
            return
        from klasy.cli.interrupts import Interrupts

        with Interrupts() as interrupts:
            follow(output, reader, aspects, interrupts)
