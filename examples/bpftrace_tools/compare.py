#!/usr/bin/env python3
"""Runs bpftrace's own tools and the aspects beside this file at the same time, over the same work, and compares them.

    klasy lab -- .venv/bin/python examples/bpftrace_tools/compare.py [TOOL ..]

As root, with bpftrace's tools installed (Debian: bpftrace), iproute2 and e2fsprogs. All tools are started, all aspects
woven; then each tool's work is done by a process of its own, and of both accounts the events of that process are
compared: the same events as often, their times and addresses left out. What cannot be kept to one process (vfscount,
say) is compared by what nothing else does, and counted from the same moment on: bpftrace's tools are attached some
twenty seconds before the aspects are woven, and klasy itself makes files meanwhile. (Both are asked what they have
counted before the work and behind it; SIGUSR1 has bpftrace print its maps.) The table says what was compared, and
whether it is the same; the exit status is 1 if any differs.
"""

from __future__ import annotations

import contextlib
import io
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
HALF_A_BUCKET = 0.5
BOUND = 1 << 15  # us: what waits longer for a processor was kept waiting by the work

Events = Counter[tuple[str, ...]]


class Counted(NamedTuple):
    """What was counted until a moment: the original's maps as it prints them, the aspect's hits and states."""

    maps: str
    hits: Counter[str]  # by function
    states: dict[str, dict]


class Seen(NamedTuple):
    """What a tool printed from the beginning of the work on, and what its aspect logged; what both had counted."""

    printed: str
    messages: list[str]
    before: Counted
    after: Counted
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


def numbers(text: str) -> Events:
    """The maps of counts that bpftrace prints: by the map's name and the key."""
    return Counter({m.groups()[:2]: int(m[3]) for m in re.finditer(r"(?m)^@(\w*)\[(.*)\]: (\d+)$", text)})


def buckets(text: str) -> Events:
    """The histograms that bpftrace prints: by the key and the least value of the range."""
    found: Events = Counter()
    key = ""
    scale = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for line in text.splitlines():
        if m := re.match(r"@\w*(?:\[(.*)\])?: *$", line):
            key = m[1] or ""
        elif m := re.match(r"[\[(](\d+|\.\.\.)([KMG]?)(?:, \S+)?[\])]\s+(\d+) \|", line):
            low = 0 if m[1] == "..." else int(m[1]) * scale[m[2]]
            found[key, str(low)] += int(m[3])
    return found


def elements(state: dict) -> Events:
    """The same of a state, as ``klasy stat --json`` has it."""
    found: Events = Counter()
    for element in state["values"]:
        key = str(element["key"][0]) if element["key"] else ""
        for bucket in element.get("buckets", ()):
            found[key, str(bucket["low"] or 0)] += bucket["count"]
        if "buckets" not in element:
            found[key,] += element["value"]
    return found


def since(read: Callable[[Counted], Events]) -> Callable[[Seen], Events]:
    """What was counted between the two moments."""
    return lambda seen: read(seen.after) - read(seen.before)


def state(name: str) -> Callable[[Seen], Events]:
    """What a state of the aspect has got meanwhile."""
    return since(lambda counted: elements(counted.states[name]))


def block_sizes(seen: Seen) -> tuple[Events, Events]:
    """Of the tasks that both saw: nobody else has a block device in the lab."""
    return since(lambda counted: buckets(counted.maps))(seen), state("sizes")(seen)


def latencies(seen: Seen) -> tuple[Events, Events]:
    """As many of both; and as near to each other as two may be who take the time at different places on the way."""
    printed, own = since(lambda counted: buckets(counted.maps.partition("@usecs")[2]))(seen), state("usecs")(seen)
    both = [Counter({("requests",): sum(events.values())}) for events in (printed, own)]
    off = distance(printed, own)
    if off > HALF_A_BUCKET:
        both[1]["buckets off, on average, in hundredths",] = round(100 * off)
    return both[0], both[1]


def distance(one: Events, other: Events) -> float:
    """How many buckets the values of one histogram lie from those of the other, on average."""
    lows = sorted({int(key[-1]) for key in (one + other)})
    powers = sorted({low.bit_length() for low in lows})
    steps = carried = 0
    for power in range(powers[0], powers[-1] + 1) if powers else ():
        for events, sign in ((one, 1), (other, -1)):
            carried += sign * sum(n for key, n in events.items() if int(key[-1]).bit_length() == power)
        steps += abs(carried)
    return steps / max(1, sum(other.values()))


def long_waits(seen: Seen) -> tuple[Events, Events]:
    """Whoever waited as long as the work has tasks wait."""
    printed, own = since(lambda counted: buckets(counted.maps.partition("@usecs")[2]))(seen), state("usecs")(seen)
    return Counter({k: n for k, n in printed.items() if int(k[1]) >= BOUND}), Counter(
        {k: n for k, n in own.items() if int(k[1]) >= BOUND}
    )


def system_calls(seen: Seen) -> tuple[Events, Events]:
    """The work's call, and the work's name."""
    printed = since(lambda counted: numbers(counted.maps))(seen)
    own: Events = Counter()
    for name, of in (("syscall", "by_number"), ("process", "by_process")):
        own += Counter({(name, *key): n for key, n in state(of)(seen).items()})
    names = {("syscall", str(work.GETPRIORITY)), ("process", COMM)}
    return Counter({k: n for k, n in printed.items() if k in names}), Counter(
        {k: n for k, n in own.items() if k in names}
    )


def functions(*names: str, each_second: bool = False) -> Callable[[Seen], tuple[Events, Events]]:
    """Calls of functions that only the work calls. ``each_second``: the original prints what each second had."""

    def compare(seen: Seen) -> tuple[Events, Events]:
        printed: Events = Counter()
        if each_second:
            for name, number in re.findall(r"(?m)^@\[(\w+)\]: (\d+)", seen.printed):
                printed[name,] += int(number)
        else:
            for (_, name), number in since(lambda counted: numbers(counted.maps))(seen).items():
                printed[name,] += number
        own = seen.after.hits - seen.before.hits
        return Counter({k: n for k, n in printed.items() if k[0] in names}), Counter(
            {(name,): n for name, n in own.items() if name in names}
        )

    return compare


def new_processes(seen: Seen) -> tuple[Events, Events]:
    """All of them: the original's counts of each second together."""
    total = sum(map(int, re.findall(r"PIDs/sec: @: (\d+)", seen.printed)))
    return Counter({("forks",): total}), Counter({("forks",): state("forks")(seen)["",]})


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


def command_lines(seen: Seen) -> tuple[Events, Events]:
    """Words: the original's in one line, the aspect's in as many, whose numbers begin at 0 with each attempt."""
    attempts: list[tuple[str, str]] = []
    for message in seen.messages:
        pid, number, word = message.split(maxsplit=2)
        before = f"{attempts.pop()[1]} " if number != "0" else ""
        attempts.append((pid, before + word))
    printed = re.findall(rf"(?m)^{CLOCK}\d+ +(\d+) +(.*)$", seen.printed)

    def works(found: list[tuple[str, str]]) -> Events:
        return Counter(attempt for attempt in found if attempt[1].startswith(("true one ", "sh -c ")))

    return works(printed), works(attempts)


#: What is changed in an original: that header is the kernel's own, which is not there without the kernel's sources.
ALTERED = {"runqlat": ("#include <linux/sched.h>", "#define TASK_RUNNING 0")}
#: Of an original that finds nothing without these functions: one of them must be there.
NEEDED = {"biolatency": ("blk_account_io_start", "__blk_account_io_start")}
#: Tools that print what each second had, by a timer.
EACH_SECOND = ("pidpersec", "vfsstat")
#: Tools whose maps are asked for before the work and behind it.
ON_REQUEST = ("biolatency", "bitesize", "runqlat", "syscount", "vfscount")

STATES = dict(enumerate((
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
)))  # fmt: skip
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
    "biolatency": Tool(work.block_device, latencies, "requests, whose times lie in the same ranges or near"),
    "bitesize": Tool(work.block_device, block_sizes, "requests by task and size"),
    "capable": Tool(
        work.capabilities,
        lines(r"(\d+) +(\d+) +(\S+) +(\d+) +\S+ +(\d+)", r"(\d+) +(\d+) +(\S+) +(\d+) +(\d+)", 1),
        "checks",
    ),
    "dcsnoop": Tool(work.lookups, lines(r"\d+ +(\d+) +(\S+) +([RM]) (.*)", r"(\d+) +(\S+) +([RM]) (.*)"), "lookups"),
    "execsnoop": Tool(work.programs, command_lines, "attempts with their arguments"),
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
    "vfsstat": Tool(work.files, functions("vfs_fsync", "vfs_create", each_second=True), "calls by function"),
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
    """The output of a command, run by this process: a process of its own would be among what is counted."""
    from klasy.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = main(list(words))
    if status:
        raise SystemExit(f"klasy {words[0]} ended with status {status}")
    return output.getvalue()


def count(running: dict[str, subprocess.Popen[bytes]], folder: Path) -> tuple[dict[str, Counted], dict[str, int], int]:
    """What all have counted by now, by tool; how far the original's output goes that is not of this; and when: ns."""
    points = json.loads(klasy("joinpoints", "--json"))["joinpoints"]
    states = {a["aspect"]: {s["name"]: s for s in a["states"]} for a in json.loads(klasy("stat", "--json"))["aspects"]}
    outputs = {name: folder / f"{name}.out" for name in running}
    moment, ends = time.monotonic_ns(), {name: path.stat().st_size for name, path in outputs.items()}
    asked = [name for name in ON_REQUEST if name in running and running[name].poll() is None]
    for name in asked:
        running[name].send_signal(signal.SIGUSR1)
    for name in asked:
        printed(outputs[name], ends[name])
    counted = {}
    for name in running:
        hits: Counter[str] = Counter()
        for point in points:
            if point["aspect"] == name:
                hits[point["function"]] += point["hits"]
        maps = outputs[name].read_bytes()[ends[name] :].decode(errors="replace") if name in asked else ""
        counted[name] = Counted(maps, hits, states.get(name, {}))
    ends = {name: path.stat().st_size if name in asked else ends[name] for name, path in outputs.items()}
    return counted, ends, moment


def printed(output: Path, begin: int, times: int = 1) -> None:
    """Wait until a tool has printed beyond a place, so many times, and then nothing for a while."""
    seen = begin
    deadline = time.monotonic() + 60
    while times and time.monotonic() < deadline:
        time.sleep(0.4)
        size = output.stat().st_size
        times -= size > seen
        seen = size
    while time.monotonic() < deadline:
        time.sleep(0.6)
        if times == 0 and output.stat().st_size == seen:
            return
        seen = output.stat().st_size
        if output.stem in EACH_SECOND:
            return


def seconds_over(names: list[str], folder: Path) -> None:
    """Wait until who prints each second has done so twice: what was before is told then."""
    for name in EACH_SECOND:
        if name in names:
            printed(folder / f"{name}.out", (folder / f"{name}.out").stat().st_size, 2)
    time.sleep(1.2)


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """An original; -v has it say what it has attached."""
    script = folder / f"{name}.bt"
    script.write_text((ORIGINALS / f"{name}.bt").read_text().replace(*ALTERED.get(name, ("", ""))))
    with open(folder / f"{name}.out", "wb") as out, open(folder / f"{name}.err", "wb") as err:
        return subprocess.Popen(["bpftrace", "-B", "none", "-v", script], stdout=out, stderr=err)


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
        raise ChildProcessError(f"the work {task.__name__} failed")
    return pid


def observe(names: list[str], disk: Path) -> tuple[dict[str, Seen], dict[str, str]]:
    """What was seen by each original and its aspect; and for those originals that did not begin, what they said."""
    folder = disk
    running = {name: start(name, folder) for name in names}
    deadline = time.monotonic() + 900
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
    count(running, folder)  # for what the first time does more
    seconds_over(names, folder)
    before, begun, first = count(running, folder)
    works = {}
    for task in dict.fromkeys(TOOLS[name].work for name in names):
        try:
            works[task] = fork_work(task, disk)
        except ChildProcessError as error:
            failed.update({name: str(error) for name in names if TOOLS[name].work is task})
            works[task] = -1
    seconds_over(names, folder)
    after, ended, last = count(running, folder)
    for process in running.values():
        process.send_signal(signal.SIGINT)
    for process in running.values():
        process.wait()
    messages: dict[str, list[str]] = {name: [] for name in names}
    log = subprocess.run(["klasy", "log", "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in log.splitlines():
        event = json.loads(line)
        if first <= event["time_ns"] <= last:  # the kernel writes back by itself, too
            messages[event["aspect"]].append(event["message"])
    klasy("unweave")
    seen = {}
    for name in names:
        output = (folder / f"{name}.out").read_bytes()[begun[name] : None if name in ON_REQUEST else ended[name]]
        printed = output.decode(errors="surrogateescape")
        seen[name] = Seen(printed, messages[name], before[name], after[name], works[TOOLS[name].work])
    return seen, failed


def size(path: Path) -> int:
    """Lines that say something: no comments, no blank ones."""
    text = re.sub(r"(?s)/\*.*?\*/", "", path.read_text())
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith(("//", "#!")))


def main() -> int:
    """Compare, and print the table."""
    names = sys.argv[1:] or list(TOOLS)
    if unknown := [name for name in names if name not in TOOLS]:
        raise SystemExit(f"no such tool here: {', '.join(unknown)}")
    with machine() as disk:
        seen, failed = observe(names, disk)
    print(f"{'tool':15} {'lines':>5} {'aspect':>6}  verdict")
    symbols = Path("/proc/kallsyms").read_text()
    worst = 0
    for name in names:
        printed, own = TOOLS[name].compare(seen[name])
        lengths = f"{size(ORIGINALS / f'{name}.bt'):5} {size(HERE / f'{name}.asp'):6}"
        total = sum(own.values())
        if name in NEEDED and not any(f" {function}\n" in symbols for function in NEEDED[name]):
            verdict = f"not compared: this kernel has no {' and no '.join(NEEDED[name])} to probe"
        elif name in failed:
            verdict = f"not compared: {failed[name]}"
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
