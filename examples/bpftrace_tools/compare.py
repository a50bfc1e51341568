#!/usr/bin/env python3
"""Runs bpftrace's own tools and the aspects beside this file at the same time, over the same work, and compares them.

    klasy lab -- .venv/bin/python examples/bpftrace_tools/compare.py [TOOL ..]

As root, with bpftrace's tools installed (Debian: bpftrace), iproute2 and e2fsprogs. All tools are started, all aspects
woven; then each tool's work is done by a process of its own, and of both accounts the events of that process are
compared: the same events as often, their times and addresses left out. What cannot be kept to one process (vfscount,
say) is compared by what nothing else does. The table says what was compared, and whether it is the same; the exit
status is 1 if any differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import work

HERE = Path(__file__).resolve().parent
ORIGINALS = Path("/usr/sbin")  # where Debian puts them
COMM = "btwork"
BOUND = 1 << 15  # us: what waits longer for a processor was kept waiting by the work

Events = Counter[tuple[str, ...]]


class Seen(NamedTuple):
    """What a tool printed, and what its aspect logged and counted."""

    printed: str
    messages: list[str]
    hits: dict[str, int]  # by function
    states: dict[str, dict]
    pid: int  # of the work


class Tool(NamedTuple):
    """One of them: its work, and what is compared of both accounts, as (the original's, the aspect's)."""

    work: Callable[[Path], None]
    compare: Callable[[Seen], tuple[Events, Events]]
    what: str


# --- what is compared -------------------------------------------------------------------------------------------------

CLOCK = r"(?:\d\d:\d\d:\d\d\s+)?"  # some of the originals begin their lines with the time


def lines(original: str, aspect: str | None = None, pid: int | None = 0) -> Callable[[Seen], tuple[Events, Events]]:
    """Lines of both that fit a pattern, by its groups. ``pid``: the group that is the process; None: any process's."""

    def compare(seen: Seen) -> tuple[Events, Events]:
        def found(pattern: str, texts: list[str]) -> Events:
            groups = [m.groups() for m in (re.match(pattern, text) for text in texts) if m]
            return Counter(g for g in groups if pid is None or g[pid] == str(seen.pid))

        printed = found(rf"{CLOCK}{original}", seen.printed.splitlines())
        return printed, found(aspect or original, seen.messages)

    return compare


def buckets(text: str) -> dict[str, Events]:
    """The histograms that bpftrace prints at its end: of each key, how many by the least value of the range."""
    found: dict[str, Events] = {}
    key = ""
    scale = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for line in text.splitlines():
        if m := re.match(r"@\w*(?:\[(.*)\])?: *$", line):
            key = m[1] or ""
            found[key] = Counter()
        elif m := re.match(r"\[(\d+)([KMG]?)(?:, \S+)?[\])]\s+(\d+) \|", line):
            found[key][(str(int(m[1]) * scale[m[2]]),)] += int(m[3])
    return {key: +events for key, events in found.items()}


def histogram(state: dict, key: list[object]) -> Events:
    """The same of a state, as ``klasy stat --json`` has it."""
    for element in state["values"]:
        if element.get("key", []) == key:
            return +Counter({(str(b["low"] or 0),): b["count"] for b in element["buckets"]})
    return Counter()


def block_sizes(seen: Seen) -> tuple[Events, Events]:
    """Of the tasks that both saw: nobody else has a block device in the lab."""
    printed = buckets(seen.printed)
    return (
        Counter({(comm, *b): n for comm, events in printed.items() for b, n in events.items()}),
        Counter(
            {
                (str(e["key"][0]), *b): n
                for e in seen.states["sizes"]["values"]
                for b, n in histogram(seen.states["sizes"], e["key"]).items()
            }
        ),
    )


def long_waits(seen: Seen) -> tuple[Events, Events]:
    """Whoever waited as long as the work has tasks wait."""
    printed, counted = buckets(seen.printed).get("", Counter()), histogram(seen.states["usecs"], [])
    keep = [sum(n for (low,), n in events.items() if int(low) >= BOUND) for events in (printed, counted)]
    return Counter({("waited 32 ms or longer",): keep[0]}), Counter({("waited 32 ms or longer",): keep[1]})


def system_calls(seen: Seen) -> tuple[Events, Events]:
    """The work's call, and the work's name (its process makes a few calls more than that one)."""
    names = {("syscall", str(work.GETPRIORITY)), ("process", COMM)}
    printed = Counter({m.groups()[:2]: int(m[3]) for m in re.finditer(r"(?m)^@(\w+)\[(.*)\]: (\d+)", seen.printed)})
    own: Events = Counter()
    for name, state in (("syscall", "by_number"), ("process", "by_process")):
        for element in seen.states[state]["values"]:
            own[name, str(element["key"][0])] = element["value"]
    return Counter({k: n for k, n in printed.items() if k in names}), Counter(
        {k: n for k, n in own.items() if k in names}
    )


def functions(*names: str) -> Callable[[Seen], tuple[Events, Events]]:
    """Calls of functions that only the work calls."""

    def compare(seen: Seen) -> tuple[Events, Events]:
        printed: Events = Counter()
        for name, number in re.findall(r"(?m)^@\[(\w+)\]: (\d+)", seen.printed):
            if name in names:
                printed[name,] += int(number)
        return printed, Counter({(name,): n for name, n in seen.hits.items() if name in names and n})

    return compare


def new_processes(seen: Seen) -> tuple[Events, Events]:
    """All of them: the original's counts of each second together."""
    total = sum(map(int, re.findall(r"PIDs/sec: @: (\d+)", seen.printed)))
    return Counter({("forks",): total}), Counter({("forks",): seen.states["forks"]["values"][0]["value"]})


def raw_bytes(seen: Seen) -> tuple[Events, Events]:
    """Bytes: the original shows those that print as characters."""
    printed: Events = Counter()
    for comm, pid, size, text in re.findall(rf"(?m)^{CLOCK}(\S+) +(\d+) +(\d+) +(.*)$", seen.printed):
        if pid == str(seen.pid):
            data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
            printed[comm, pid, size, data.hex()] += 1
    own: Events = Counter()
    for message in seen.messages:
        comm, pid, size, data = message.split(maxsplit=3)
        if pid == str(seen.pid):
            own[comm, pid, size, data.replace(" ", "")] += 1
    return printed, own


STATES = dict(
    enumerate(
        [
            "",
            "ESTABLISHED",
            "SYN_SENT",
            "SYN_RECV",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "TIME_WAIT",
            "CLOSE",
            "CLOSE_WAIT",
            "LAST_ACK",
        ]
    )
)
REASONS = dict(enumerate(["background", "vmscan", "sync", "periodic"]))


def named(
    table: dict[int, str], compare: Callable[[Seen], tuple[Events, Events]]
) -> Callable[[Seen], tuple[Events, Events]]:
    """The last group is a name of the original's, and a number of the aspect's."""

    def translated(seen: Seen) -> tuple[Events, Events]:
        printed, own = compare(seen)
        return printed, Counter({(*key[:-1], table.get(int(key[-1]), "")): n for key, n in own.items()})

    return translated


END = r"(\S+?):(\d+)"
ENDS = r"(10\.77\S*?):(\d+) +(\S+?):(\d+)"
TOOLS = {
    "bashreadline": Tool(work.typing, lines(r"\d+ +(echo .*|exit)", pid=None), "lines"),
    "bitesize": Tool(work.block_device, block_sizes, "requests by task and size"),
    "capable": Tool(
        work.capabilities,
        lines(r"(\d+) +(\d+) +(\S+) +(\d+) +\S+ +(\d+)", r"(\d+) +(\d+) +(\S+) +(\d+) +(\d+)", 1),
        "checks",
    ),
    "dcsnoop": Tool(work.lookups, lines(r"\d+ +(\d+) +(\S+) +([RM]) (.*)", r"(\d+) +(\S+) +([RM]) (.*)"), "lookups"),
    "execsnoop": Tool(
        work.programs, lines(r"\d+ +(\d+) +(?:\S*/)?(true|sh)\b", r"(\d+) +\S*/(true|sh)$", None), "attempts"
    ),
    "gethostlatency": Tool(work.hosts, lines(r"(\d+) +(\S+) +\d+ (.*)"), "lookups"),
    "killsnoop": Tool(work.kills, lines(r"(\d+) +(\S+) +(\d+) +(-?\d+) +(-?\d+)"), "signals with results"),
    "opensnoop": Tool(work.opens, lines(r"(\d+) +(\S+) +(-?\d+) +(\d+) (.*)"), "opens with results"),
    "pidpersec": Tool(work.forks, new_processes, "new processes"),
    "runqlat": Tool(work.crowd, long_waits, "waits"),
    "setuids": Tool(work.users, lines(r"(\d+) +(\S+) +(\d+) +(set\w+ +.*)"), "changes with results"),
    "statsnoop": Tool(work.stats, lines(r"(\d+) +(\S+) +(\d+) (.*)"), "calls with results"),
    "syncsnoop": Tool(work.syncs, lines(r"(\d+) +(\S+) +\S+sys_enter_(\w+)", r"(\d+) +(\S+) +(\w+)"), "calls"),
    "syscount": Tool(work.calls, system_calls, "calls by number, by task"),
    "tcpaccept": Tool(
        work.connections, lines(r"(\d+) +(\S+) +(\S+) +(\d+) +(\S+) +(\d+) +(\S+)"), "connections, backlog"
    ),
    "tcpconnect": Tool(work.connections, lines(r"(\d+) +(\S+) +(\S+) +(\d+) +(\S+) +(\d+)"), "connections"),
    "tcpdrop": Tool(
        work.refused,
        named(STATES, lines(rf"\d+ +\S+ +{ENDS} +(\w+)", rf"\d+ +\S+ +{ENDS} +(\d+)", None)),
        "dropped packets, state",
    ),
    "tcplife": Tool(
        work.connections,
        lines(r"(\d+) +(?:[a-z]\S* +)?(\S+) +(\d+) +(\S+) +(\d+) +(\d+) +(\d+) \d+"),
        "connections, kilobytes each way",
    ),
    "tcpretrans": Tool(
        work.refused,
        named(STATES, lines(rf"\d+ +{ENDS} +(\w+)", rf"\d+ +{ENDS} +(\d+)", None)),
        "segments, state",
    ),
    "undump": Tool(work.messages, raw_bytes, "packets with their bytes"),
    "vfscount": Tool(
        work.files,
        functions("vfs_mkdir", "vfs_rmdir", "vfs_rename", "vfs_unlink", "vfs_symlink", "vfs_link"),
        "calls by function",
    ),
    "vfsstat": Tool(work.files, functions("vfs_fsync"), "calls by function"),
    "writeback": Tool(
        work.writing,
        named(REASONS, lines(r"(7:\d+) +(\d+) +(\w+) +[\d.]+", r"(7:\d+) +(\d+) +(\d+) +[\d.]+", None)),
        "writings",
    ),
}


# --- both at once -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def machine() -> Iterator[Path]:
    """What the work needs: a file system on a block device of its own, a network device that leads nowhere."""
    folder = Path(tempfile.mkdtemp())
    (folder / "mnt").mkdir()
    (folder / "image").write_bytes(bytes(32 << 20))
    run = [
        ["modprobe", "-a", "loop", "ext4", "dummy"],
        ["mkfs.ext4", "-q", "-O", "^has_journal", str(folder / "image")],
        ["mount", "-o", "loop", str(folder / "image"), str(folder / "mnt")],
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "klasy0", "type", "dummy"],
        ["ip", "addr", "add", "10.77.0.1/24", "dev", "klasy0"],
        ["ip", "link", "set", "klasy0", "up"],
        ["ip", "neigh", "add", work.PEER, "lladdr", "02:00:00:00:00:02", "dev", "klasy0"],
        ["tc", "qdisc", "replace", "dev", "klasy0", "root", "blackhole"],
    ]
    for command in run:
        subprocess.run(command, check=True)
    (folder / "mnt" / "here").write_text("here\n")
    os.sync()
    try:
        yield folder
    finally:
        subprocess.run(["ip", "link", "del", "klasy0"], check=True)
        subprocess.run(["modprobe", "-q", "-r", "dummy"], check=False)  # unless it is built in, or others use it
        subprocess.run(["umount", folder / "mnt"], check=True)
        shutil.rmtree(folder)


def klasy(*words: str) -> str:
    """The output of a command."""
    return subprocess.run(["klasy", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """An original; -v has it say what it has attached."""
    with open(folder / f"{name}.out", "wb") as out, open(folder / f"{name}.err", "wb") as err:
        return subprocess.Popen(["bpftrace", "-B", "none", "-v", ORIGINALS / f"{name}.bt"], stdout=out, stderr=err)


def attached(name: str, folder: Path) -> bool:
    """Whether it has attached as many probes as it said that it would; END waits for the end."""
    announced = re.search(r"Attaching (\d+) probe", (folder / f"{name}.out").read_text(errors="replace"))
    done = re.findall(r"(?m)^Attaching ", (folder / f"{name}.err").read_text(errors="replace"))
    later = len(re.findall(r"(?m)^END\b", (ORIGINALS / f"{name}.bt").read_text()))
    return announced is not None and len(done) >= int(announced[1]) - later


def fork_work(task: Callable[[Path], None], disk: Path) -> int:
    """Do the work in a process of its own; its number."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            Path("/proc/self/comm").write_text(COMM)
            task(disk)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"the work {task.__name__} failed")
    return pid


def observe(names: list[str], disk: Path) -> tuple[dict[str, Seen], dict[str, str]]:
    """What was seen by each original and its aspect; and for those originals that did not begin, what they said."""
    folder = disk
    running = {name: start(name, folder) for name in names}
    deadline = time.monotonic() + 400
    ready: set[str] = set()
    failed: dict[str, str] = {}
    while len(ready) + len(failed) < len(names):
        for name, process in running.items():
            if process.poll() is not None:
                failed.setdefault(name, (folder / f"{name}.err").read_text(errors="replace").strip()[-300:])
            elif attached(name, folder):
                ready.add(name)
        if time.monotonic() > deadline:
            failed.update({name: "it did not begin in time" for name in names if name not in ready})
        time.sleep(0.2)
    klasy("weave", "-q", "--buffer", "4M", *(str(HERE / f"{name}.asp") for name in names))
    time.sleep(1)  # what was attached last
    works = {task: fork_work(task, disk) for task in dict.fromkeys(TOOLS[name].work for name in names)}
    time.sleep(1.5)  # what prints each second
    points = json.loads(klasy("joinpoints", "--json"))["joinpoints"]
    states = {a["aspect"]: {s["name"]: s for s in a["states"]} for a in json.loads(klasy("stat", "--json"))["aspects"]}
    for process in running.values():
        process.send_signal(signal.SIGINT)
    for process in running.values():
        process.wait()
    messages: dict[str, list[str]] = {name: [] for name in names}
    for line in klasy("log", "--json").splitlines():
        event = json.loads(line)
        messages[event["aspect"]].append(event["message"])
    klasy("unweave")
    seen = {}
    for name in names:
        hits: Counter[str] = Counter()
        for point in points:
            if point["aspect"] == name:
                hits[point["function"]] += point["hits"]
        printed = (folder / f"{name}.out").read_text(errors="surrogateescape")
        seen[name] = Seen(printed, messages[name], dict(hits), states.get(name, {}), works[TOOLS[name].work])
    return seen, failed


def size(path: Path) -> int:
    """Lines that say something: no comments, no blank ones."""
    text = re.sub(r"(?s)/\*.*?\*/", "", path.read_text())
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith(("//", "#!")))


def main() -> int:
    """Compare, and print the table."""
    names = sys.argv[1:] or list(TOOLS)
    with machine() as disk:
        seen, failed = observe(names, disk)
    print(f"{'tool':15} {'lines':>5} {'aspect':>6}  verdict")
    worst = 0
    for name in names:
        printed, own = TOOLS[name].compare(seen[name])
        lengths = f"{size(ORIGINALS / f'{name}.bt'):5} {size(HERE / f'{name}.asp'):6}"
        total = sum(own.values())
        if name in failed:
            verdict = f"the original does not run here: {failed[name]}"
        elif printed == own and total:
            verdict = f"same: {total} {TOOLS[name].what}"
        else:
            worst = 1
            verdict = f"DIFFERS: {sum(printed.values())} and {total} {TOOLS[name].what}"
        print(f"{name:15} {lengths}  {verdict}")
        if verdict.startswith("DIFFERS"):
            for only, who in ((printed - own, "bpftrace only"), (own - printed, "klasy only")):
                for event, number in list(only.items())[:6]:
                    print(f"{'':30}{who}: {number} x {' '.join(event)}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
