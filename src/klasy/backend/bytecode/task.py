"""What a record says of the task that runs, read from its task_struct.

The helpers that tell it (bpf_get_current_pid_tgid, bpf_get_current_comm) cost a call each, and the one for the name
goes byte by byte: in the lab 90 of the 450 ns that a record of three values takes above an empty program. What
bpf_get_current_task_btf gives a program may read as it is, if it knows where.
"""

from __future__ import annotations

from klasy.bpf.insn import R0, R1, call, load, store
from klasy.btf.types import Struct
from klasy.btf.walk import find_member
from klasy.compiler.ir import COMM_SIZE
from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import OFFSET_COMM, OFFSET_PID, OFFSET_TID

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.bpf.insn import Reg
    from klasy.kernel.model import Kernel


class Task(NamedTuple):
    """Where members of task_struct are, in bytes."""

    tgid: int
    pid: int
    comm: int


def find_task(kernel: Kernel) -> Task | None:
    """Those of a kernel; None where its types do not tell, or have them otherwise."""
    try:
        btf = kernel.btf
    except SystemRefusal:
        return None
    for type_id in btf.find("task_struct", Struct):
        found = [find_member(btf, type_id, name) for name in Task._fields]
        sizes = [None if place is None else btf.size_of(place.type_id) for place in found]
        if sizes == [4, 4, COMM_SIZE]:
            return Task(*(place.byte_offset for place in found if place is not None))
    return None


def who(e: Emitter, task: Task, record: Callable[[], Reg]) -> None:
    """Write process, thread and name into the header of the record whose address ``record`` puts into a register that
    is not r0 or r1.
    """
    e.asm.emit(call("get_current_task_btf"))
    base = record()
    parts = [(task.tgid, OFFSET_PID, 4), (task.pid, OFFSET_TID, 4)]
    parts += [(task.comm + at, OFFSET_COMM + at, 8) for at in range(0, COMM_SIZE, 8)]
    for source, target, size in parts:
        e.asm.emit(load(R1, R0, source, size), store(base, target, R1, size))
