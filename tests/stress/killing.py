"""Commands killed at random moments: each aspect is then wholly there or wholly gone, and foreign probes untouched.

A moment is either a time, drawn from how long the command takes, at which it gets the signal from outside, or the Nth
call that klasy's weaver makes, drawn from how many there are, at which it sends it to itself: the first also comes
while the kernel works, the second finds narrow gaps. All that is drawn follows from the seed.

After a SIGKILL one further command may clear up, which in one of eight rounds is killed as well. After bursts of
SIGINT, and of the others that end a process, there may be nothing left to clear.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from support.commands import Done, Running, klasy_command, start
from support.foreign import Foreign
from support.inventory import Inventory, KernelLog, inventory, settled
from support.livekernel import HOME, leftovers

import klasy
from klasy.kernel import live
from klasy.source import SourceFile
from klasy.weaver import build
from klasy.weaver.woven import registry_entries
from stress.versions import VERSIONS, work

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from klasy.backend.artifact import Artifact
    from stress import Figures

FULL, SMALL = 200, 5

CALLS = 3  # of the system call, to see whether an aspect works
NAME = "doomed"
WHERE = tuple(str(Path(klasy.__file__).with_name(layer)) for layer in ("weaver", "bpf"))  # where calls are counted


OPERATIONS = ("weave", "replace", "unweave")
SIGNALS = (signal.SIGINT, signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Calls:
    """Counts the calls of the kernel and the C library that a command's weaver makes; at one of them it is ended."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the command, which is forked off

    @property
    def number(self) -> int:
        """How many calls the last command has made."""
        return int(struct.unpack_from("<Q", self._memory)[0])

    def watch(self, fatal: int | None) -> None:
        """In the command's process: count, and be killed at the call of a number."""
        counted = 0
        struct.pack_into("<Q", self._memory, 0, 0)

        def each(frame: FrameType, event: str, _: object) -> None:
            nonlocal counted
            if event != "c_call" or not frame.f_code.co_filename.startswith(WHERE):
                return
            counted += 1
            struct.pack_into("<Q", self._memory, 0, counted)
            if counted == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(each)


class Run:
    """One run of the experiment: what is woven, what there is, and what was seen."""

    def __init__(self, seed: int, kinds: int, stack: ExitStack) -> None:
        self.rng = random.Random(seed)
        self._versions = self.rng.sample(sorted(VERSIONS), min(kinds, len(VERSIONS)))
        self.seen: Counter[str] = Counter()
        self._log = KernelLog()
        stack.callback(self._log.close)
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._calls = Calls()
        kernel = live.running_kernel()
        self._kernel = kernel
        self._built: dict[str, list[Artifact]] = {}
        self._passes = 0
        for name in self._versions:
            version = VERSIONS[name]
            (self._folder / f"{name}.asp").write_text(version.text)
            self._built[version.text] = build.build(SourceFile(f"{name}.asp", version.text), kernel)
        assert leftovers() == {}
        self._foreign = stack.enter_context(Foreign("__x64_sys_setfsuid"))
        self._nothing = inventory()
        self._whole: dict[str | None, Inventory] = {None: self._nothing}
        self._takes: dict[tuple[str, str], tuple[float, int]] = {}
        self._measure()
        stack.callback(lambda: klasy_command("unweave"))

    def path(self, version: str) -> str:
        """The file of a version."""
        return str(self._folder / f"{version}.asp")

    # -- commands ----------------------------------------------------------------------------------------------------

    def _prepare(self, fatal: int | None = None, *, count: bool = False) -> Callable[[], None]:
        """The command's process need not read the kernel and compile anew: it is its weaver that is to be killed."""

        def prepare() -> None:
            live.running_kernel = lambda: self._kernel  # type: ignore[assignment]
            build.build_all = lambda sources, **_: self._built[sources[0].text]
            if count or fatal is not None:
                self._calls.watch(fatal)

        return prepare

    def command(self, *argv: str) -> Done:
        """Run a command that must succeed."""
        done = klasy_command(*argv, prepare=self._prepare())
        assert done.status == 0, (argv, done)
        return done

    def begin(self, *argv: str, fatal: int | None = None) -> Running:
        """Begin a command; at its Nth call it is killed."""
        return start(*argv, prepare=self._prepare(fatal))

    def _argv(self, operation: str, version: str) -> list[str]:
        if operation == "unweave":
            return ["unweave", NAME]
        return ["weave", *(["--replace"] if operation == "replace" else []), self.path(version)]

    def _measure(self) -> None:
        """How long each operation takes, how many calls it makes, and what is there afterwards."""
        for version in self._versions:
            for operation in OPERATIONS:
                begun = time.monotonic()
                done = klasy_command(*self._argv(operation, version), prepare=self._prepare(count=True))
                took = time.monotonic() - begun  # somewhat longer than it does uncounted
                assert done.status == 0, done
                self._takes[operation, version] = took, self._calls.number
                if operation == "weave":
                    self._whole[version] = settled(lambda found: bool(found - self._nothing)) - self._nothing
        self.expect(None)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def woven(self) -> str | None:
        """The version that is woven; by the registry, without any clearing."""
        found = registry_entries_of()
        assert len(found) <= 1, found
        texts = {version.text: name for name, version in VERSIONS.items()}
        return texts[found[0]] if found else None

    def expect(self, *allowed: str | None) -> str | None:
        """One of some versions, or nothing (None), is there as a whole, works, and foreign probes do too; which one."""
        state = self.woven()
        assert state in allowed, f"{state} is woven, not one of {allowed}"
        wanted = self._whole[state] if state is not None else None

        def is_whole(found: Inventory) -> bool:
            more, less = found - self._nothing, self._nothing - found
            return not less and (more == wanted if wanted is not None else not more)

        found = settled(is_whole)
        if not is_whole(found):
            more, less = found - self._nothing, self._nothing - found
            here = f"{state} is there, but not as a whole" if state else "it is gone, but not as a whole"
            expected = wanted.text() if wanted else "nothing"
            raise AssertionError(f"{here}; found\n{more.text()}\n-- expected\n{expected}\n-- lost\n{less.text()}")
        self._work(state)
        self._foreign.verify(self._passes)
        complaints = self._log.complaints()
        assert not complaints, complaints
        return state

    def _work(self, state: str | None) -> None:
        """Every advice runs as often as it must."""
        before = hits()
        work(CALLS)
        self._passes += CALLS
        if state is not None:
            found, wanted = hits() - before, VERSIONS[state].hits(CALLS)
            assert found == wanted, f"{state}: {found} hits, not {wanted}"

    # -- one round ---------------------------------------------------------------------------------------------------

    def kill_once(self) -> None:
        """One command killed."""
        rng = self.rng
        operation = rng.choice(OPERATIONS)
        version = rng.choice(self._versions)
        before = self.woven()
        if operation == "weave" and before is not None:
            self.command("unweave", NAME)
            before = None
        elif operation != "weave" and before is None:
            before = rng.choice(self._versions)
            self.command("weave", self.path(before))
        elif operation != "weave" and rng.random() < 0.5:
            before = rng.choice(self._versions)
            self.command("weave", "--replace", self.path(before))
        took, calls = self._takes[operation, (before or version) if operation == "unweave" else version]
        by_call = rng.random() < 0.5
        fatal = rng.randrange(1, calls + 1) if by_call else None
        delay = rng.uniform(0, took)
        running = self.begin(*self._argv(operation, version), fatal=fatal)
        if not by_call:
            time.sleep(delay)
            running.signal(signal.SIGKILL)
        status = running.wait().status
        assert status in (0, 128 + signal.SIGKILL), status
        left = dirty()
        if rng.random() < 0.125:
            following = start("status", prepare=self._prepare())
            time.sleep(rng.uniform(0, took / 4))
            following.signal(signal.SIGKILL)
            following.wait()
            self.seen["the next one killed too"] += 1
        further = self.command("status", "--json")
        assert "leftover" not in further.err
        after = None if operation == "unweave" else version
        # An aspect that may deny is switched on last: killed just before, the new one goes, and the old one has gone.
        state = self.expect(before, after, *([None] if operation == "replace" and version == "around" else []))
        shown = [found["aspect"] for found in json.loads(further.out)["aspects"] if found["active"]]
        assert shown == ([NAME] if state is not None else []), further.out
        self.seen[f"{operation}: killed" if status else f"{operation}: ended before"] += 1
        self.seen[f"{operation}: {'done' if state == after else 'as before'}"] += 1
        self.seen["something left for the next command to clear"] += left

    def burst_once(self) -> None:
        """A weave for a while that gets several signals at random moments."""
        rng = self.rng
        version = rng.choice(self._versions)
        if self.woven() is not None:
            self.command("unweave", NAME)
        way = rng.choice((["-f"], ["--for", "1h"], ["--for", "200ms"], ["-f", "--for", "100ms"]))
        running = self.begin("weave", *way, self.path(version))
        taking = sum(self._takes[operation, version][0] for operation in ("weave", "unweave"))
        time.sleep(rng.uniform(0, 1.5 * taking))
        sent = []
        for _ in range(rng.randint(2, 8)):
            sent.append(rng.choice(SIGNALS))
            running.signal(sent[-1])
            time.sleep(rng.choice((0, 0, 0.001, 0.01, rng.uniform(0, taking / 3))))
        running.signal(signal.SIGINT)  # else it might go on: of two that come at once one is all there is
        done = running.wait()
        said = (way, version, sent, done)
        assert done.status in (0, *(128 + number for number in SIGNALS)), said
        assert "Traceback" not in done.err, said
        assert not dirty(), f"{said}: {dirty()}"
        try:
            self.expect(None)
        except AssertionError as error:
            raise AssertionError(f"after {said}: {error}") from None
        self.seen[f"burst into {' '.join(way)}: ended with {done.status}"] += 1


def registry_entries_of() -> list[str]:
    """The texts of the woven aspects."""
    from klasy.weaver.pinfs import PinFS

    texts = []
    for aspect in registry_entries(PinFS()):
        with aspect:
            texts.append(aspect.source_text)
    return texts


def hits() -> int:
    """All hits of all woven aspects."""
    from klasy.weaver.pinfs import PinFS

    total = 0
    for aspect in registry_entries(PinFS()):
        with aspect:
            total += sum(count.hits for count in aspect.counts())
    return total


def dirty() -> bool:
    """Whether there is something that only the next command clears: told by what is in klasy's directory."""
    names = [path.name for path in HOME.iterdir()] if HOME.exists() else [NAME]
    return not names or any(name.startswith("~") for name in names)


def run(size: int, seed: int) -> Figures:
    """``size`` commands killed, and a third as many that get bursts of signals."""
    print(f"killing: seed {seed}")
    with ExitStack() as stack:
        made = Run(seed, (size + 2) // 3, stack)
        for _ in range(size):
            made.kill_once()
        for _ in range(max(1, size // 3)):
            made.burst_once()
        made.command("unweave")
        made.expect(None)
    assert leftovers() == {}
    return {"kills": size, "bursts of signals": max(1, size // 3), **dict(sorted(made.seen.items()))}
