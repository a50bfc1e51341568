"""The kernel that the golden tests of the compiler and the back end are for: kernel.h, and who calls whom in it."""

from __future__ import annotations

from pathlib import Path

from support.fakekernel import FakeKernel

KERNEL = FakeKernel(
    (Path(__file__).parent / "kernel.h").read_text(),
    calls="""
    drain: skb_dequeue skb_dequeue skb_queue_tail
    flush: jmp:skb_dequeue
    indirect: * kfree
    """,
)
