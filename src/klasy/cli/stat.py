"""``klasy stat``: what the states of woven aspects hold."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

from klasy.cli.table import say
from klasy.errors import EXIT_OK, KernelRefused, UsageError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klasy.cli.options import Arguments, Parser
    from klasy.weaver.states import StateContent
    from klasy.weaver.woven import WovenAspect

HELP = "Show what the states of woven aspects hold: counters, tables, histograms. The largest come first."
EXAMPLE = "  klasy stat rtt\n  klasy stat -f --clear --top 10\n  klasy stat --json rtt | jq '.aspects[].states[]'"

_INTERVAL = 1.0  # seconds
_CLEAR = "\x1b[H\x1b[J"  # cursor to the upper left, clear from there


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("aspects", nargs="*", metavar="ASPECT", help="name of a woven aspect (default: all)")
    parser.add_argument("-f", "--follow", action="store_true", help="show it anew each second, until Ctrl-C")
    parser.add_argument("--clear", action="store_true", help="empty what is shown; with -f: show what each second had")
    parser.add_argument("--top", metavar="N", help="of each state the N largest elements only")
    parser.add_argument("--json", action="store_true", help="print one JSON document; with -f one a line")


def run(args: Arguments) -> int:
    """Print what there is; with --follow again each second, as long as an aspect is woven."""
    from klasy.weaver.woven import open_aspects

    top = _number(args.top) if args.top is not None else None
    with ExitStack() as stack:
        aspects = [stack.enter_context(woven) for woven in open_aspects(args.aspects)]
        with_state = [woven for woven in aspects if woven.states]
        if not args.aspects:
            aspects = with_state
        elif not args.json:
            for woven in aspects:
                if woven not in with_state:
                    say(f"aspect '{woven.name}' keeps no state")
        if not aspects and not args.json:
            print("no aspect that keeps state is woven", file=sys.stderr)
            return EXIT_OK
        output = StateOutput(as_json=args.json, top=top, clear=args.clear)
        if args.follow:
            _follow(output, with_state)
        else:
            output.show(aspects, indent=True)
    return EXIT_OK


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UsageError(f"'{text}' is no number of elements", hint="write it as --top 10")
    return int(text)


class StateOutput:
    """Prints states."""

    def __init__(self, *, as_json: bool, top: int | None = None, clear: bool = False) -> None:
        """``clear``: take out what is shown."""
        from klasy.api import state_decoder

        decoder, symbols = state_decoder()
        self._learn = decoder.learn
        self.as_json = as_json
        self.clears = clear
        if as_json:
            from klasy.cli.statjson import StateJson

            self._json = StateJson(decoder, symbols, top)
        else:
            from klasy.cli.stattext import StateText

            self._text = StateText(decoder, symbols, top)

    def show(self, aspects: Iterable[WovenAspect], *, indent: bool = False) -> None:
        """Print what aspects hold now."""
        text = self.text(aspects, indent=indent)
        if text:
            from klasy.cli.reading import write_lines

            write_lines([text], "")

    def text(self, aspects: Iterable[WovenAspect], *, indent: bool = False) -> str:
        """The same as text, without a newline at its end."""
        held = read(aspects, take=self.clears)
        self._learn(woven for woven, _ in held)
        found = [(woven.name, contents) for woven, contents in held]
        if self.as_json:
            import json

            document = {"aspects": [self._json.aspect(name, contents) for name, contents in found]}
            return json.dumps(document, indent=2 if indent else None, ensure_ascii=not indent)
        return "\n\n".join(self._text.aspect(name, contents) for name, contents in found if contents)


def read(aspects: Iterable[WovenAspect], *, take: bool = False) -> list[tuple[WovenAspect, list[StateContent]]]:
    """What the states of aspects hold, but for those that have just been taken out. ``take``: and empty them."""
    from klasy.weaver.states import read_states

    found = []
    for woven in aspects:
        try:
            found.append((woven, read_states(woven, take=take)))
        except KernelRefused:
            if os.path.exists(woven.path):
                raise
    return found


def _follow(output: StateOutput, aspects: Sequence[WovenAspect]) -> None:
    """On a terminal the screen is drawn anew each second; elsewhere what has changed is printed, with the time."""
    from klasy.api import identity, still_there
    from klasy.cli.interrupts import Interrupts
    from klasy.cli.reading import write_lines

    identities = [identity(woven) for woven in aspects]
    drawn = sys.stdout.isatty() and not output.as_json
    before = None
    with Interrupts() as interrupts:
        while not interrupts.requested and any(map(still_there, identities)):
            text = output.text(aspects)
            if text != before or output.clears:
                before = text
                clock = "" if output.as_json else f"{time.strftime('%H:%M:%S')}\n"
                write_lines([f"{_CLEAR if drawn else ''}{clock}{text}{'' if drawn or output.as_json else chr(10)}"], "")
            interrupts.sleep(_INTERVAL, lambda: True, _INTERVAL)
