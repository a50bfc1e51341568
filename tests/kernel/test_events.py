"""Events against what tracefs itself records of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.disks import file_system
from support.waiting import wait_for
from support.weaving import TRACING, woven

from klasy.errors import InputError
from klasy.kernel.live import LiveKernel
from klasy.source import SourceFile
from klasy.weaver.build import build

pytestmark = pytest.mark.usefixtures("nothing_left")


@contextmanager
def trace(*events: str):
    """Have tracefs record events into a buffer of its own; gives what it holds, as lines."""
    place = TRACING / "instances" / "account"
    place.mkdir()
    try:
        for event in events:
            (place / "events" / event / "enable").write_text("1")
        yield lambda: [line for line in (place / "trace").read_text().splitlines() if not line.startswith("#")]
    finally:
        for event in events:
            (place / "events" / event / "enable").write_text("0")
        place.rmdir()


def run_some(count: int = 3) -> set[int]:
    """Programs that run and end; their numbers."""
    ended = set()
    for _ in range(count):
        with subprocess.Popen(["/bin/true"]) as process:
            ended.add(process.pid)
    return ended


ASPECT = """aspect a {
    before(char *filename, pid_t pid, pid_t old_pid): event(sched:sched_process_exec) { log(filename, pid, old_pid); }
    before(struct task_struct *p, struct linux_binprm *bprm): event(sched:sched_process_exec) {
        log(bprm->filename, p->pid);
    }
    before(struct task_struct *child): event(sched:sched_process_fork) { log(child->pid); }
    before(char *comm, pid_t pid, int prio): event("sched:sched_process_e*") { log(comm, pid, prio); }
}
"""


def test_events_and_their_fields_are_those_that_tracefs_records():
    """Strings in the record and behind it, numbers, arguments: all as in the kernel's own trace, one for one."""
    events = "sched/sched_process_exec", "sched/sched_process_fork", "sched/sched_process_exit"
    with woven(ASPECT) as a, trace(*events) as account:
        ours = run_some()
        logged, lines = a.events(), account()

    def logged_of(advice: int, number: str) -> list[dict]:
        """What is logged of our programs: the kernel's own threads come and go, before and between the readings."""
        values = (dict(e.values) for e in logged if e.advice == f"before#{advice}")
        return [v for v in values if v[number] in ours]

    def traced(pattern: str, number: int) -> list[tuple[str, ...]]:
        return [found for found in re.findall(pattern, "\n".join(lines)) if int(found[number]) in ours]

    execs = traced(r"sched_process_exec: filename=(\S+) pid=(\d+) old_pid=(\d+)", 1)
    forks = traced(r"sched_process_fork: comm=(.*) pid=\d+ child_comm=.* child_pid=(\d+)", 1)
    exits = traced(r"sched_process_exit: comm=(\S+) pid=(\d+) prio=(\d+)", 1)
    assert len(execs) == len(forks) == len(exits) == len(ours) == 3
    assert [(v["filename"], v["pid"], v["old_pid"]) for v in logged_of(0, "pid")] == [
        (name, int(pid), int(old)) for name, pid, old in execs
    ]
    assert [(v["bprm->filename"], v["p->pid"]) for v in logged_of(1, "p->pid")] == [
        (name, int(pid)) for name, pid, _ in execs
    ]
    assert [v["child->pid"] for v in logged_of(2, "child->pid")] == [int(pid) for _, pid in forks]
    # comm and prio are fields of the exit alone, so it alone matched
    assert [(v["comm"], v["pid"], v["prio"]) for v in logged_of(3, "pid")] == [(c, int(p), int(n)) for c, p, n in exits]
    assert {e.joinpoint.place for e in logged if e.advice == "before#3"} == {"event sched:sched_process_exit"}


def test_a_busy_event_in_both_ways():
    """Task switches away from one process: by argument, by field and in the kernel's trace they are as many."""
    entry, go = os.pipe()
    slept, done = os.pipe()
    child = os.fork()
    if not child:
        os.read(entry, 1)
        for _ in range(30):
            time.sleep(0.001)
        os.write(done, b"x")
        os.read(entry, 1)  # its last switch is over before it is counted
        os._exit(0)
    text = f"""aspect a {{
        before(struct task_struct *prev): event(sched:sched_switch) && if(prev->pid == {child}) {{ }}
        before(pid_t prev_pid, char *prev_comm): event(sched:sched_switch) && if(prev_pid == {child}) {{
            log(prev_comm);
        }}
    }}"""
    with woven(text) as a, trace("sched/sched_switch") as account:
        asleep = Path(f"/proc/{child}/wchan")
        os.write(go, b"x")
        os.read(slept, 1)
        wait_for(lambda: "pipe_read" in asleep.read_text())
        time.sleep(0.1)
        number = sum(f"prev_pid={child} " in line for line in account())
        assert number >= 16  # not always 31: a busy machine's clock can outrun a sleep before it begins
        assert (a.total(0), a.total(1)) == (number, number)
        assert [dict(e.values)["prev_comm"] for e in a.events()] == [Path("/proc/self/comm").read_text()[:-1]] * number
    os.write(go, b"x")
    os.waitpid(child, 0)
    for descriptor in (entry, go, slept, done):
        os.close(descriptor)


def test_events_of_modules_and_of_system_calls():
    """The event of a module, by its tracepoint; and one that has none, of a system call, by its record."""
    me = os.getpid()
    text = f"""aspect a {{
        before(): event(*9p:*9p_client_req) && if(pid == {me}) {{ log(stack()); }}
        before(int dfd, const char *filename): event(syscalls:sys_enter_openat) && if(pid == {me}) {{
            log(dfd, ustr(filename));
        }}
    }}"""
    with woven(text) as a:
        here = str(Path(__file__).with_suffix(".none"))
        with pytest.raises(FileNotFoundError):
            os.open(here, os.O_RDONLY)
        logged = a.mine()
    assert {point.mechanism for point in a.aspect.joinpoints} == {"raw tracepoint", "trace event"}
    opened = [dict(e.values) for e in logged if e.advice == "before#1"]
    assert {"dfd": -100, "ustr(filename)": here} in opened
    assert [e for e in logged if e.advice == "before#0"]


def test_fields_of_a_modules_own_types(tmp_path):
    """``tid_t`` is a typedef of jbd2's alone, and the fields are taken from a record, for no argument is named so."""
    text = (
        "aspect a { before(tid_t transaction, char sync_commit): event(jbd2:jbd2_start_commit) { log(transaction); } }"
    )
    with (
        file_system(tmp_path) as folder,
        woven(text) as a,
        trace("jbd2/jbd2_start_commit") as account,
    ):
        for number in range(3):
            (folder / f"{number}").write_text("some")
            os.sync()
        wait_for(lambda: len(account()) >= 3)
        logged = [dict(event.values)["transaction"] for event in a.events()]
        traced = [int(re.search(r" transaction (\d+) ", line)[1]) for line in account()]
    assert logged == traced
    assert len(set(logged)) >= 3


def test_errors_name_what_there_is():
    """Of the live kernel: a misspelt event, a misspelt field."""
    text = """aspect a {
        before(): event(sched:sched_swich) { log(1); }
        before(pid_t nxt_pid): event(sched:sched_switch) { log(nxt_pid); }
    }"""
    with pytest.raises(InputError) as caught:
        build(SourceFile("test.asp", text), LiveKernel())
    hints = [hint for d in caught.value.diagnostics for hint in d.hints]
    assert "did you mean 'sched:sched_switch'?" in hints
    assert any("'next_pid'" in hint for hint in hints)


def test_a_field_of_an_arguments_name_beside_one_that_is_a_field_only():
    """The record has the work's address as void *work: who also takes the function is told why that is its type."""
    text = """aspect a {
        before(struct work_struct *work, void *function): event(workqueue:workqueue_execute_start) { log(function); }
        before(u32 work, void *function): event(workqueue:workqueue_execute_start) { log(function); }
    }"""
    with pytest.raises(InputError) as caught:
        build(SourceFile("test.asp", text), LiveKernel())
    both, neither = caught.value.diagnostics
    assert [both.code, neither.code] == ["wrong-field-type", "wrong-field-type"]
    assert list(both.hints) == [
        "'struct work_struct *work' is the tracepoint's argument, but 'function' is a field of its record, and an "
        "advice takes either: declare it as the field is, and cast it"
    ]
    assert not neither.hints


def test_a_field_of_an_arguments_name_beside_an_argument_of_another_type():
    """Both are arguments, both are fields; which declaration keeps the advice from taking the arguments is said."""
    text = """aspect a {
        before(struct work_struct *work, void *function): event(workqueue:workqueue_execute_end) { log(function); }
    }"""
    with pytest.raises(InputError) as caught:
        build(SourceFile("test.asp", text), LiveKernel())
    (found,) = caught.value.diagnostics
    assert list(found.hints) == [
        "'struct work_struct *work' is the tracepoint's argument; with it 'function' is one, too: "
        "'work_func_t function'"
    ]
