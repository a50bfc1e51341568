"""Source files and lines in the kernel, where its debug information is installed (klasy lab --debuginfo)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.weaving import woven

from klasy.errors import KernelLacks
from klasy.kernel.live import LiveKernel

NUMBER = 50


def test_lines_and_files(tmp_path):
    """A line of a function is hit as often as it is called, and so are the calls that lie in the file that has it."""
    kernel = LiveKernel()
    try:
        kernel.debug_info.check()
    except KernelLacks as error:
        pytest.skip(f"{error.message}; CI does not fetch its gigabyte: klasy lab --debuginfo -- ..")
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
        events = [event for event in aspect.mine() if event.advice == "before#0"]
        values = [aspect.as_json(event)["values"] for event in events]
    assert values == [{"joinpoint.file": "fs/open.c", "joinpoint.line": place.line}] * NUMBER
