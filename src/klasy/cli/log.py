"""``klasy log``: read what woven aspects logged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from klasy.cli.reading import identity, losses, open_reader, renderer, still_there, write_batch
from klasy.errors import EXIT_OK
from klasy.weaver.woven import WovenAspect, open_woven, read_registry

if TYPE_CHECKING:
    import argparse

HELP = "Read what woven aspects logged. Each record is read once; what was lost is said at the end."
EXAMPLE = "  klasy log log_dequeue\n  klasy log -f --json | jq .values"

_LOOK_AROUND = 1.0  # seconds between looks whether the aspects are still woven


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("aspects", nargs="*", metavar="ASPECT", help="name of a woven aspect (default: all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as records come, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--keep", action="store_true", help="leave the records in the buffer, to be read again")


def run(args: argparse.Namespace) -> int:
    """Print the records there are; with --follow those that come, as long as an aspect is woven."""
    if args.follow and args.keep:
        from klasy.errors import UsageError

        raise UsageError("--keep does not go with --follow")
    aspects = [open_woven(name) for name in args.aspects] or read_registry()
    if not aspects:
        print("no aspect is woven", file=sys.stderr)
        return EXIT_OK
    try:
        _read(aspects, follow=args.follow, as_json=args.json, keep=args.keep)
    finally:
        for woven in aspects:
            woven.close()
    return EXIT_OK


def _read(aspects: list[WovenAspect], *, follow: bool, as_json: bool, keep: bool) -> None:
    reader, symbols = open_reader(aspects)
    show = renderer(symbols, as_json=as_json)
    identities = [identity(woven) for woven in aspects]
    with reader:
        try:
            for batch in reader.batches(keep=keep):
                write_batch([show(event) for event in batch])
            while follow and any(map(still_there, identities)):
                reader.wait(_LOOK_AROUND)
                for batch in reader.batches():
                    write_batch([show(event) for event in batch])
        except KeyboardInterrupt:
            pass
        finally:
            for woven in aspects:
                text = losses(woven)
                if text:
                    print(f"klasy: {text}", file=sys.stderr)
