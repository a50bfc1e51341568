"""Source files and lines in the kernel, where its debug information is installed (klasy lab --debuginfo)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.weaving import woven

from klasy.errors import KernelLacks
from klasy.kernel.live import LiveKernel

NUMBER = 50


@pytest.fixture(scope="module")
def kernel():
    """The kernel, where it has debug information."""
    found = LiveKernel()
    try:
        found.debug_info.check()
    except KernelLacks as error:
        pytest.skip(f"{error.message}; CI does not fetch its gigabyte: klasy lab --debuginfo -- ..")
    return found


def test_lines_and_files(kernel, tmp_path):
    """A line of a function is hit as often as it is called, and so are the calls that lie in the file that has it."""
    (opener,) = kernel.functions("do_sys_openat2")
    site = next(s for s in kernel.callers(kernel.functions("getname")) if s.caller.name == opener.name)
    place = kernel.debug_info.places([site.address])[site.address]
    assert place.file == "fs/open.c"
    (path := Path(tmp_path) / "file").write_text("")
    read, write = os.pipe()
    child = os.fork()  # it does nothing else: what looks at the counters opens files
    if not child:
        os.read(read, 1)
        for _ in range(NUMBER):
            os.close(os.open(path, os.O_RDONLY))
        os._exit(0)
    mine = f"if(pid == {child})"
    text = f"""aspect a {{
        before(): at("{place}") && within(do_sys_openat2) && {mine} {{ log(joinpoint.file, joinpoint.line); }}
        before(): call(getname) && withinfile("fs/open.c") && {mine} {{ log(1); }}
        before(): execution(do_sys_openat2) && withinfile("fs/o*.c") && {mine} {{ log(2); }}
        before(): execution(do_sys_openat2) && !withinfile("net/*") && !withinfile("fs/namei.c") && {mine} {{ log(3); }}
    }}"""
    with woven(text) as aspect:
        os.write(write, b"x")
        os.waitpid(child, 0)
        assert [aspect.total(advice) for advice in range(4)] == [NUMBER] * 4
        events = [event for event in aspect.events() if event.advice == "before#0"]
        values = [aspect.as_json(event)["values"] for event in events]
    assert values == [{"joinpoint.file": "fs/open.c", "joinpoint.line": place.line}] * NUMBER


def test_an_inlined_function(kernel, file):
    """vfs_fsync is inlined into the system calls: its copies are hit once a call, with the arguments that it has there.

    What it calls in turn, vfs_fsync_range, is a function of its own and tells what they are.
    """
    assert kernel.inlined("vfs_fsync")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.read(read, 1)
        for _ in range(NUMBER):
            os.fsync(file)
            os.fdatasync(file)
        os._exit(0)
    mine = f"if(pid == {child})"
    text = f"""aspect a {{
        before(struct file *file, int datasync): execution(vfs_fsync(struct file *file, int datasync)) && {mine} {{
            log(file, datasync, joinpoint.callee);
        }}
        before(struct file *file, int datasync): execution(vfs_fsync_range(struct file *file, .., int datasync))
            && {mine} {{ log(file, datasync); }}
        before(struct file *file, int datasync): call(vfs_fsync(struct file *file, int datasync)) && {mine} {{
            log(file, datasync, joinpoint.kind, joinpoint.callee);
        }}
    }}"""
    with woven(text) as aspect:
        points = [point for point in aspect.aspect.joinpoints if point.kind == "call"]
        os.write(write, b"x")
        os.waitpid(child, 0)
        assert [aspect.total(advice) for advice in range(3)] == [2 * NUMBER] * 3
        events = {advice: [] for advice in ("before#0", "before#1", "before#2")}
        for event in aspect.events():
            events[event.advice].append(aspect.as_json(event)["values"])
    assert {point.call for point in points} >= {"inlined"}
    copies, bodies, calls = events.values()
    assert {values.pop("joinpoint.callee") for values in [*copies, *calls]} == {"vfs_fsync"}
    assert {values.pop("joinpoint.kind") for values in calls} == {"call"}
    assert copies == bodies == calls
    assert [values["datasync"] for values in copies] == [0, 1] * NUMBER
