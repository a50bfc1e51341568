"""A plan's filter in each of its programs: who does not pass it leaves at once.

And the two programs that keep the set of followed processes, where children are followed:

- at ``sched_process_fork``, before the child runs: a new process is in the set if its maker is. A number that was in
  the set and is given to another process goes out of it. (A thread has its process's number: nothing is to be done.)
- at ``sched_process_free``, when the kernel lets the last thread go: the number goes out of the set. Not earlier: a
  process that exits still closes its files. The address of its ``signal_struct``, which all its threads share, tells
  it from a later process of that number.

Both go by the tracepoints' own arguments, so they do not depend on what is running, and are not switched off with the
aspect: what is followed is right from the moment they are attached. No process of klasy's is needed.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_FOLLOWED, MAP_UNFOLLOWED, MapSpec, TracepointSpec
from klasy.backend.bytecode.emitter import OUT, fits_immediate
from klasy.bpf.asm import Assembler
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R9,
    R10,
    add,
    atomic_add,
    call,
    exit_,
    jump,
    jump_if,
    load,
    load_imm,
    load_map,
    load_map_value,
    lsh,
    mov,
    rsh,
    store,
    store_imm,
)
from klasy.bpf.uapi import BPF_ANY
from klasy.btf.types import Typedef
from klasy.btf.walk import member_offset
from klasy.errors import KernelLacks
from klasy.match.filter import COMM_SIZE
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.bpf.insn import Instruction, Reg
    from klasy.btf.btf import Btf
    from klasy.match.filter import Filter

SCRATCH = COMM_SIZE  # bytes
MOST_FOLLOWED = 16384  # processes at once


def emit_filter(e: Emitter, wanted: Filter, *, scratch: int = -SCRATCH, keep_r1: bool = True) -> None:
    """Leave the program unless the current task passes. Only r6 to r8 are left alone, and r1 with ``keep_r1``.

    SCRATCH bytes of the stack from ``scratch`` on are used.
    """
    if keep_r1:
        e.asm.emit(mov(R9, R1))
    if wanted.pids:
        e.asm.emit(call("get_current_pid_tgid"), rsh(R0, 32))
        if wanted.children:
            e.asm.emit(store(R10, scratch, R0, 4))
            e.lookup(MAP_FOLLOWED, scratch)
            e.asm.emit(jump_if(R0, "==", 0, OUT))
        else:
            _one_of(e, R0, wanted.pids)
    if wanted.users:
        e.asm.emit(call("get_current_uid_gid"), lsh(R0, 32), rsh(R0, 32))
        _one_of(e, R0, [user.uid for user in wanted.users])
    if wanted.comms:
        _comm(e, wanted.comms, scratch)
    if wanted.cgroups:
        passed = e.asm.fresh_label("passed")
        for cgroup in wanted.cgroups:
            e.asm.emit(mov(R1, cgroup.level), call("get_current_ancestor_cgroup_id"))
            e.asm.emit(load_imm(R1, cgroup.id), jump_if(R0, "==", R1, passed))
        e.go(OUT)
        e.asm.label(passed)
    if keep_r1:
        e.asm.emit(mov(R1, R9))


def _one_of(e: Emitter, register: Reg, values: Iterable[int]) -> None:
    """Leave unless a register has one of some values. Uses r1."""
    *others, last = dict.fromkeys(values)
    passed = e.asm.fresh_label("passed")
    for value, symbol, target in (*((v, "==", passed) for v in others), (last, "!=", OUT)):
        if fits_immediate(value):
            e.asm.emit(jump_if(register, symbol, value, target))
        else:
            e.asm.emit(load_imm(R1, value), jump_if(register, symbol, R1, target))
    e.asm.label(passed)


def _comm(e: Emitter, names: Iterable[bytes], scratch: int) -> None:
    """The name's room, filled up with NULs, is two words. (6.1's bpf_get_current_comm does not fill it up.)"""
    e.asm.emit(store_imm(R10, scratch, 0), store_imm(R10, scratch + 8, 0))
    e.stack_address(R1, scratch)
    e.asm.emit(mov(R2, COMM_SIZE), call("get_current_comm"))
    passed = e.asm.fresh_label("passed")
    e.asm.emit(load(R2, R10, scratch), load(R3, R10, scratch + 8))
    for name in names:
        room = name.ljust(COMM_SIZE, b"\0")
        first, second = (int.from_bytes(room[at : at + 8], "little") for at in (0, 8))
        other = e.asm.fresh_label("other")
        e.asm.emit(load_imm(R1, first), jump_if(R2, "!=", R1, other))
        e.asm.emit(load_imm(R1, second), jump_if(R3, "==", R1, passed))
        e.asm.label(other)
    e.go(OUT)
    e.asm.label(passed)


# --- following children ---------------------------------------------------------------------------------------------

_CHILD, _PARENT, _SIGNAL = -4, -8, -16


def follow_maps(wanted: Filter) -> list[MapSpec]:
    """The set of followed processes, with those it begins with; and how many it had no room for."""
    first = tuple((pid.to_bytes(4, "little"), bytes(8)) for pid in wanted.pids)
    return [
        MapSpec(MAP_FOLLOWED, "hash", 4, 8, MOST_FOLLOWED, initial=first),
        MapSpec(MAP_UNFOLLOWED, "array", 4, 8, 1),
    ]


def follow_programs(btf: Btf) -> list[TracepointSpec]:
    """The programs that keep the set, for the kernel of that BTF. Raises KernelLacks."""
    pid, tgid, signal = (_offset(btf, "task_struct", name) for name in ("pid", "tgid", "signal"))
    threads = _offset(btf, "signal_struct", "nr_threads")
    fork, free = Assembler(), Assembler()
    fork.emit(load(R6, R1, 8), load(R7, R1, 0), load(R1, R6, tgid, 4), load(R2, R6, pid, 4))
    fork.emit(jump_if(R1, "!=", R2, OUT), store(R10, _CHILD, R1, 4))
    fork.emit(load(R1, R7, tgid, 4), store(R10, _PARENT, R1, 4))
    fork.emit(*_lookup(_PARENT), jump_if(R0, "==", 0, "stranger"))
    fork.emit(load(R1, R6, signal), store(R10, _SIGNAL, R1), *_on_stack(R2, _CHILD), *_on_stack(R3, _SIGNAL))
    fork.emit(load_map(R1, MAP_FOLLOWED), mov(R4, BPF_ANY), call("map_update_elem"), jump_if(R0, "==", 0, OUT))
    fork.emit(load_map_value(R1, MAP_UNFOLLOWED), mov(R2, 1), atomic_add(R1, 0, R2), jump(OUT))
    fork.label("stranger")
    fork.emit(*_lookup(_CHILD), jump_if(R0, "==", 0, OUT), *_delete(_CHILD))

    free.emit(load(R6, R1, 0), load(R1, R6, tgid, 4), store(R10, _CHILD, R1, 4))
    free.emit(*_lookup(_CHILD), jump_if(R0, "==", 0, OUT), load(R7, R0, 0))
    free.emit(load(R1, R6, signal), load(R2, R1, threads, 4), jump_if(R2, "!=", 0, OUT))
    free.emit(jump_if(R7, "==", 0, "this"), jump_if(R7, "!=", R1, OUT))  # 0: of those followed from the beginning
    free.label("this")
    free.emit(*_delete(_CHILD))
    return [_tracepoint(btf, "fork", fork), _tracepoint(btf, "free", free)]


def _tracepoint(btf: Btf, event: str, program: Assembler) -> TracepointSpec:
    name = f"sched_process_{event}"
    found = btf.find(f"btf_trace_{name}", Typedef)
    if len(found) != 1:
        raise KernelLacks(f"this kernel has no tracepoint {name}: children cannot be followed")
    program.label(OUT)
    program.emit(mov(R0, 0), exit_())
    return TracepointSpec(f"follow_{event}", name, found[0], program.assemble())


def _on_stack(register: Reg, offset: int) -> tuple[Instruction, ...]:
    return mov(register, R10), add(register, offset)


def _lookup(key: int) -> tuple[Instruction, ...]:
    return *_on_stack(R2, key), load_map(R1, MAP_FOLLOWED), call("map_lookup_elem")


def _delete(key: int) -> tuple[Instruction, ...]:
    return *_on_stack(R2, key), load_map(R1, MAP_FOLLOWED), call("map_delete_elem")


def _offset(btf: Btf, struct: str, member: str) -> int:
    found = member_offset(btf, struct, member)
    if found is None:
        raise KernelLacks(f"struct {struct} of this kernel has no member {member}: children cannot be followed")
    return found
