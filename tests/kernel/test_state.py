"""State of woven aspects against an account of the test's own: exact, whichever mechanism and CPUs write it.

The traffic is fallocate(2): whatever its arguments are, they reach vfs_fallocate() as they were given.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from support.commands import klasy_command, start
from support.livekernel import leftovers
from support.weaving import ROOT, Account, woven

import klasy
from klasy.api import state_decoder
from klasy.backend import Options
from klasy.log.format_text import value_text
from klasy.weaver.states import read_states

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
CALL = "vfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len)"
PARAMETERS = "struct file *file, int mode, loff_t offset, loff_t len"
HEAD = f"pointcut act({PARAMETERS}): execution({CALL}) && if(mode > 1000);"  # no mode that anybody else uses
BEFORE = f"before({PARAMETERS}): act(file, mode, offset, len)"
AFTER = f"after({PARAMETERS}): act(file, mode, offset, len)"


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert leftovers() == {}


@pytest.fixture
def act(tmp_path):
    """Makes one call of vfs_fallocate, which refuses: there is no such mode."""
    descriptor = os.open(tmp_path / "file-of-the-test", os.O_RDWR | os.O_CREAT)
    yield lambda mode, offset, length: LIBC.fallocate(descriptor, 1000 + mode, offset, length)
    os.close(descriptor)


def slots(made) -> dict[str, dict[tuple, object]]:
    """For each state its slots by key."""
    decoder, _ = state_decoder()
    return {
        content.state.name: {slot.key: slot for slot in decoder.slots(content.state, content.elements)}
        for content in read_states(made.aspect)
    }


def values(made) -> dict[str, dict[tuple, object]]:
    return {name: {key: slot.value for key, slot in found.items()} for name, found in slots(made).items()}


def lost(made) -> dict[str, tuple[int, int, int]]:
    found = {c.state.name: (c.losses.full, c.losses.busy, c.losses.faults) for c in read_states(made.aspect)}
    return {name: counts for name, counts in found.items() if any(counts)}


def buckets(slot) -> dict[tuple, int]:
    return {(b.low, b.high): b.count for b in slot.buckets if b.count}


def power_range(number: int) -> tuple:
    if number < 0:
        return (None, 0)
    return (0, 1) if number == 0 else (1 << number.bit_length() - 1, 1 << number.bit_length())


def step_range(number: int) -> tuple:
    for low, high in ((None, 100), (100, 400), (400, 700), (700, 1000)):
        if number < high:
            return (low, high)
    return (1000, None)


AGGREGATIONS = f"""
aspect exact {{
    {HEAD}
    count n; sum total; min least; max most; avg mean; hist powers; lhist(100, 1000, 300) steps;
    count n_of[int]; sum total_of[mode]; min least_of[mode]; max most_of[mode]; avg mean_of[mode];
    hist powers_of[mode]; lhist(100, 1000, 300) steps_of[mode];
    count read_n; sum read_total; min read_least; max read_most; avg read_mean[mode];
    s64 last; s64 added; u8 wraps; s64 by_offset[offset, mode]; u64 deleted[mode];
    {BEFORE} {{
        n++; total.add(len); least.add(len); most.add(len); mean.add(len); powers.add(len); steps.add(len);
        n_of[mode]++; total_of[mode].add(len); least_of[mode].add(len); most_of[mode].add(len);
        mean_of[mode].add(len); powers_of[mode].add(len); steps_of[mode].add(len);
    }}
    {AFTER} {{
        read_n++; read_total.add(len); read_least.add(len); read_most.add(len); read_mean[mode].add(len);
        last = len; added += len; wraps += 100; by_offset[offset, mode] += len; deleted[mode] = now;
        if (read_n % 3 == 0) delete deleted[mode];
        log(read_n, read_total, read_least, read_most, read_mean[mode]);
    }}
}}
"""


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_aggregations_of_known_values(act, force: str) -> None:
    """Every aggregation of four hundred known numbers is what Python makes of them, and so is what advice reads."""
    random_ = random.Random(7)
    calls = [
        (random_.randint(1, 5), random_.randint(-3, 3), random_.choice([0, 1, -1, random_.randint(-50, 1500)]))
        for _ in range(390)
    ]
    calls += [(9, 1, 1 << n) for n in range(5, 62, 4)] + [(9, 1, -(1 << 40)), (9, 2, (1 << 62) + 1)]
    with woven(AGGREGATIONS, force=force) as made:
        for call in calls:
            act(*call)
        found, logged = slots(made), [[value for _, value in event.values] for event in made.events()]
        assert lost(made) == {}
        assert made.total(0) == made.total(1) == len(calls)
    numbers = [length for _, _, length in calls]
    by_mode = {mode: [n for m, _, n in calls if m == mode] for mode in {m for m, _, _ in calls}}

    def c_mean(of: list[int]) -> int:
        return abs(sum(of)) // len(of) * (1 if sum(of) >= 0 else -1)

    for name, what in {"n": len, "total": sum, "least": min, "most": max, "mean": c_mean}.items():
        assert found[name][()].value == what(numbers), name
        assert {k: s.value for k, s in found[f"{name}_of"].items()} == {
            (1000 + mode,): what(of) for mode, of in by_mode.items()
        }, name
    assert (found["mean"][()].count, found["mean"][()].total) == (len(numbers), sum(numbers))
    for name, place in {"powers": power_range, "steps": step_range}.items():
        assert buckets(found[name][()]) == Counter(map(place, numbers)), name
        for mode, of in by_mode.items():
            assert buckets(found[f"{name}_of"][1000 + mode,]) == Counter(map(place, of)), (name, mode)
    assert found["last"][()].value == numbers[-1]
    assert found["added"][()].value == sum(numbers)
    assert found["wraps"][()].value == 100 * len(calls) % 256
    sums: Counter = Counter()
    for mode, offset, length in calls:
        sums[offset, 1000 + mode] += length
    assert {key: slot.value for key, slot in found["by_offset"].items()} == sums
    there = {}
    for number, (mode, _, _) in enumerate(calls, 1):
        there[mode] = number
        if number % 3 == 0:
            del there[mode]
    assert {key for key in found["deleted"]} == {(1000 + mode,) for mode in there}
    assert [value for row in logged[:360:37] for value in row] == [
        value
        for at in range(0, 360, 37)
        for value in (
            at + 1, sum(numbers[: at + 1]), min(numbers[: at + 1]), max(numbers[: at + 1]),
            c_mean([n for m, _, n in calls[: at + 1] if m == calls[at][0]]),
        )
    ]  # fmt: skip


# --- concurrency ------------------------------------------------------------------------------------------------------

SHARED = f"""
aspect shared {{
    {HEAD}
    count n; count n_of[mode]; sum total; avg mean_of[mode]; max most; min least_of[mode]; hist powers;
    hist powers_of[mode];
    s64 added; u16 small; s64 by_mode[mode]; count read; max read_most; u64 bits; u64 start[tid]; hist spent; count odd;
    {BEFORE} {{
        n++; n_of[mode]++; total.add(len); mean_of[mode].add(len); most.add(len); least_of[mode].add(len);
        powers.add(len); powers_of[mode].add(len); added += len; small++; by_mode[mode]++; read++; read_most.add(len);
        bits ^= len;
        start[tid] = now;
    }}
    {AFTER} {{
        n++; added -= 1; by_mode[mode]--; n_of[mode]++;
        if (start[tid]) {{ spent.add(now - start[tid]); delete start[tid]; }} else odd++;
        if (read == 0 || read_most < len) odd++;
    }}
}}
"""


@contextmanager
def both_cpus(work, rounds: int):
    """Run ``work(cpu, round)`` on two CPUs at once, in processes of their own, begun together."""
    gate_read, gate_write = os.pipe()
    children = []
    for cpu in sorted(os.sched_getaffinity(0))[:2]:
        pid = os.fork()
        if pid == 0:
            try:
                os.sched_setaffinity(0, {cpu})
                os.close(gate_write)
                os.read(gate_read, 1)  # until the parent closes it
                for number in range(rounds):
                    work(cpu, number)
            finally:
                os._exit(0)
        children.append(pid)
    os.close(gate_read)
    os.close(gate_write)
    yield children
    for pid in children:
        os.waitpid(pid, 0)


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_two_cpus_lose_nothing(act, force: str) -> None:
    """What two CPUs count at once, into the same words, by two programs each, is all there."""
    rounds = 1200
    assert len(os.sched_getaffinity(0)) >= 2
    with woven(SHARED, force=force, limits=Options(ring_bytes=1 << 16)) as made:
        with both_cpus(lambda cpu, number: act(1, 0, number + cpu), rounds):
            pass
        found, losses_ = slots(made), lost(made)
        assert sum(count.missed for count in made.aspect.counts()) == 0
        assert made.total(0) == made.total(1) == 2 * rounds
    assert losses_ == {}
    numbers = [*range(rounds), *range(1, rounds + 1)]
    one = (1001,)
    assert found["n"][()].value == found["n_of"][one].value == 4 * rounds
    assert found["total"][()].value == sum(numbers)
    assert (found["mean_of"][one].count, found["mean_of"][one].total) == (2 * rounds, sum(numbers))
    assert found["most"][()].value == found["read_most"][()].value == rounds
    assert found["least_of"][one].value == 0
    for name, key in (("powers", ()), ("powers_of", one)):
        assert buckets(found[name][key]) == Counter(map(power_range, numbers)), name
    assert found["added"][()].value == sum(numbers) - 2 * rounds
    assert found["small"][()].value == 2 * rounds % 65536
    assert found["by_mode"][one].value == 0
    assert found["read"][()].value == 2 * rounds
    xor = 0
    for number in numbers:
        xor ^= number
    assert found["bits"][()].value == xor
    assert found["start"] == {}
    assert found["spent"][()].count == 2 * rounds
    assert found["odd"][()].value == 0


def test_keys_made_by_two_cpus_at_once(act) -> None:
    """An element that both CPUs make at the same moment is made once, and counts for both."""
    rounds = 800
    text = f"""aspect race {{ {HEAD} count n[len]; s64 added[len]; hist h[len];
               {BEFORE} {{ n[len]++; added[len] += 2; h[len].add(len); }} }}"""
    with woven(text) as made:
        with both_cpus(lambda cpu, number: act(1, 0, number), rounds):
            pass
        found, losses_ = slots(made), lost(made)
    assert losses_ == {}
    assert {key: slot.value for key, slot in found["n"].items()} == {(n,): 2 for n in range(rounds)}
    assert {key: slot.value for key, slot in found["added"].items()} == {(n,): 4 for n in range(rounds)}
    assert {key: slot.count for key, slot in found["h"].items()} == {(n,): 2 for n in range(rounds)}


# --- a full map, and what cannot be read ------------------------------------------------------------------------------


def test_a_full_map_counts_what_it_loses(act) -> None:
    """With room for five keys the first five are right, and every further update is counted as lost."""
    text = f"""aspect full {{ {HEAD} count n[len]; s64 s[len]; u64 when[len]; hist h[len];
               {BEFORE} {{ n[len]++; s[len] += len; when[len] = now; h[len].add(1); }} }}"""
    numbers = [n % 9 for n in range(100)]
    with woven(text, limits=Options(keys=5)) as made:
        for number in numbers:
            act(1, 0, number)
        found, losses_ = slots(made), lost(made)
    counts = Counter(numbers)
    kept = {(n,): counts[n] for n in range(5)}
    left_out = len(numbers) - sum(kept.values())
    assert {key: slot.value for key, slot in found["n"].items()} == kept
    assert {key: slot.value for key, slot in found["s"].items()} == {(n,): n * c for (n,), c in kept.items()}
    assert {key: slot.count for key, slot in found["h"].items()} == kept
    assert set(found["when"]) == set(kept)
    assert losses_ == dict.fromkeys(("n", "s", "when", "h"), (left_out, 0, 0))


def test_memory_that_cannot_be_read_is_counted(act) -> None:
    """A key out of memory that is not there is 0, and the state says that it happened."""
    text = f"""aspect bad {{ {HEAD} count n[*(int *)len]; s64 s[str((char *)len)];
               {BEFORE} {{ n[*(int *)len]++; s[str((char *)len)] += *(int *)len; }} }}"""
    with woven(text) as made:
        for _ in range(7):
            act(1, 0, 8)
        found, losses_ = slots(made), lost(made)
    assert {key: slot.value for key, slot in found["n"].items()} == {(0,): 7}
    assert {key: slot.value for key, slot in found["s"].items()} == {("",): 0}
    assert losses_ == {"n": (0, 0, 7), "s": (0, 0, 7)}  # once an update, whatever of it could not be read


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_shown_by_their_types(act) -> None:
    """Strings of the task and of memory, functions by name, constants of enums, numbers with their sign."""
    text = f"""
    aspect keys {{
        {HEAD}
        count who[comm, tid]; count files[str(file->f_path.dentry->d_name.name)]; count calls[file->f_op->fsync];
        count kinds[enum pid_type]; count signs[s8, u8, bool]; count types[file->f_inode->i_sb->s_id, int];
        {BEFORE} {{
            who[comm, tid]++; files[str(file->f_path.dentry->d_name.name)]++; calls[file->f_op->fsync]++;
            kinds[PIDTYPE_TGID]++; kinds[(enum pid_type)77]++; signs[-1, -1, 5]++;
            types[file->f_inode->i_sb->s_id, -5]++;
        }}
    }}"""
    with open("/proc/self/comm", "w") as file:
        file.write("klasy-keys")
    with woven(text) as made:
        act(1, 0, 1)
        decoder, symbols = state_decoder()
        shown = {
            content.state.name: sorted(
                tuple(value_text(part, symbols) for part in slot.key)
                for slot in decoder.slots(content.state, content.elements)
            )
            for content in read_states(made.aspect)
        }
    assert shown["who"] == [('"klasy-keys"', str(os.getpid()))]
    assert shown["files"] == [('"file-of-the-test"',)]
    (fsync,) = shown["calls"][0]
    assert "fsync" in fsync  # ovl_fsync [overlay], shmem's noop_fsync ..
    assert shown["kinds"] == [("77",), ("PIDTYPE_TGID",)]
    assert shown["signs"] == [("-1", "255", "true")]
    (superblock, number) = shown["types"][0]
    assert superblock.startswith('"')
    assert number == "-5"


def test_the_largest_there_can_be(act) -> None:
    """Keys of 256 bytes, histograms of a thousand steps, 256 keys' worth of them: the verifier takes it all."""
    text = f"""
    aspect large {{
        {HEAD}
        count n[str((char *)file->f_path.dentry->d_name.name), file->f_inode->i_sb->s_id, comm, u64, u64, u64, u64, u64,
                u64];
        lhist(0, 1000, 1) h[comm, str(file->f_path.dentry->d_name.name)]; lhist(0, 100000, 100) alone;
        {BEFORE} {{
            n[str((char *)file->f_path.dentry->d_name.name), file->f_inode->i_sb->s_id, comm, 1, 2, 3, 4, 5, len]++;
            h[comm, str(file->f_path.dentry->d_name.name)].add(len); alone.add(len);
            log(h_read, len);
        }}
        {AFTER} {{ alone.clear(); h[comm, str(file->f_path.dentry->d_name.name)].add(-1); h_read++; }}
        u64 h_read;
    }}"""
    with woven(text, limits=Options(keys=256)) as made:
        for number in range(50):
            act(1, 0, 20 * number)
        found, losses_ = slots(made), lost(made)
    assert losses_ == {}
    assert len(found["n"]) == 50
    (slot,) = found["h"].values()
    assert buckets(slot) == {(None, 0): 50} | {(20 * n, 20 * n + 1): 1 for n in range(50)}
    assert buckets(found["alone"][()]) == {}


# --- latency ----------------------------------------------------------------------------------------------------------


def test_the_time_a_sleep_takes() -> None:
    """start[tid] and now - start[tid]: between what was asked for and what the sleeper itself measured."""
    text = """
    aspect sleeps {
        pointcut slept(): execution(hrtimer_nanosleep) && if(pid == PID);
        u64 start[tid]; hist spent[comm]; min least; max most; count unmatched;
        before(): slept() { start[tid] = now; }
        after(): slept() {
            if (start[tid]) { u64 took = now - start[tid]; spent[comm].add(took); least.add(took); most.add(took);
                              delete start[tid]; }
            else unmatched++;
        }
    }""".replace("PID", str(os.getpid()))
    with woven(text) as made:
        measured = []
        for _ in range(5):
            before = time.monotonic_ns()
            LIBC.usleep(30_000)  # Python's own sleep is until a moment, this one for a time
            measured.append(time.monotonic_ns() - before)
        found = slots(made)
    assert found["start"] == {}
    assert found["unmatched"][()].value == 0
    assert [slot.count for slot in found["spent"].values()] == [5]
    assert 30_000_000 <= found["least"][()].value <= min(measured)
    assert found["most"][()].value <= max(measured)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_commands(act, tmp_path) -> None:
    """stat shows tables, histograms and losses; --replace begins anew; weave -f ends with what was kept."""
    source = tmp_path / "kept.asp"
    source.write_text(
        f"aspect kept {{ {HEAD} count n[len]; hist h; u64 last; {BEFORE} {{ n[len]++; h.add(len); last = len; }} }}"
    )
    assert klasy_command("weave", "--keys", "3", str(source)).status == 0
    for number in (1, 1, 1, 2, 2, 5, 8):
        act(1, 0, number)
    done = klasy_command("stat", "kept")
    assert done.status == 0
    assert done.out.splitlines() == [
        "kept.n, count, 3 keys",
        "  len  COUNT",
        "    1      3",
        "    2      2",
        "    5      1",
        "  1 update lost because there was no room for a new key: there are 3 keys",
        "",
        "kept.h, hist",
        "  7 values",
        "    [1]      3 |" + "@" * 50 + "|",
        "    [2, 4)   2 |" + "@" * 34 + " " * 16 + "|",
        "    [4, 8)   1 |" + "@" * 17 + " " * 33 + "|",
        "    [8, 16)  1 |" + "@" * 17 + " " * 33 + "|",
        "",
        "kept.last, u64: 8",
    ]
    document = json.loads(klasy_command("stat", "--json", "--top", "1").out)
    (aspect,) = document["aspects"]
    assert aspect["aspect"] == "kept"
    assert [state["values"] for state in aspect["states"]] == [
        [{"key": [1], "value": 3}],
        [{"key": [], "count": 7, "buckets": [
            {"low": 1, "high": 2, "count": 3}, {"low": 2, "high": 4, "count": 2},
            {"low": 4, "high": 8, "count": 1}, {"low": 8, "high": 16, "count": 1},
        ]}],
        [{"key": [], "value": 8}],
    ]  # fmt: skip
    assert [state["lost"] for state in aspect["states"]] == [1, 0, 0]
    assert [state["elements"] for state in aspect["states"]] == [3, 1, 1]
    assert {slot.key: slot.value for slot in klasy.states("kept")["n"]} == {(1,): 3, (2,): 2, (5,): 1}
    (status,) = json.loads(klasy_command("status", "--json").out)["aspects"]
    assert status["state_lost"] == 1
    assert "kept.n: 1 update lost" in klasy_command("log").err
    assert klasy_command("weave", "--replace", str(source)).status == 0
    assert klasy_command("stat").out.splitlines()[0] == "kept.n, count, 0 keys"
    assert klasy_command("unweave").status == 0
    assert klasy_command("stat").out == ""
    assert klasy_command("stat", "kept").status == 1


def test_what_was_kept_is_shown_at_the_end(act, tmp_path) -> None:
    """Ctrl-C on weave -f: the last line of the log is followed by the states; with --json by one object."""
    source = tmp_path / "kept.asp"
    source.write_text(f"aspect kept {{ {HEAD} count n[len]; {BEFORE} {{ n[len]++; log(len); }} }}")
    for options, expected in (
        ((), "kept.n, count, 2 keys\n  len  COUNT\n    4      2\n    6      1\n"),
        (("--json",), None),
    ):
        running = start("weave", "-f", *options, str(source))
        running.until(lambda r=running: "woven: kept" in r.err)
        for number in (4, 6, 4):
            act(1, 0, number)
        running.signal(signal.SIGINT)
        done = running.wait()
        lines = done.out.splitlines(keepends=True)
        if expected is None:
            assert json.loads(lines[-1])["aspects"][0]["states"][0]["values"] == [
                {"key": [4], "value": 2}, {"key": [6], "value": 1},
            ]  # fmt: skip
            assert [json.loads(line)["values"] for line in lines[:-1]] == [{"len": 4}, {"len": 6}, {"len": 4}]
        else:
            assert "".join(lines[3:]) == expected


def test_following(act, tmp_path) -> None:
    """stat -f into a pipe: once what is there, and again only where it has changed; it ends with the aspect."""
    source = tmp_path / "kept.asp"
    source.write_text(f"aspect kept {{ {HEAD} count n; {BEFORE} {{ n++; }} }}")
    assert klasy_command("weave", str(source)).status == 0
    running = start("stat", "-f", "--json")
    running.until(lambda: running.out)
    act(1, 0, 1)
    running.until(lambda: running.out.count("\n") == 2)
    time.sleep(2.5)
    assert klasy_command("unweave").status == 0
    lines = running.wait().out.splitlines()
    assert [json.loads(line)["aspects"][0]["states"][0]["values"][0]["value"] for line in lines] == [0, 1]


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_example() -> None:
    """examples/rtt: as many times measured as segments came, and as many segments as the kernel's own account has."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    text = (ROOT / "examples/rtt/rtt.asp").read_text()
    with woven(text) as made, Account(["tcp_rcv_established"]) as account:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/rtt/transfer.py")], check=True, capture_output=True, text=True
        )
        passed = account.passed()["tcp_rcv_established"]
        found, losses_ = slots(made), lost(made)
    ports = [int(number) for number in re.findall(r"\d+", done.stdout)]
    assert losses_ == {}
    assert found["start"] == {}
    assert {port for (port,) in found["segments"]} == set(ports)
    assert sum(slot.value for slot in found["segments"].values()) == passed > 10
    assert sum(slot.count for slot in found["spent"].values()) == passed
