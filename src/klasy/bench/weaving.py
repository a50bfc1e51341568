"""How long it takes to weave and to unweave, for 1 to some thousand join points.

From the start of the command to the first logged hit, and from Ctrl-C to the end of the process, when all probes are
gone: for klasy and, with the same probes, for bpftrace. ``execution`` is compared with ``kprobe:`` and the same
wildcard; ``call .. within`` with a ``kprobe:FUNCTION+OFFSET`` for each call site, written out, since bpftrace does not
know who calls a function. Of a call that is found by one probe at the callee, which tells thousands of calls apart,
bpftrace has nothing like it.

bpftrace takes and drops probes one by one. A tool that needs more than a minute has one turn.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from klasy.bench import own, peers
from klasy.bench.measure import Limit, Missing, Report, Row, rotated, tell
from klasy.errors import SystemRefusal
from klasy.plain import NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klasy.bench.measure import Scale

EXECUTIONS = ("vfs_read", "vfs_re*", "vfs_*", "tcp_*", "s*")
CALLERS = ("vfs_read", "vfs_*", "tcp_*")
DISPATCHED = ("mutex_lock", "kfree")
LIMIT = Limit("of bpftrace", most=0.2)
UNWEAVING = Limit("seconds", most=2.0)
BEGIN, END = "to the first hit", "to the end"
_TIMEOUT = 900.0
_LONG = 60.0  # seconds: what takes longer has one turn

# One read and one segment each 50 ms: each hit of one process is logged, of the others none, so that printing is not
# what is measured.
_TRAFFIC = """
import os, socket, time
file = os.open("/proc/self/stat", os.O_RDONLY)
listener = socket.create_server(("127.0.0.1", 0))
to = socket.create_connection(listener.getsockname())
at, _ = listener.accept()
print(flush=True)
while True:
    os.pread(file, 100, 0)
    to.send(b"x")
    at.recv(1)
    time.sleep(0.05)
"""


class Times(NamedTuple):
    """Seconds of one command: from its start to the first hit, and from Ctrl-C to its end."""

    first: float
    last: float


class Contest(NamedTuple):
    """What is woven: the pointcut, its join points, and the command that each tool does it by."""

    pointcut: str
    number: int
    commands: dict[str, list[str]]


def measure(scale: Scale) -> Report:
    """Run the experiment. ``scale.only`` names pointcuts."""
    pointcuts = [f"execution({name})" for name in EXECUTIONS]
    pointcuts += [f"call(*) && within({name})" for name in CALLERS]
    pointcuts += [f"call({name})" for name in DISPATCHED]
    found: list[Row] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="klasy-bench-") as folder, _traffic() as pid:
        for pointcut in pointcuts:
            if scale.wanted(pointcut):
                contest = _contest(pointcut, folder, pid, against=scale.peers)
                found += compared(_run(contest, scale.rounds, missing))
    title = "weaving and unweaving, by number of join points"
    return Report("weaving", title, "s", tuple(found), missing, (LIMIT, UNWEAVING))


def compared(found: list[Row]) -> list[Row]:
    """The rows with their ratio to bpftrace, and, of unweaving, the seconds that there is a limit to."""
    result = []
    for row in found:
        peer = next((other for other in found if other.group == row.group and other.role == "peer"), None)
        ratios = {LIMIT.name: row.median / peer.median} if peer else {}
        if row.role == "klasy" and row.group.endswith(END):
            ratios[UNWEAVING.name] = row.median
        result.append(replace(row, ratios=ratios))
    return result


def _run(contest: Contest, rounds: int, missing: dict[str, str]) -> list[Row]:
    """The rows of one contest: the tools take turns."""
    times: dict[str, list[Times]] = {tool: [] for tool in contest.commands}
    head = f"{contest.pointcut}, {contest.number} join points"
    for number in range(rounds):
        tools = [tool for tool in times if f"{head}: {tool}" not in missing]
        for tool in rotated(tools, number):
            if times[tool] and sum(times[tool][0]) > _LONG:
                continue
            try:
                times[tool].append(timed(contest.commands[tool], _is_hit))
            except (Missing, SystemRefusal) as error:
                if tool == "klasy":
                    raise
                missing[f"{head}: {tool}"] = error.message
                continue
            tell(f"{head}: {tool}, round {number + 1} of {rounds}: %.2f s, %.2f s" % times[tool][-1])
    return [
        Row(f"{head}: {what}", tool, "klasy" if tool == "klasy" else "peer", tuple(each[at] for each in samples))
        for at, what in enumerate((BEGIN, END))
        for tool, samples in times.items()
        if samples
    ]


def _contest(pointcut: str, folder: str, pid: int, *, against: bool) -> Contest:
    """The commands for one pointcut, which they read from files in ``folder``; ``against``: of other tools, too."""
    klasy = own.command()
    aspect = os.path.join(folder, f"{own.NAME}.asp")
    with open(aspect, "w", encoding="utf-8") as file:
        file.write(f'aspect {own.NAME} {{ pointcut {pointcut}; before() {{ if (pid == {pid}) log("hit"); }} }}\n')
    shown = subprocess.run([klasy, "joinpoints", aspect, "--json"], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise SystemRefusal(f"{pointcut}: {shown.stderr.strip()}")
    points = json.loads(shown.stdout)["shadows"]
    commands = {"klasy": [klasy, "weave", "-f", aspect]}
    if pointcut.startswith("execution"):
        probes = [f"kprobe:{pointcut[len('execution(') : -1]}"]
    else:
        probes = [f"kprobe:{p['function']}+{p['offset']}" for p in points if p["mechanism"] == "kprobe"]
    if against and probes:
        script = os.path.join(folder, "many.bt")
        with open(script, "w", encoding="utf-8") as file:
            file.write(",\n".join(probes) + f'\n/pid == {pid}/ {{ printf("hit\\n"); }}\n')
        commands["bpftrace"] = ["bpftrace", "-B", "line", "--unsafe", script]
    return Contest(pointcut, len(points), commands)


@contextmanager
def _traffic() -> Iterator[int]:
    """The process whose hits are waited for; its number."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _TRAFFIC], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _is_hit(line: str) -> bool:
    return line.rstrip().endswith("hit")


def timed(command: Sequence[str], wanted: Callable[[str], bool]) -> Times:
    """Run a command up to the first line that is wanted, then end it as Ctrl-C does.

    Raises Missing if it is not installed, SystemRefusal if it ends without such a line.
    """
    peers.require(command[0])
    peers.heed_interrupts()
    environment = os.environ | {"BPFTRACE_MAX_PROBES": "20000"}
    begin = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, bufsize=1, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    errors = threading.Thread(target=lambda stream=process.stderr: said.extend(stream))
    errors.start()
    timer = threading.Timer(_TIMEOUT, process.kill)
    timer.start()
    try:
        first = None
        for line in process.stdout:
            if wanted(line):
                first = time.monotonic() - begin
                break
            said.append(line)
        rest = threading.Thread(target=lambda stream=process.stdout: [None for _ in stream])
        rest.start()
        time.sleep(0.2)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait()
        last = time.monotonic() - begin
        rest.join()
    finally:
        timer.cancel()
        process.kill()
        errors.join()
        process.wait()
    if first is None:
        raise SystemRefusal(f"{command[0]} gave no hit: {''.join(said).strip()[-300:]}")
    return Times(first, last)
