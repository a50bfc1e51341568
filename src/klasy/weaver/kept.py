"""What was built before, to be woven or looked at: it is kept, so that weaving the same aspects takes no compiling.

An artifact follows from the aspects' text, the options, klasy itself and the kernel. One that was kept is taken only
where all of these are the same: the texts and options are in it, klasy's own code is told by its pack, the kernel by
what :func:`klasy.kernel.proc.circumstances` says, and what the building of it read of the kernel's memory (the entry
of a probed function, the table of kprobes) is read again. So one is good for this boot, as long as no module comes or
goes. What depends on more (data, the files of user programs), or was worth a warning, or is large, or is for some
processes only, is not kept; and what is kept has no trees and plans (:mod:`klasy.weaver.recipe`). All that is asked
when an aspect is woven, whether its name is taken, whether probes are switched off, is asked as always; and where the
kernel refuses what was kept, or a plan is needed, it is built anew (the one who weaves does that).

It is a cache as those of :mod:`klasy.kernel.caches` are. Only root can read it, for it tells where the kernel lies.
"""

from __future__ import annotations

import marshal
import os
import sys
import zlib

from klasy.errors import SystemRefusal
from klasy.kernel import caches
from klasy.kernel.proc import circumstances
from klasy.plain import TYPE_CHECKING, NamedTuple, asdict, suppress
from klasy.weaver.recipe import from_data, to_data
from klasy.weaver.session import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from klasy.backend import Options
    from klasy.backend.artifact import Artifact
    from klasy.kernel.model import Kernel
    from klasy.source import SourceFile
    from klasy.weaver.recipe import Recipe

_VERSION = 2
_PREFIX = "artifact-"
_MOST = 64  # files
_LARGEST = 1 << 18  # bytes of one: with more it takes as long to make objects of it as to compile anew
_KINDS = (
    "call",
    "execution",
)  # of join points; where others are depends on more than the kernel model says it has read
_ELSEWHERE = ("import", "%{")  # in a text: what it needs may lie in other files


class Built(NamedTuple):
    """All that :func:`klasy.weaver.session.weave` needs, and what was read of the kernel's memory to build it; None
    where that is more than is known.
    """

    recipes: list[Recipe]
    machine: Machine
    memory: Mapping[tuple[int, int], bytes] | None


def built_of(artifacts: Sequence[Artifact]) -> Built:
    """What was built for the running kernel."""
    from klasy.kernel.live import running_kernel
    from klasy.weaver.recipe import recipe_of
    from klasy.weaver.session import machine_of

    kernel = running_kernel()
    return Built(list(map(recipe_of, artifacts)), machine_of(kernel), memory_seen(kernel))


class Shelf:
    """Where the artifacts of some aspects with some options are kept, or will be. All is as it is when this is made."""

    def __init__(self, sources: Sequence[SourceFile], options: Options | None = None) -> None:
        from klasy.backend import Options

        self.sources = sources
        self.options = options or Options()
        self._key = _key(sources, self.options)

    def find(self) -> Built | None:
        """What was kept, if all is as it was."""
        data = caches.load(_name(self.sources), _VERSION) if self._key is not None else None
        if data is None:
            return None
        try:
            key, memory, machine, recipes = marshal.loads(data)
            if key != self._key or not _reads_as(memory):
                return None
            return Built(list(map(from_data, recipes)), Machine(*machine), memory)
        except (ValueError, EOFError, TypeError, SystemRefusal):
            return None

    def keep(self, built: Built) -> bool:
        """Keep what was built since. Whether that was done."""
        recipes, machine, memory = built
        if self._key is None or memory is None or not recipes or not all(map(_can_be_kept, recipes)):
            return False
        facts = (machine.release, machine.build_id, machine.klasy, machine.counts_refused)
        content: Any = (self._key, dict(memory), facts, list(map(to_data, recipes)))
        data = marshal.dumps(content)
        if len(data) > _LARGEST or _key(self.sources, self.options) != self._key:
            return False
        _make_room()
        return caches.store(_name(self.sources), _VERSION, data, private=True)

    def keep_for_a_weave(self, artifacts: Sequence[Artifact]) -> bool:
        """Keep what was only looked at: who did is about to weave it. Whether that was done."""
        try:
            return self.keep(built_of(artifacts))
        except SystemRefusal:  # what a weave needs is not there, as the weave will say
            return False


def _key(sources: Sequence[SourceFile], options: Options) -> tuple[object, ...] | None:
    """All that settles an artifact, but for memory; None where it is not known, or klasy itself is being changed."""
    if options.filter is not None or any(word in source.text for word in _ELSEWHERE for source in sources):
        return None
    from klasy.startup import PackFinder

    finder = next((finder for finder in sys.meta_path if isinstance(finder, PackFinder)), None)
    here = circumstances() if finder is not None and finder.is_all_current() else None
    if finder is None or here is None:
        return None
    limits = asdict(options)
    return finder.digest, here, limits, _debug_information(), tuple((source.name, source.text) for source in sources)


def _debug_information() -> tuple[int, ...]:
    """When packages of debug information came or went: what an aspect matches may depend on them."""
    times = []
    for folder in ("/usr/lib/debug/boot", "/usr/lib/debug/lib/modules"):
        with suppress(OSError):
            times.append(os.stat(folder).st_mtime_ns)
    return tuple(times)


def _name(sources: Sequence[SourceFile]) -> str:
    names = "\0".join(part for source in sources for part in (os.path.abspath(source.name), source.text))
    number = zlib.crc32(names.encode(errors="surrogateescape"))
    return f"{_PREFIX}{number:08x}"


def memory_seen(kernel: Kernel) -> dict[tuple[int, int], bytes] | None:
    """What a model has read of the kernel's memory so far; None where that is more than it tells."""
    seen = getattr(kernel, "seen", None)
    return None if seen is None else dict(seen)


def _reads_as(memory: Mapping[tuple[int, int], bytes]) -> bool:
    from klasy.kernel.text import Kcore

    if not memory:
        return True
    kcore = Kcore()
    try:
        return all(kcore.read(address, size) == data for (address, size), data in memory.items())
    finally:
        kcore.close()


def _can_be_kept(recipe: Recipe) -> bool:
    plan = recipe.plan
    if plan is None or plan.diagnostics or plan.aspect.order or recipe.tracepoints:
        return False
    if any(joinpoint.shadow.kind.value not in _KINDS for joinpoint in plan.joinpoints):
        return False
    return not any(point.function.in_program for probe in plan.probes for point in probe.points)  # its file may change


def _make_room() -> None:
    """Remove the oldest of what was kept, so that one more can be."""
    folder = caches.folder()
    with suppress(OSError):
        paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(_PREFIX)]
        for path in sorted(paths, key=os.path.getmtime)[: max(0, len(paths) - _MOST + 1)]:
            os.unlink(path)
