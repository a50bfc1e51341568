"""A weave takes what an earlier one of the same file, or a look at it, has built, if the kernel is as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.livekernel import leftovers

import klasy
from klasy import pack

SOURCES = Path(klasy.__file__).parents[1]
TEXTS = {
    "fentry": 'aspect kept { pointcut execution("ssize_t vfs_read(.., size_t count, ..)");'
    " before(size_t count) { log(count); } }",
    "kprobe": "aspect kept { before(): call(vfs_read) && within(ksys_read) { log(joinpoint.function); } }",
}

# The command as it is, which tells at its end whether it has compiled anything.
COMMAND = f"""
import sys, atexit
sys.path.append({str(SOURCES)!r})
sys.argv[0] = "klasy"
atexit.register(lambda: print("built" if "klasy.compiler.driver" in sys.modules else "kept", flush=True))
from klasy.__main__ import entry_point
entry_point()
"""


@pytest.fixture(scope="module", autouse=True)
def _pack():
    assert pack.is_current() or pack.write_pack()


@pytest.fixture
def weave(tmp_path):
    """Weaves a file, counts what this process reads under it, and takes it out: how it was made, its join points."""
    environment = {**os.environ, "KLASY_CACHE": str(tmp_path / "cache")}

    def weave(
        text: str, reads: int = 5, looked_at_by: str | None = None
    ) -> tuple[str, list[tuple[str | None, str]], int]:
        path = tmp_path / "kept.asp"
        path.write_text(text)
        if looked_at_by is not None:
            command = [sys.executable, "-ISc", COMMAND, looked_at_by, str(path)]
            assert subprocess.check_output(command, text=True, env=environment).endswith("built\n")
            assert leftovers() == {}
        command = [sys.executable, "-ISc", COMMAND, "weave", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        with open("/dev/zero", "rb", buffering=0) as file:
            for _ in range(reads):
                file.read(77)
        (aspect,) = klasy.woven()
        with aspect:
            places = [(point.function, point.mechanism) for point in aspect.joinpoints]
        hits = sum(event.pid == os.getpid() for event in klasy.events("kept"))
        klasy.unweave()
        assert leftovers() == {}
        return done.stdout.strip(), places, hits

    return weave


@pytest.mark.parametrize("mechanism", TEXTS)
def test_the_second_weave_is_the_first_again(weave, mechanism):
    """It compiles nothing, and what it weaves has the same join points and hits."""
    first, places, hits = weave(TEXTS[mechanism])
    assert (first, hits >= 5) == ("built", True)
    assert places
    again, places_again, hits_again = weave(TEXTS[mechanism])
    assert (again, places_again) == ("kept", places)
    assert hits_again >= 5


@pytest.mark.parametrize("looked_at_by", ["check", "joinpoints"])
def test_what_was_looked_at_is_woven_as_it_was_built_then(weave, looked_at_by):
    """Who checks an aspect, or asks where it would be woven, has it compiled; the weave that follows does not."""
    made, places, hits = weave(TEXTS["kprobe"], looked_at_by=looked_at_by)
    assert (made, hits >= 5) == ("kept", True)
    assert set(places) == {("ksys_read", "kprobe")}


@pytest.mark.only_on("6.1")
def test_another_kernel_is_built_for_anew(weave):
    """Once a module has come."""
    text = TEXTS["fentry"]
    assert weave(text)[0] == "built"
    subprocess.run(["modprobe", "dummy"], check=True)
    try:
        assert weave(text)[0] == "built"
        assert weave(text)[0] == "kept"
    finally:
        subprocess.run(["modprobe", "-r", "dummy"], check=True)


def test_what_the_kernel_refuses_is_built_anew(weave, tmp_path):
    """Code that was kept and is not taken costs a second attempt, and no error."""
    assert weave(TEXTS["fentry"])[0] == "built"
    (path,) = (tmp_path / "cache").glob("artifact-*")
    from klasy.kernel import caches
    from klasy.weaver.kept import _VERSION

    os.environ["KLASY_CACHE"] = str(tmp_path / "cache")
    try:
        good = bytes(caches.load(path.name, _VERSION))
        exit_instruction = b"\x95" + bytes(7)
        assert exit_instruction in good
        assert caches.store(path.name, _VERSION, good.replace(exit_instruction, b"\xff" * 8), private=True)
    finally:
        del os.environ["KLASY_CACHE"]
    made, _, hits = weave(TEXTS["fentry"])
    assert (made, hits >= 5) == ("built", True)
    assert weave(TEXTS["fentry"])[0] == "kept"
