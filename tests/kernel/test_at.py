"""at(FUNCTION+OFFSET) in the kernel: each pass of the instruction is a hit."""

from __future__ import annotations

import os

from support.weaving import Account, woven

from klasy.kernel.live import LiveKernel

NUMBER = 50


def test_instructions(file):
    """The first instructions of a function are hit as often as it is called; what is in a flow is known there too."""
    kernel = LiveKernel()
    (function,) = kernel.functions("vfs_fsync_range")
    offsets = [o for o in range(24) if kernel.instruction_length(function.address + o) is not None]
    second, third = [o for o in offsets if o > 9][:2]  # behind endbr64 and the call of ftrace
    mine = f"if(pid == {os.getpid()})"
    text = f"""aspect a {{
        before(): at(vfs_fsync_range) && {mine} {{ log(1); }}
        before(): at(vfs_fsync_range+{second:#x}) && {mine} {{ log(joinpoint.function, joinpoint.kind); }}
        before(loff_t end): at(vfs_fsync_range+{third:#x}) && {mine}
            && cflow(execution(vfs_fsync_range(struct file *, loff_t, loff_t end, int))) {{ log(end); }}
    }}"""
    with woven(text) as aspect, Account([f"vfs_fsync_range+{second}"]) as account:
        for _ in range(NUMBER):
            os.fsync(file)
        assert [aspect.total(advice) for advice in range(3)] == [NUMBER] * 3
        assert account.passed()[f"vfs_fsync_range+{second}"] >= NUMBER
        events = [event for event in aspect.mine() if event.advice != "before#0"]
        values = [aspect.as_json(event)["values"] for event in events]
    assert (
        values == [{"joinpoint.function": "vfs_fsync_range", "joinpoint.kind": "at"}, {"end": (1 << 63) - 1}] * NUMBER
    )
