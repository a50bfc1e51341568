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
    data={
        "jiffies": (0xFFFF_FFFF_8200_0000, 8),
        "init_task": (0xFFFF_FFFF_8200_0040, 64),
        "untyped": (0xFFFF_FFFF_8200_0080, 4),
        "nr_cpu_ids": (0xFFFF_FFFF_8200_0084, 4),
        "__per_cpu_offset": (0xFFFF_FFFF_8200_0100, 64),
        "counter": (0x1_0000, 8),
    },
    percpu=("counter",),
    modules={
        "virtio_console": "struct console { long ws; }; struct port { int id; }; void port_open(struct console *c);",
        "hvc": "struct port { long id; int users; }; void hvc_open(struct port *p, struct console *c);",
    },
    memory={0xFFFF_FFFF_8200_0084: (4).to_bytes(4, "little")},
)
