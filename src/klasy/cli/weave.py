"""``klasy weave``: weave aspects into the running kernel."""

from __future__ import annotations

import sys

from klasy.cli.table import plural, say, show_diagnostics, shown
from klasy.errors import EXIT_OK, KernelRefused, SystemRefusal, UsageError
from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.backend import Options
    from klasy.backend.maps import Budget
    from klasy.cli.command import Command
    from klasy.cli.interrupts import Interrupts
    from klasy.cli.options import Arguments, Parser
    from klasy.match.filter import Filter
    from klasy.weaver.kept import Built, Shelf
    from klasy.weaver.recipe import Recipe
    from klasy.weaver.woven import WovenAspect

HELP = "Weave aspects into the running kernel. They stay woven, without a process, until klasy unweave."
EXAMPLE = (
    "  klasy weave log_dequeue.asp\n"
    "  klasy weave -f log_dequeue.asp             # show the log; unweave at Ctrl-C\n"
    "  klasy weave -f --for 10s --json log_dequeue.asp > log\n"
    "  klasy weave -f log_dequeue.asp -- ping -c 1 localhost   # run a command; only it and its children count"
)
RUNS_COMMAND = True

_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LARGEST_BUFFER = 1 << 30
_MOST_KEYS = 1 << 24
_HINT = "the aspect was taken out again, and the events that were not written are lost with it"


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="an .asp file, a ready aspect (klasy aspects), or -")
    parser.add_argument("-f", "--follow", action="store_true", help="show the log as it comes; unweave at Ctrl-C")
    parser.add_argument("--for", dest="time", metavar="TIME", help="unweave after this time: 500ms, 10s, 5m, 1h")
    parser.add_argument("--replace", action="store_true", help="replace a woven aspect of the same name, without a gap")
    parser.add_argument("--buffer", metavar="SIZE", help="room for records nobody has read yet: 64K, 1M (default), 1G")
    parser.add_argument("--keys", metavar="N", help="how many keys each state can have (default: 4096)")
    parser.add_argument("--pid", action="append", metavar="PID", help="only hits of this process: 12, or 12,34")
    parser.add_argument("--children", action="store_true", help="with --pid: and of those it makes from now on")
    parser.add_argument("--comm", action="append", metavar="NAME", help="only of threads of this name")
    parser.add_argument("--cgroup", action="append", metavar="PATH", help="only in this cgroup (v2) and beneath it")
    parser.add_argument("--uid", action="append", metavar="USER", help="only of this user, a name or a number")
    parser.add_argument("--budget", metavar="SHARE", help="stop it when it takes more processor time: 2%%, 0.5%%")
    parser.add_argument("--json", action="store_true", help="with -f: one JSON object a line")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors and warnings")


def run(args: Arguments) -> int:
    """Weave all aspects of all files, or none."""
    limit = None
    if args.time is not None:
        from klasy.cli.times import seconds

        limit = seconds(args.time)
    room = _bytes(args.buffer) if args.buffer is not None else None
    keys = _keys(args.keys) if args.keys is not None else None
    budget = _budget(args.budget) if args.budget is not None else None
    if limit is not None and args.command is not None:
        raise UsageError("--for does not go with a command: the aspect is taken out when that ends")
    if args.json and not args.follow:
        raise UsageError("--json goes with -f")
    from klasy.cli.sources import read_sources

    sources = read_sources(args.files)
    from klasy.weaver.kept import Shelf  # first: it stands for all that is imported with it, see klasy.pack

    wanted = None
    if args.pid or args.comm or args.cgroup or args.uid or args.children or args.command is not None:
        from klasy.cli.filters import read_filter

        wanted = read_filter(args)
    if args.command is None:
        return _run(Shelf(sources, _limits(room, keys, wanted, budget)), args, limit)
    from klasy.cli.command import Command, watched

    with Command(args.command) as command:
        return _run(Shelf(sources, _limits(room, keys, watched(command, wanted), budget)), args, limit, command)


def _run(shelf: Shelf, args: Arguments, limit: float | None, command: Command | None = None) -> int:
    what = _Artifacts(shelf)
    try:
        if not args.follow and limit is None and command is None:
            for woven in what.weave(args, _Progress(what).step):
                woven.close()
            _report(what.recipes, args)
            return EXIT_OK
        from klasy.cli.interrupts import Interrupts

        with Interrupts() as interrupts:
            _weave_for_a_while(what, args, limit, interrupts, command)
        return command.finish(interrupts) if command is not None else EXIT_OK
    finally:
        what.keep()


def _limits(room: int | None, keys: int | None, wanted: Filter | None = None, budget: Budget | None = None) -> Options:
    from klasy.backend import Options

    usual = Options()
    return Options(ring_bytes=room or usual.ring_bytes, keys=keys or usual.keys, filter=wanted, budget=budget)


class _Artifacts:
    """What is woven: kept from when it was woven before, or built now, and then kept once all else is done."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        found = shelf.find()
        self._new = found is None
        self._woven = False
        self._built = found or self._build()

    @property
    def recipes(self) -> list[Recipe]:
        """Of each aspect, what a weave takes."""
        return self._built.recipes

    def _build(self) -> Built:
        from klasy.weaver.build import build_all  # first, as above

        artifacts = build_all(self._shelf.sources, limits=self._shelf.options)
        for artifact in artifacts:
            show_diagnostics(artifact.plan.diagnostics)
        from klasy.weaver.kept import built_of

        return built_of(artifacts)

    def weave(self, args: Arguments, on_step: Callable[[str, str], None]) -> list[WovenAspect]:
        """Weave it all. What was kept, and the kernel does not take, is built anew."""
        try:
            woven = self._weave(args, on_step)
        except SystemRefusal:
            if self._new:
                raise
            self._new = True
            self._built = self._build()
            woven = self._weave(args, on_step)
        self._woven = True
        return woven

    def _weave(self, args: Arguments, on_step: Callable[[str, str], None]) -> list[WovenAspect]:
        from klasy.weaver.session import weave

        if not args.replace:
            return weave(self.recipes, self._built.machine, on_step=on_step)
        from klasy.cli.unread import Unread

        left = Unread()
        woven = weave(self.recipes, self._built.machine, replace=True, on_step=on_step, on_unread=left.note)
        left.say()
        return woven

    def keep(self) -> None:
        """Keep for the next time what was built and could be woven."""
        if self._new and self._woven:
            self._shelf.keep(self._built)


def _keys(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MOST_KEYS:
        raise UsageError(f"'{text}' is no number of keys", hint=f"a number from 1 to {_MOST_KEYS}")
    return int(text)


def _budget(text: str) -> Budget:
    """A share of the processor time of all CPUs."""
    import os

    from klasy.backend.maps import Budget

    try:
        share = float(text.removesuffix("%"))
    except ValueError:
        raise UsageError(f"'{text}' is no share of processor time", hint="write it as 2% or 0.5%") from None
    if not 0.001 <= share <= 100:
        raise UsageError(
            f"'{text}' is out of range", hint="from 0.001% to 100%, of the time of all processors together"
        )
    return Budget(share, os.cpu_count() or 1)


def _bytes(text: str) -> int:
    """A size of a ring buffer: the kernel takes powers of two, and whole pages."""
    import mmap

    unit = _SIZES.get(text[-1:].upper(), 0)
    try:
        size = int(text[:-1]) * unit if unit else int(text)
    except ValueError:
        raise UsageError(f"'{text}' is no size", hint="write it as 64K, 16M or 1G") from None
    if not 0 < size <= _LARGEST_BUFFER:
        raise UsageError(f"'{text}' is out of range", hint="more than nothing, at most 1G")
    return max(mmap.PAGESIZE, 1 << (size - 1).bit_length())


# --- what is said -----------------------------------------------------------------------------------------------------


class _Progress:
    """On a terminal, what is being done, once it takes a while."""

    def __init__(self, what: _Artifacts) -> None:
        import time

        self._clock = time.monotonic
        self._next = self._clock() + 1.0
        self._programs = sum(len(recipe.programs) for recipe in what.recipes)
        self._attached = 0
        self._shown = False

    def step(self, aspect: str, step: str) -> None:
        """Called before each step of the weave."""
        self._attached += step.startswith("attach ")
        if not sys.stderr.isatty() or self._clock() < self._next:
            return
        self._next = self._clock() + 0.2
        self._shown = True
        kind, _, places = step.partition(" ")
        done = f"{places} places" if kind == "define" else f"{self._attached} of {self._programs} probes"
        print(f"\r\x1b[Kweaving {aspect}: {done}", end="", file=sys.stderr)
        sys.stderr.flush()

    def __del__(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr)


def _report(recipes: Sequence[Recipe], args: Arguments) -> None:
    """What was woven goes to standard error: with -f, standard output is the log's alone."""
    if args.quiet:
        return
    from klasy.weaver.manifest import table_length

    for recipe in recipes:
        number, unreached = (table_length(recipe.entry[table]) for table in ("joinpoints", "unreached"))
        kinds = recipe.entry["joinpoints"]["mechanism"]
        kinds = sorted(set(kinds["of"] if isinstance(kinds, dict) else kinds))
        missing = f", {unreached} not reached" if unreached else ""
        points = plural(number, "join point")
        wanted = recipe.plan.filter if recipe.plan is not None else None
        only = f"; only {wanted.text()}" if wanted else ""
        print(f"woven: {recipe.name}, {points} by {', '.join(kinds)}{missing}{shown(only)}", file=sys.stderr)


# --- for a while ------------------------------------------------------------------------------------------------------


def _weave_for_a_while(
    what: _Artifacts,
    args: Arguments,
    limit: float | None,
    interrupts: Interrupts,
    command: Command | None,
) -> None:
    progress = _Progress(what)

    def step(aspect: str, name: str) -> None:
        interrupts.check()
        progress.step(aspect, name)

    ours = _Ours(what.weave(args, step))
    try:
        ours.hold()
        _report(what.recipes, args)
        good = ours.there
        if command is not None:
            interrupts.wake_on_child()
            command.start()
            good = command.running
        if args.follow:
            _follow(ours, args, limit, interrupts, good)
        else:
            _sleep(ours, args, limit, interrupts, good)
    finally:
        ours.close()


class _Ours:
    """The aspects that were woven here: not what another klasy may put in their place meanwhile."""

    def __init__(self, aspects: list[WovenAspect]) -> None:
        self.aspects = aspects
        self._identities: dict[str, tuple[str, int] | None] = {woven.name: None for woven in aspects}

    def hold(self) -> None:
        """What the aspects have counted and kept can be shown, then, when they have been taken out."""
        from klasy.cli.reading import identity

        for woven in self.aspects:
            self._identities[woven.name] = identity(woven)
            woven.hold()

    def there(self) -> bool:
        """Whether any is still woven."""
        from klasy.cli.reading import still_there

        return any(which is not None and still_there(which) for which in self._identities.values())

    def take_out(self) -> None:
        """Unweave what is still there. It is switched off first: one that denies might deny what this needs."""
        for woven in self.aspects:
            if woven.name in self._identities:
                with suppress(KernelRefused):  # it is gone, or denies that, too
                    woven.finish()
        from klasy.cli.reading import still_there  # not before: it might deny the reading of these files
        from klasy.weaver.unweave import unweave
        from klasy.weaver.woven import NotWoven

        for name, which in tuple(self._identities.items()):
            if which is None or still_there(which):
                with suppress(NotWoven):
                    unweave([name])
            del self._identities[name]  # only now: an interrupt in between, and it is taken out when all is closed

    def show_states(self, *, as_json: bool) -> None:
        """Print what the aspects have kept: it goes with them."""
        stateful = [woven for woven in self.aspects if woven.states]
        if stateful:
            from klasy.cli.stat import StateOutput

            StateOutput(as_json=as_json).show(stateful)

    def close(self) -> None:
        """Unweave what is still there, and let the rest go."""
        try:
            self.take_out()
        finally:
            for woven in self.aspects:
                woven.close()


def _follow(
    ours: _Ours, args: Arguments, limit: float | None, interrupts: Interrupts, good: Callable[[], bool]
) -> None:
    """Show the log, to its end: what is in the buffers when the aspects have been taken out can still be read."""
    from klasy.cli.reading import LogOutput, follow, open_reader, say_losses
    from klasy.cli.stopped import how_stopped, stopped

    reader, symbols = open_reader(ours.aspects)
    with reader:
        output = LogOutput(reader, symbols, as_json=args.json, hint=_HINT)
        try:
            follow(output, reader, ours.aspects, interrupts, limit=limit, good=good)
            ended = [(woven.name, how_stopped(woven)) for woven in stopped(ours.aspects)]
            ours.take_out()
            output.drain()
            for name, how in ended:
                say(f"aspect '{name}' {how}, and is unwoven now")
            ours.show_states(as_json=args.json)
        finally:
            say_losses(ours.aspects, still_woven=False)


def _sleep(ours: _Ours, args: Arguments, limit: float | None, interrupts: Interrupts, good: Callable[[], bool]) -> None:
    from klasy.bpf.ringbuf import RingReader
    from klasy.cli.reading import LOOK_AROUND, say_losses
    from klasy.cli.unread import unread

    interrupts.sleep(limit, lambda: good() and ours.there(), LOOK_AROUND)
    there = ours.there()
    ours.take_out()
    ours.show_states(as_json=False)
    if not there:
        return
    for woven in ours.aspects:
        with RingReader(woven.events()) as reader:
            left = unread(reader.unread())
        hits = plural(woven.hits(woven.counts()), "hit")
        if not args.quiet:
            print(f"unwoven: {woven.name}, {hits}{left and f', with {left}'}", file=sys.stderr)
    say_losses(ours.aspects, still_woven=False)
