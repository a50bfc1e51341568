"""``klasy aspects``: the ready aspects that klasy brings along."""

from __future__ import annotations

from klasy.errors import EXIT_OK, InputError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.cli.options import Arguments, Parser

HELP = "List the ready aspects, or print one. Every command that takes an .asp file takes their names as well."
EXAMPLE = (
    "  klasy aspects                              # what there is\n"
    "  klasy aspects tcp_life                     # what it does, an example, and its text\n"
    "  klasy aspects tcp_life > mine.asp          # to start from"
)


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a ready aspect: print its text")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: Arguments) -> int:
    """List them, or print one."""
    from klasy.resources import shipped_aspects

    found = shipped_aspects()
    if args.name is not None:
        if args.name not in found:
            raise _unknown(args.name, found)
        found = {args.name: found[args.name]}
    if args.json:
        from klasy.cli.document import dumps

        print(dumps({"aspects": [{"name": name, "about": about(found[name]), "text": found[name]} for name in found]}))
    elif args.name is not None:
        print(found[args.name], end="")
    else:
        width = max(map(len, found), default=0)
        for name, text in found.items():
            print(f"{name:{width}}  {about(text)}")
    return EXIT_OK


def about(text: str) -> str:
    """The first sentence of the comment at a file's head."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("// "):
            break
        lines.append(line.removeprefix("// "))
    sentence, dot, _ = " ".join(lines).partition(". ")
    return sentence + dot.rstrip()


def _unknown(name: str, known: Iterable[str]) -> InputError:
    from klasy.cli.table import shown
    from klasy.diag import did_you_mean, suggest

    hint = did_you_mean(suggest(name, known)) or "klasy aspects lists them"
    return InputError(f"there is no ready aspect '{shown(name)}'", hint=hint)
