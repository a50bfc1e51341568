"""What klasy's programs themselves run through in the kernel: what is known of it, and aspects woven into it."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path

import pytest
from support.commands import good
from support.weaving import TRACING, woven

from klasy.errors import InputError
from klasy.kernel.live import LiveKernel
from klasy.kernel.model import Way
from klasy.kernel.traceable import RUN_FOR_USER_STACKS
from klasy.match.execution import runs_under_lock
from klasy.source import SourceFile
from klasy.weaver.build import build

pytestmark = pytest.mark.usefixtures("unwoven_after")

LOCKING = (
    *("htab_map_update_elem", "htab_map_delete_elem", "__htab_percpu_map_update_elem"),
    *("pcpu_freelist_pop", "pcpu_freelist_push", "__bpf_ringbuf_reserve"),
)
# Called there, but not while a lock is held, or not for klasy's maps: their elements have no locks, timers and the like
# of their own, and are made beforehand.
NOT_LOCKED = {"lookup_nulls_elem_raw", "copy_map_value_locked", "__traceiter_contention_begin"}
NOT_MADE = {"bpf_mem_cache_alloc", "bpf_mem_cache_free", "migrate_disable", "migrate_enable"}
NOT_FOLLOWED = {"check_and_free_fields", "bpf_obj_free_fields", "__stack_chk_fail"}
ENTRY_AND_EXIT = ("__bpf_prog_enter_recur", "__bpf_prog_exit_recur", "__bpf_tramp_enter", "__bpf_tramp_exit")
# What programs come by, but the whole kernel does, too: a trampoline there is better than the last of caution.
ORDINARY = {"from_kuid", "from_kgid", "map_id_up", "down_read_trylock", "up_read", "find_vma"}

RICH = """aspect rich {
    count at[comm, stack()];
    count by_program[ustack()];
    count by_name[str(name->name)];
    hist spent[cpu];
    u64 began[tid];
    avg mean[pid];
    max most;
    before(struct filename *name, umode_t mode): execution(do_mkdirat(int, struct filename *name, umode_t mode)) {
        began[tid] = now;
        at[comm, stack()]++;
        by_program[ustack()]++;
        by_name[str(name->name)]++;
        mean[pid].add(mode);
        most.add(mode);
        log(comm, uid, gid, cgroup, cpu, now, stack(), ustack());
        log("%s %s", str(name->name), ustr(name->uptr));
        log(buf(name->name, 8), *name);
    }
    after(): execution(do_mkdirat) { spent[cpu].add(now - began[tid]); delete began[tid]; log(comm); }
}"""


@pytest.fixture(scope="module")
def kernel():
    return LiveKernel()


def test_what_runs_under_the_locks_of_maps(kernel):
    """All that the kernel's code calls to change a map's elements is known as such, by its text as it is."""
    reached, todo = {}, [function for name in LOCKING for function in kernel.functions(name)]
    assert len(todo) >= len(LOCKING)
    while todo:
        function = todo.pop()
        if function.address in reached or function.name in NOT_LOCKED | NOT_MADE:
            continue
        reached[function.address] = function
        if function.name not in NOT_FOLLOWED:
            todo += called(kernel, function)
    hooked = {f.name for f in reached.values() if kernel.has_ftrace_site(f.address)}
    assert {"lookup_elem_raw", "alloc_htab_elem", "__pcpu_freelist_pop", "_raw_spin_unlock"} <= hooked
    assert [f.name for f in reached.values() if f.name in hooked and not runs_under_lock(f)] == []


def test_what_trampolines_run_through_takes_none(kernel):
    """What they call before they know that they run already, and what that goes on into without a call."""
    roots = [function for name in ENTRY_AND_EXIT for function in kernel.functions(name)]
    assert len(roots) == len(ENTRY_AND_EXIT)
    first = [function for root in roots for function in called(kernel, root)]
    then = [f for f in called(kernel, *kernel.functions("__rcu_read_unlock")) if f.name != "__stack_chk_fail"]
    found = {f.name: kernel.refusal(f.address, f, Way.FENTRY) for f in [*first, *then]}
    assert {"migrate_disable", "__rcu_read_unlock", "rcu_read_unlock_special"} <= set(found)
    assert [name for name, refusal in found.items() if refusal is None] == []


def called(kernel, *functions):
    """The functions that functions call, by their text."""
    return [site.callee for site in kernel.calls_in(functions) if site.callee is not None]


def functions_run(act):
    """The functions of the kernel that this process ran through, by those that they were called from."""
    on = os.open(TRACING / "tracing_on", os.O_WRONLY)  # so that little else is traced: the buffer keeps what came last
    os.write(on, b"0")
    # Of its own accord 6.1 leaves it at two pages once another test has set the size of an instance's.
    (TRACING / "buffer_size_kb").write_text("4096")
    (TRACING / "set_ftrace_pid").write_text(str(os.getpid()))
    (TRACING / "current_tracer").write_text("function")
    (TRACING / "trace").write_text("")
    try:
        os.write(on, b"1")
        act()
        os.write(on, b"0")
        calls = re.findall(r": (\S+) <-(\S+)", (TRACING / "trace").read_text())
    finally:
        (TRACING / "current_tracer").write_text("nop")
        (TRACING / "set_ftrace_pid").write_text("")
        os.write(on, b"1")
        os.close(on)
    found = defaultdict(set)
    for callee, caller in calls:
        found[caller].add(callee)
    return found


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_what_programs_run_through_takes_no_trampolines(kernel, tmp_path, force):
    """Whatever the programs of a rich aspect call, by the kernel's trace: programs there would run in each other."""
    (tmp_path / "a").mkdir()
    with woven(RICH, force=force) as made:
        (tmp_path / "b").mkdir()
        assert list(made.events())  # from here on the buffer tells its reader
        calls = functions_run((tmp_path / "c").mkdir)
        assert made.total() >= 2
    reached = set()
    calls.pop("bpf_ringbuf_notify", None)  # it runs later, in an interrupt, and wakes the reader
    # Programs, and helpers that the kernel does not trace.
    todo = [callee for caller in calls if caller.startswith("bpf_") for callee in calls[caller]]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += calls.get(name, ())
    assert {"htab_map_update_elem", "get_callchain_entry", "copy_from_kernel_nofault"} <= reached, sorted(calls)
    wrong = [
        function.name
        for name in sorted(reached - ORDINARY)
        for function in kernel.functions(name)
        if kernel.refusal(function.address, function, Way.FENTRY) is None and not runs_under_lock(function)
    ]
    assert wrong == []


def test_what_user_stacks_run_through_takes_none(kernel, tmp_path):
    """What the kernel calls to take a process's stack, by its text and its trace, is known, and refused as a place."""
    above = kernel.functions("stack_map_get_build_id_offset")
    assert above
    (tmp_path / "a").mkdir()
    with woven(RICH, force="kprobe") as made:
        (tmp_path / "b").mkdir()
        calls = functions_run((tmp_path / "c").mkdir)
        assert made.total() >= 2
    reached = {function.name for function in called(kernel, *above)}
    todo = list(calls["stack_map_get_build_id_offset"])
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += calls.get(name, ())
    assert {"down_read_trylock", "find_vma", "irq_work_queue"} <= reached
    given_back = {"up_read", "__mmap_lock_do_trace_released", "__irq_work_queue_local"}
    assert reached - given_back - RUN_FOR_USER_STACKS == set()
    with pytest.raises(InputError, match="1 error"):
        build(SourceFile("a.asp", "aspect a { before(): execution(find_vma) { log(ustack()); } }"))


@pytest.mark.parametrize(
    "names",
    [
        "htab_map_delete_elem htab_map_update_elem free_htab_elem lookup_elem_raw "
        "__pcpu_freelist_pop pcpu_freelist_push",
        "bpf_get_current_comm copy_from_kernel_nofault unwind_next_frame kernel_text_address get_callchain_entry "
        "bpf_ringbuf_submit irq_work_queue __unwind_start",
    ],
    ids=["maps", "helpers"],
)
def test_an_aspect_on_what_its_own_programs_run_through(names):
    """Each of its programs makes all others run: the machine goes on, and what was passed over is counted."""
    where = " || ".join(f"execution({name})" for name in names.split())
    text = f"""aspect made {{
        u64 began[tid]; hist spent[comm]; count at[pid, cpu];
        pointcut {where};
        before() {{ began[tid] = now; at[pid, cpu]++; log(comm, stack()); }}
        after() {{
            if (began[tid]) {{ spent[comm].add(now - began[tid]); delete began[tid]; log("%s %u", comm, cpu); }}
        }}
    }}"""
    work = text.replace("made", "work").replace(where, "execution(vfs_read) || execution(vfs_open)")
    good("weave", "-", stdin=text + work)
    for _ in range(200):
        Path("/proc/self/stat").read_text()
    points = json.loads(good("joinpoints", "made", "--json").out)["joinpoints"]
    assert sum(point["hits"] + point["missed"] for point in points) > 1000
    assert {point["mechanism"] for point in points} <= {"kprobe", "kretprobe", "kprobe.multi", "kretprobe.multi"}
