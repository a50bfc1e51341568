"""Aspects of klasy's, built once and woven as long as a variant is measured."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from klasy.backend.maps import Options
from klasy.bench.byhand import ROOM, Attached
from klasy.bpf.ringbuf import RingReader
from klasy.errors import InputError
from klasy.kernel.live import running_kernel
from klasy.log.readlock import lock_path
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.features import RunningFeatures
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klasy.backend.artifact import Artifact
    from klasy.weaver.woven import WovenAspect

NAME = "klasy_bench"  # of the aspects


def aspect(body: str, *, force: str | None = None, room: int = ROOM, name: str = NAME) -> Artifact:
    """What an aspect of this body is compiled to. ``force``: see PlanOptions."""
    source = SourceFile("<bench>", f"aspect {name} {{ {body} }}")
    (artifact,) = build(source, None, PlanOptions(RunningFeatures(), force), Options(ring_bytes=room))
    return artifact


def first_that_builds(bodies: Sequence[str], *, force: str | None = None) -> Artifact:
    """The first of several aspects that the running kernel has the functions for; raises what the last one raised."""
    *others, last = bodies
    for body in others:
        try:
            return aspect(body, force=force)
        except InputError:
            continue
    return aspect(last, force=force)


@contextmanager
def woven(artifact: Artifact) -> Iterator[WovenAspect]:
    """Weave as long as the context lasts."""
    with all_woven([artifact]) as (made,):
        yield made


@contextmanager
def all_woven(artifacts: Sequence[Artifact]) -> Iterator[list[WovenAspect]]:
    """Weave several aspects together as long as the context lasts."""
    made = weave(artifacts, machine_of(running_kernel()))
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(one) for one in made]
    finally:
        unweave([one.name for one in made])


@contextmanager
def at_work(artifact: Artifact) -> Iterator[Attached]:
    """The same, with what an experiment on hits asks of any program."""
    with woven(artifact) as made, RingReader(made.events()) as ring:
        yield Attached(lambda: sum(count.hits for count in made.counts()), ring.discard)


def command() -> str:
    """The command that this is."""
    mine = os.path.abspath(sys.argv[0])
    return mine if os.access(mine, os.X_OK) else shutil.which("klasy") or mine


def is_read() -> bool:
    """Whether a klasy log reads the aspect's log."""
    return os.path.exists(lock_path(NAME))
