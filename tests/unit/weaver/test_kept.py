"""What was woven before comes back only where nothing has changed that it depends on."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from support.handmade import function

from klasy.backend import Options
from klasy.diag import Diagnostic, Severity
from klasy.kernel import caches
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.options import Features, PlanOptions
from klasy.plain import replace
from klasy.source import SourceFile
from klasy.startup import PackFinder
from klasy.weaver import kept, manifest
from klasy.weaver.attach import place
from klasy.weaver.build import build
from klasy.weaver.recipe import recipe_of
from klasy.weaver.session import Machine

SNAPSHOT = Path(__file__).parents[2] / "data" / "kernels" / "6.1.snapshot"
MACHINE = Machine("6.1.0-test", "abcd", "0.1.0", counts_refused=True)
HERE = (b"boot", b"notes", (("module", 4096, "id"),), b"1\n")
MEMORY = {(0x1000, 4): b"four", (0x2000, 2): b"to"}
TEXTS = {
    "members": 'aspect a { pointcut execution("ssize_t vfs_read(struct file *file, ..)");'
    ' before(struct file *file) { log("%x %p", file->f_flags, file->f_path.dentry); } }',
    "guards": "aspect a { before(): execution(vfs_read) && if (pid > 3) { log(pid); }"
    ' after() returning (ssize_t r): execution("ssize_t vfs_write(..)") { log(r); } }',
    "states": "aspect a { u64 n[tid]; sum c[comm]; before(): execution(vfs_read) { n[tid] = 1; c[comm].add(2); } }",
}


@pytest.fixture(scope="module")
def kernel():
    return SnapshotKernel.load(str(SNAPSHOT))


def artifacts_of(text: str, kernel):
    try:
        return build(SourceFile("a.asp", text), kernel, PlanOptions(Features()))
    except Exception as error:
        raise AssertionError(getattr(error, "diagnostics", error)) from error


def recipes_of(text: str, kernel):
    return list(map(recipe_of, artifacts_of(text, kernel)))


class Pack(PackFinder):
    """A pack that holds all as it is."""

    def __init__(self):
        self.digest = b"digest"
        self.current = True

    def is_all_current(self):
        return self.current

    def find_spec(self, name, path=None, target=None):
        return None


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A machine on which something can be kept: a pack, a folder, circumstances, memory."""
    pack = Pack()
    monkeypatch.setattr(sys, "meta_path", [pack, *sys.meta_path])
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "circumstances", lambda: HERE)

    class Memory:
        contents = MEMORY

        def read(self, address, size):
            return self.contents[address, size]

        def close(self):
            pass

    monkeypatch.setattr("klasy.kernel.text.Kcore", Memory)
    return pack, Memory


def sources(text: str = TEXTS["members"], name: str = "a.asp") -> list[SourceFile]:
    return [SourceFile(name, text)]


def keep(kernel, text: str = TEXTS["members"]) -> bool:
    return kept.Shelf(sources(text), Options()).keep(kept.Built(recipes_of(text, kernel), MACHINE, MEMORY))


@pytest.mark.parametrize("name", TEXTS)
def test_all_that_a_weave_needs_comes_back(name, kernel, world):
    """Maps, programs, and every word of the registry entry are those of the artifact that was built."""
    made = recipes_of(TEXTS[name], kernel)
    assert kept.Shelf(sources(TEXTS[name]), Options()).keep(kept.Built(made, MACHINE, MEMORY))
    found = kept.Shelf(sources(TEXTS[name]), Options()).find()
    assert found is not None
    assert found.machine == MACHINE
    (old,), (new,) = made, found.recipes
    assert (new.name, new.maps) == (old.name, old.maps)
    for ours, theirs in zip(new.programs, old.programs, strict=True):
        assert (ours.name, ours.probe, ours.type) == (theirs.name, theirs.probe, theirs.type)
        assert (ours.code.code, ours.code.relocations) == (theirs.code.code, theirs.code.relocations)
        assert (ours.target is None) == (theirs.target is None)
        assert ours.target is None or (ours.target.proto, ours.target.module) == (theirs.target.proto, None)
    facts = manifest.Circumstances(1, 2, 3, "t", None, "0.1.0", "r", "b", "boot", counts_refused=False, options={})
    documents = [manifest.pack(manifest.complete(recipe.entry, facts, {0: 5})) for recipe in (old, new)]
    assert documents[0] == documents[1]
    places = [
        [
            (p.mechanism, p.context, p.watch, p.in_program, [(q.address, place(q)) for q in p.points])
            for p in recipe.probes
        ]
        for recipe in (old, new)
    ]
    assert places[0] == places[1]
    assert [str(p.points[0].function) for p in new.probes] == [str(p.points[0].function) for p in old.probes]


def test_another_question_has_no_answer(kernel, world):
    """Another text, another name of the file, other options: none of them finds what was kept."""
    assert keep(kernel)
    assert kept.Shelf(sources(), Options()).find() is not None
    assert kept.Shelf(sources(TEXTS["members"] + " "), Options()).find() is None
    assert kept.Shelf(sources(name="b.asp"), Options()).find() is None
    assert kept.Shelf(sources(), Options(keys=17)).find() is None
    assert kept.Shelf(sources() * 2, Options()).find() is None


@pytest.mark.parametrize("part", range(len(HERE)))
def test_another_kernel_or_boot_or_set_of_modules(part, kernel, world, monkeypatch):
    """Each of the circumstances counts."""
    assert keep(kernel)
    changed = tuple(b"other" if i == part else value for i, value in enumerate(HERE))
    monkeypatch.setattr(kept, "circumstances", lambda: changed)
    assert kept.Shelf(sources(), Options()).find() is None


def test_another_klasy(kernel, world):
    """Neither one of other sources, nor one whose sources have been changed since."""
    pack, _ = world
    assert keep(kernel)
    pack.digest = b"another"
    assert kept.Shelf(sources(), Options()).find() is None
    pack.digest = b"digest"
    assert kept.Shelf(sources(), Options()).find() is not None
    pack.current = False
    assert kept.Shelf(sources(), Options()).find() is None


def test_memory_that_reads_otherwise(kernel, world):
    """What was read of the kernel's memory is read again: a byte of difference, and nothing is taken."""
    _, memory = world
    assert keep(kernel)
    memory.contents = {**MEMORY, (0x2000, 2): b"too"[1:]}
    assert kept.Shelf(sources(), Options()).find() is None


def test_what_depends_on_more_is_not_kept(kernel, world, monkeypatch):
    """Too much memory read, a warning, other files, circumstances unknown or changed since: nothing is written."""
    (artifact,) = artifacts_of(TEXTS["members"], kernel)
    made = [recipe_of(artifact)]
    shelf = kept.Shelf(sources(), Options())
    assert not shelf.keep(kept.Built(made, MACHINE, None))
    (probe,) = artifact.plan.probes
    (point,) = probe.points
    program = point._replace(function=function("main", point.address, module="/usr/bin/program"))
    for changes in (
        {"diagnostics": (Diagnostic(Severity.WARNING, "code", "message", None),)},
        {"aspect": replace(artifact.plan.aspect, order=(("a", "b"),))},
        {"probes": (replace(probe, points=(program,)),)},
    ):
        assert not shelf.keep(kept.Built([made[0]._replace(plan=replace(artifact.plan, **changes))], MACHINE, MEMORY))
    for text in ('import "other.asp";', "%{ c %}"):
        assert not kept.Shelf(sources(text), Options()).keep(kept.Built(made, MACHINE, MEMORY))
    monkeypatch.setattr(kept, "circumstances", lambda: None)
    assert not kept.Shelf(sources(), Options()).keep(kept.Built(made, MACHINE, MEMORY))
    monkeypatch.setattr(kept, "circumstances", lambda: (*HERE[:2], (), HERE[3]))
    assert not shelf.keep(kept.Built(made, MACHINE, MEMORY))  # a module went while it was built
    assert not os.path.exists(caches.folder())


def test_without_a_pack_nothing_is_kept(kernel, world, monkeypatch):
    """Which klasy it was that built it could not be told."""
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[1:])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, PackFinder)])
    assert not keep(kernel)


def test_damage(kernel, world):
    """Whatever lies in the file: nothing is found, and nothing is raised."""
    assert keep(kernel)
    (name,) = os.listdir(caches.folder())
    good = bytes(caches.load(name, kept._VERSION))
    for content in (
        b"",
        b"\0",
        good[:-1],
        good[:100],
        b"i\1\0\0\0",
        good.replace(b"fentry", b"fentrz"),
    ):
        caches.store(name, kept._VERSION, content, private=True)
        assert kept.Shelf(sources(), Options()).find() is None
    caches.store(name, kept._VERSION, good, private=True)
    assert kept.Shelf(sources(), Options()).find() is not None


def test_only_root_can_read_it(kernel, world):
    """It holds addresses of the kernel."""
    assert keep(kernel)
    (name,) = os.listdir(caches.folder())
    assert stat.S_IMODE(os.stat(os.path.join(caches.folder(), name)).st_mode) == 0o600


def test_it_does_not_grow_without_end(kernel, world, monkeypatch):
    """The oldest make room; what is of others stays."""
    monkeypatch.setattr(kept, "_MOST", 3)
    caches.store("symbols-x", 1, b"")
    before = os.listdir(caches.folder())
    for number in range(6):
        assert keep(kernel, TEXTS["members"] + " " * number)
        (newest,) = set(os.listdir(caches.folder())) - set(before)
        os.utime(os.path.join(caches.folder(), newest), (number, number))
        before = os.listdir(caches.folder())
    assert len(before) == 4
    assert "symbols-x" in before
    found = [kept.Shelf(sources(TEXTS["members"] + " " * n), Options()).find() is not None for n in range(6)]
    assert found == [False, False, False, True, True, True]


def test_what_is_large_is_not_kept(kernel, world, monkeypatch):
    """With many join points building anew is as quick."""
    monkeypatch.setattr(kept, "_LARGEST", 1000)
    assert not keep(kernel)
