"""``klasy unweave``: take aspects out of the kernel."""

from __future__ import annotations

from klasy.cli.unread import Unread
from klasy.errors import EXIT_OK
from klasy.plain import TYPE_CHECKING
from klasy.weaver.unweave import unweave

if TYPE_CHECKING:
    from klasy.cli.options import Arguments, Parser

HELP = "Take woven aspects out of the kernel; all of them if none is named."
EXAMPLE = "  klasy unweave log_dequeue\n  klasy unweave"


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("aspects", nargs="*", metavar="ASPECT", help="name of a woven aspect (default: all)")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors and warnings")


def run(args: Arguments) -> int:
    """Unweave; wrong names are an error and nothing is taken out."""
    left = Unread()
    gone = unweave(args.aspects or None, on_unread=left.note)
    if not args.quiet:
        print(f"unwoven: {', '.join(gone)}" if gone else "no aspect is woven")
    left.say()
    return EXIT_OK
