"""Join points and stacks as keys of state, beside what was called and what the log of the same advice says."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import time
from pathlib import Path

import pytest
from support.livekernel import leftovers
from support.weaving import woven

from klasy.api import state_decoder
from klasy.backend import Options
from klasy.cli.main import main
from klasy.weaver.states import read_states

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert leftovers() == {}


def as_json(capfd, *options: str) -> dict[str, dict]:
    """The states of the woven aspect, as ``klasy stat --json`` has them."""
    capfd.readouterr()
    assert main(["stat", "--json", *options]) == 0
    (aspect,) = json.loads(capfd.readouterr().out)["aspects"]
    return {state["name"]: state for state in aspect["states"]}


def functions(frames: list[dict]) -> tuple[str, ...]:
    return tuple(frame["function"] for frame in frames)


def test_functions_and_stacks(capfd):
    """One slot for each function and stack, shared by before and after; the stacks are those of the log."""
    text = f"""aspect places {{
        pointcut both(): (execution(vfs_fallocate) || call(vfs_fallocate) || execution(shmem_fallocate))
            && if(tid == {threading.get_native_id()});
        count hits[joinpoint.function, joinpoint.kind];
        u64 open[joinpoint.function]; count pairs[joinpoint.function];
        count by[stack()]; count callers[ustack(), comm];
        before(): both() {{
            hits[joinpoint.function, joinpoint.kind]++; open[joinpoint.function] = 1; by[stack()]++; log(stack());
        }}
        before(): execution(vfs_fallocate) && if(tid == {threading.get_native_id()}) {{ callers[ustack(), comm]++; }}
        after(): (execution(vfs_fallocate) || execution(shmem_fallocate)) && if(open[joinpoint.function]) {{
            pairs[joinpoint.function]++;
        }}
    }}"""
    descriptor = os.memfd_create("file")  # of a file system that calls no other one
    with woven(text) as made:
        for _ in range(5):
            LIBC.fallocate(descriptor, 0, 0, 1)
        for _ in range(3):
            os.posix_fallocate(descriptor, 0, 1)
        logged = [made.as_json(event)["values"]["stack()"] for event in made.events()]
        states = as_json(capfd)
        assert main(["stat"]) == 0
        shown = capfd.readouterr().out
    os.close(descriptor)
    hits = {tuple(slot["key"]): slot["value"] for slot in states["hits"]["values"]}
    (caller,) = {function for function, kind in hits if kind == "call"}
    assert hits == {("vfs_fallocate", "execution"): 8, ("shmem_fallocate", "execution"): 8, (caller, "call"): 8}
    assert {slot["key"][0]: slot["value"] for slot in states["pairs"]["values"]} == {
        "vfs_fallocate": 8, "shmem_fallocate": 8,
    }  # fmt: skip
    stacks = {functions(slot["key"][0]): slot["value"] for slot in states["by"]["values"]}
    assert stacks == {frames: list(map(functions, logged)).count(frames) for frames in map(functions, logged)}
    assert sum(stacks.values()) == 24
    assert sorted(frames[0] for frames in stacks) == sorted(["vfs_fallocate", "shmem_fallocate", caller])
    name = Path("/proc/self/comm").read_text().strip()
    callers = {slot["key"][0][0]["function"]: slot["value"] for slot in states["callers"]["values"]}
    assert sorted(callers.values()) == [3, 5]
    assert any("posix_fallocate" in function for function, number in callers.items() if number == 3)
    assert all(slot["key"][1] == name for slot in states["callers"]["values"])
    assert "places.by, count, 3 keys\n  8\n    stack()\n      " in shown
    assert all(state["lost"] == state["stacks"] == state["refused"] == 0 for state in states.values())


def test_what_has_no_room_is_counted():
    """Stacks that meet another's place, and keys beyond the room, are lost, and each is counted."""
    text = """aspect few { count n; count by[stack()];
        before(): execution(kmem_cache_free) && if(comm == "few-stacks") { n++; by[stack()]++; } }"""
    with woven(text, limits=Options(keys=4)) as made:
        child = os.fork()  # reading frees memory, too
        if not child:
            Path("/proc/self/comm").write_text("few-stacks")
            for act in (os.stat, os.listdir, os.readlink, os.listxattr):
                for path in ("/", "/proc/self", "/nowhere"):
                    with contextlib.suppress(OSError):
                        act(path)
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.1)  # what it leaves behind is freed in its name
        number, by = read_states(made.aspect)
        decoder, _ = state_decoder()
        kept = decoder.slots(by.state, by.elements, by.places)
    assert by.losses.stacks + by.losses.full > 0
    assert sum(slot.value for slot in kept) + by.losses.lost == number.elements[0][1][0]


def test_clearing(capfd):
    """``klasy stat --clear`` shows what there is and leaves nothing; what comes then begins at 0."""
    text = f"""aspect cleared {{
        count n; hist sizes; u64 last; count by[len]; max most[mode]; count read; u64 copy;
        pointcut act(int mode, loff_t len): execution(vfs_fallocate(*, int mode, *, loff_t len));
        before(int mode, loff_t len): act(mode, len) && if(pid == {os.getpid()}) {{
            n++; sizes.add(len); last = len; by[len]++; most[mode].add(len); read++; copy = read; }} }}"""
    descriptor = os.memfd_create("file")  # of a file system that calls no other one
    with woven(text):
        for lengths in ([3, 3, 7], [9]):
            for length in lengths:
                LIBC.fallocate(descriptor, 0, 0, length)
            states = as_json(capfd, "--clear")
            value = {name: state["values"][0].get("value") for name, state in states.items()}
            assert value["n"] == value["read"] == value["copy"] == len(lengths)
            assert (value["last"], value["most"]) == (lengths[-1], max(lengths))
            assert states["sizes"]["values"][0]["count"] == len(lengths)
            assert {s["key"][0]: s["value"] for s in states["by"]["values"]} == {n: lengths.count(n) for n in lengths}
        left = as_json(capfd)
        assert left["by"]["values"] == left["most"]["values"] == []
        assert left["n"]["values"][0]["value"] == left["last"]["values"][0]["value"] == 0
    os.close(descriptor)
