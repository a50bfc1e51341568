"""The filter's code does what a filter means; and the set of followed processes is right after any history."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakekernel import CTypes

from klasy.backend.artifact import MAP_FOLLOWED, MAP_UNFOLLOWED
from klasy.backend.bytecode.emitter import OUT, Emitter
from klasy.backend.bytecode.filters import SCRATCH, emit_filter, follow_maps, follow_programs
from klasy.backend.bytecode.regs import Allocation
from klasy.bpf.insn import R0, R1, add, exit_, mov
from klasy.bpf.interp import ArrayMap, HashMap, Machine
from klasy.errors import KernelLacks
from klasy.match.filter import Cgroup, Filter, User

PIDS = st.integers(1, 6)
UIDS = st.sampled_from([0, 1, 1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE])
COMMS = st.sampled_from([b"sh", b"shs", b"sh\xff", b"exactly15bytes!", b"exactly15bytes?", b"12345678", b"123456789"])
# Trees of three levels: the root, ten and eleven beneath it, a hundred beneath ten, ids of all 64 bits.
PATHS = [(1,), (1, 10), (1, 11), (1, 10, 1 << 63 | 5), (1, 10, 0xFFFF_FFFF)]
CGROUPS = st.sampled_from(PATHS)


@st.composite
def filters(draw):
    """Any filter, but for children."""
    cgroups = draw(st.lists(CGROUPS, max_size=2))
    return Filter(
        pids=tuple(draw(st.lists(PIDS, max_size=3))),
        comms=tuple(draw(st.lists(COMMS, max_size=2))),
        cgroups=tuple(Cgroup("", path[-1], len(path) - 1) for path in cgroups),
        users=tuple(User(uid, "") for uid in draw(st.lists(UIDS, max_size=3))),
    )


def passes(wanted: Filter, machine: Machine) -> bool:
    """Whether the machine's task passes; and that the context is still in r1 then."""
    e = Emitter(Allocation({}, SCRATCH, 0))
    emit_filter(e, wanted)
    e.asm.emit(mov(R0, R1), add(R0, 1), exit_())
    e.asm.label(OUT)
    e.asm.emit(mov(R0, 0), exit_())
    result = machine.run(e.asm.assemble())
    assert result in (0, machine._context.base + 1)
    return bool(result)


@given(filters(), st.tuples(PIDS, PIDS, UIDS, COMMS, CGROUPS))
def test_filter(wanted, task):
    """Of each kind that is given one value must hold."""
    pid, tid, uid, comm, cgroup = task
    machine = Machine()
    machine.pid_tgid, machine.uid_gid, machine.comm = pid << 32 | tid, 7 << 32 | uid, comm
    machine.ancestors = cgroup
    expected = (
        (not wanted.pids or pid in wanted.pids)
        and (not wanted.comms or comm in wanted.comms)
        and (not wanted.users or uid in {user.uid for user in wanted.users})
        and (not wanted.cgroups or any(one.id in cgroup for one in wanted.cgroups))
    )
    assert passes(wanted, machine) == expected
    assert bool(wanted) or expected


TYPES = """
struct signal_struct { int live; int nr_threads; };
struct task_struct { long state; int pid; int tgid; struct signal_struct *signal; };
typedef void (*btf_trace_sched_process_fork)(void *, struct task_struct *, struct task_struct *);
typedef void (*btf_trace_sched_process_free)(void *, struct task_struct *);
"""


class History:
    """Processes that come and go, and what the programs make of it. A process is [its signal_struct, threads]."""

    def __init__(self, first: int, room: int = 1 << 20) -> None:
        wanted = Filter((first,), children=True)
        followed, unfollowed = follow_maps(wanted)
        maps = {MAP_FOLLOWED: HashMap(4, 8, room), MAP_UNFOLLOWED: ArrayMap(8, 1)}
        assert (followed.name, unfollowed.name) == tuple(maps)
        self.machine = Machine(maps, direct_kernel_loads=True)
        self.wanted = wanted
        for key, value in followed.initial:
            self.machine.maps[MAP_FOLLOWED].update(key, value)
        self.fork_program, self.free_program = (each.code for each in follow_programs(CTypes(TYPES).btf))
        self.structs = 0

    def struct(self, data: bytes) -> int:
        """A struct of the kernel's at a new address."""
        self.structs += 1
        address = 0xFFFF_8880_0000_0000 + 0x100 * self.structs
        self.machine.kernel.write(address, data)
        return address

    def signal(self, threads: int = 1) -> int:
        return self.struct(struct.pack("<ii", 1, threads))

    def task(self, pid: int, tgid: int, signal: int) -> int:
        return self.struct(struct.pack("<qiiQ", 0, pid, tgid, signal))

    def fork(self, parent: int, child: int, tgid: int, signal: int) -> None:
        old, new = self.task(parent, parent, 0), self.task(child, tgid, signal)
        self.machine.run(self.fork_program, struct.pack("<QQ", old, new))

    def free(self, pid: int, tgid: int, signal: int) -> None:
        self.machine.run(self.free_program, struct.pack("<Q", self.task(pid, tgid, signal)))

    def followed(self) -> set[int]:
        return {int.from_bytes(key, "little") for key in self.machine.maps[MAP_FOLLOWED].entries}

    def passes(self, pid: int) -> bool:
        self.machine.pid_tgid = pid << 32 | 999
        return passes(self.wanted, self.machine)


@given(st.lists(st.tuples(st.sampled_from(["fork", "thread", "end", "end later"]), PIDS, PIDS), max_size=30))
def test_children(steps):
    """Whatever processes make and end each other, numbers given anew included: exactly the offspring is followed."""
    history = History(1)
    alive = {1: history.signal(), 2: history.signal()}
    mine = {1}
    late = []  # of which the kernel lets the last thread go when the number may have been given to another
    for what, one, other in steps:
        if one not in alive:
            continue
        if what == "fork" and other not in alive:
            alive[other] = history.signal()
            history.fork(one, other, other, alive[other])
            mine = mine | {other} if one in mine else mine - {other}
        elif what == "thread":
            history.fork(one, 100 + other, one, alive[one])
            # .. and its end, while others of the process go on
            history.free(100 + other, one, history.signal(threads=1))
        elif what.startswith("end"):
            gone = history.signal(threads=0) if one in (1, 2) else alive[one]
            history.machine.kernel.write(gone, struct.pack("<ii", 0, 0))
            del alive[one]
            if what == "end":
                history.free(one, one, gone)
                mine.discard(one)
            else:
                late.append((one, gone))
    assert history.followed() & set(alive) == mine & set(alive)
    for pid, gone in late:
        if pid not in (1, 2) or pid not in alive:
            history.free(pid, pid, gone)
    assert history.followed() & set(alive) == mine & set(alive)
    for pid in alive:
        assert history.passes(pid) == (pid in mine)


def test_no_room():
    """A process for which there is no room is not followed, and counted; others go on to be."""
    history = History(1, room=2)
    history.fork(1, 2, 2, history.signal())
    history.fork(1, 3, 3, history.signal())
    history.fork(2, 4, 4, history.signal())
    assert history.followed() == {1, 2}
    assert bytes(history.machine.maps[MAP_UNFOLLOWED].entries[bytes(4)].data) == struct.pack("<Q", 2)


def test_a_kernel_without_the_tracepoint():
    """It says what it lacks."""
    with pytest.raises(KernelLacks, match="no tracepoint sched_process_fork: children cannot be followed"):
        follow_programs(CTypes(TYPES.replace("process_fork", "process_fork_")).btf)
    with pytest.raises(KernelLacks, match="no member signal: children cannot be followed"):
        follow_programs(CTypes(TYPES.replace("*signal;", "*other;")).btf)
