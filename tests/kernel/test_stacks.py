"""stack() and ustack() in the kernel: beside ftrace's own stack traces, and beside a program that knows its callers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.livekernel import leftovers
from support.waiting import wait_for
from support.weaving import traced, woven

from klasy.api import states as aspect_states
from klasy.kernel.live import running_kernel

PROGRAMS = Path(__file__).parents[1] / "data" / "programs"
CALLERS, ENTRIES, SHAPES = PROGRAMS / "callers", PROGRAMS / "entries", PROGRAMS / "shapes.so"
SIGNATURE = "vfs_fsync_range(struct file *file, ..)"


def traced_by_ftrace(descriptor: int) -> list[str]:
    """The functions on the stack at vfs_fsync_range, the innermost first, as a trace event tells them."""
    text = traced("vfs_fsync_range", lambda: os.fsync(descriptor), trigger="stacktrace")
    (trace,) = (part for part in text.split("<stack trace>")[1:] if "fsync" in part)
    return re.findall(r"^ => ([\w.]+)", trace, re.MULTILINE)


@pytest.mark.parametrize("advice", ["before", "after"])
@pytest.mark.parametrize(
    ("pointcut", "force"),
    [
        (f"execution({SIGNATURE})", "fentry"),
        (f"execution({SIGNATURE})", "kprobe"),
        (f"call({SIGNATURE})", "sites"),
        (f"call({SIGNATURE})", "dispatch"),
    ],
)
def test_kernel_stacks(file, advice, pointcut, force):
    """By every mechanism: the join point itself, then the callers of its function as ftrace has them."""
    known = traced_by_ftrace(file)
    assert len(known) >= 3
    text = f"aspect s {{ {advice}(): {pointcut} && if(pid == {os.getpid()}) {{ log(stack()); }} }}"
    with woven(text, force=force) as aspect:
        os.fsync(file)
        (event,) = aspect.mine()
        frames = aspect.as_json(event)["values"]["stack()"]
    point = event.joinpoint
    assert (frames[0]["function"], frames[0]["offset"]) == (point.function, point.offset)
    assert [frame["function"] for frame in frames[1:]] == known[known.index(point.function) + 1 :]
    assert leftovers() == {}


def test_a_stack_that_began_with_the_kernel():
    """The first CPU's idle task is what the kernel started in: functions whose memory is freed have names too."""
    text = traced("schedule_idle", lambda: time.sleep(0.5), trigger="stacktrace")
    stacks = [re.findall(r"^ => ([\w.]+)", part, re.MULTILINE) for part in text.split("<stack trace>")[1:]]
    known = next(stack for stack in stacks if "start_kernel" in stack)
    with woven(
        "aspect s { before(): execution(schedule_idle) && if(cpu == 0) { limit(5/s); log(stack()); } }"
    ) as aspect:
        time.sleep(0.5)
        frames = aspect.as_json(aspect.events()[0])["values"]["stack()"]
    assert [frame["function"] for frame in frames[1:]] == known[known.index("schedule_idle") + 1 :]
    assert next(frame["module"] for frame in frames if frame["function"] == "start_kernel") == ".init.text"


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_user_stacks(tmp_path, monkeypatch, force):
    """A program that has ended before its log is read: its functions by name, found by the build id."""
    shutil.copy(CALLERS, tmp_path / "klasy-user")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "klasy", "/mnt"], check=True)
    try:
        pointcut = f'execution({SIGNATURE}) && if(comm == "klasy-user")'
        text = f'aspect s {{ before(): {pointcut} {{ log(ustack()); log("%s", ustack()); }} }}'
        with woven(text, force=force) as aspect:
            subprocess.run([tmp_path / "klasy-user", "/mnt/f"], check=True)
            monkeypatch.setenv("KLASY_SYMBOLS", str(tmp_path))
            event, formatted = aspect.events()
            frames = aspect.as_json(event)["values"]["ustack()"]
            message = aspect.as_json(formatted)["message"]
    finally:
        subprocess.run(["umount", "/mnt"], check=True)
    assert not Path(f"/proc/{event.pid}").exists()
    assert [frame["function"] for frame in frames[:3]] == ["inner", "middle", "main"]
    assert {frame["file"] for frame in frames[:3]} == {str(tmp_path / "klasy-user")}
    assert re.search(r"^\s+inner\+0x[0-9a-f]+ \[klasy-user\]\n\s+middle\+", message, re.MULTILINE)


def test_the_caller_at_a_programs_entry():
    """Before a function has a frame of its own its caller is there, once, however it begins; in keys of states, too,
    which are one for all processes. What is called by nobody has no caller."""
    text = f"""aspect s {{
        count by[ustack()];
        pointcut entered(): user("{ENTRIES}": execution(*));
        before(): entered() {{ log(ustack()); by[ustack()]++; }}
    }}"""
    middle = ["middle", "main", "_start"]
    deep = [["deep"] * times + middle for times in (1, 2, 3)]
    wanted = [["_start"], middle[1:], middle, ["framed", *middle], ["marked", *middle], ["bare", *middle], *deep]
    wanted.append(["bare", *deep[-1]])
    with woven(text) as aspect:
        for _ in range(2):
            subprocess.run([ENTRIES], check=True)
        stacks = [aspect.as_json(event)["values"]["ustack()"] for event in aspect.events()]
        (by,) = aspect_states("s").values()
    assert [[frame["function"] for frame in stack] for stack in stacks] == wanted * 2
    assert {frame["file"] for stack in stacks for frame in stack} == {str(ENTRIES)}
    assert [slot.value for slot in by] == [2] * len(wanted)
    assert leftovers() == {}


def test_the_caller_in_another_file():
    """A function of a library, called by ctypes: from libffi."""
    calls = f"import ctypes; ctypes.CDLL('{SHAPES}').nothing(None)"
    text = f'aspect s {{ before(): user("{SHAPES}": execution(nothing)) {{ log(ustack()); }} }}'
    with woven(text) as aspect:
        subprocess.run([sys.executable, "-c", calls], check=True)
        (event,) = aspect.events()
        first, second, *_ = aspect.as_json(event)["values"]["ustack()"]
    assert (first["function"], first["offset"]) == ("nothing", 0)
    assert Path(second["file"]).name.startswith("libffi.so")
    assert second["build_id"] is not None
    assert leftovers() == {}


def test_a_process_without_code_of_its_own():
    """A kernel thread has no stack in user space: it is empty, and nothing is lost."""
    text = "aspect s { before(): execution(process_one_work) { log(ustack()); } }"
    with woven(text, force="kprobe") as aspect:
        events: list = []

        def some() -> bool:
            events.extend(event for event in aspect.events() if event.comm.startswith("kworker"))
            return bool(events)

        wait_for(some)  # workers run all the time, but not at any moment
        assert all(aspect.as_json(event)["values"]["ustack()"] in ([], None) for event in events)


def test_trampolines_have_names(file):
    """A function that is traced to its end is called by a trampoline, which the kernel has made and named."""
    known = traced_by_ftrace(file)
    caller = known[known.index("vfs_fsync_range") + 1]
    text = (
        f"aspect s {{ after(): execution({caller}) {{ }} "
        f"before(): execution({SIGNATURE}) && if(pid == {os.getpid()}) {{ log(stack()); }} }}"
    )
    with woven(text, force="fentry") as aspect:
        vars(running_kernel()).pop("generated", None)  # a test before may have had it looked what there is, just now
        os.fsync(file)
        (event,) = aspect.mine()
        frames = aspect.as_json(event)["values"]["stack()"]
    names = [frame["function"] for frame in frames]
    made = frames[names.index(caller) + 1]
    assert made["function"].startswith("bpf_trampoline_")
    assert made["module"] == "bpf"
    assert names[names.index(caller) + 2] == caller
    assert None not in names
