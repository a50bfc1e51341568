"""Printing events: what is on the disk is taken out of the kernel's buffer, what is not stays."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.logrecords import SYMBOLS, FakeRing, fields, record, schema

from klasy.cli import reading
from klasy.cli.interrupts import Interrupts
from klasy.cli.reading import LogOutput, WriteRefused, follow, losses, nobody_reads, say_losses, write_lines
from klasy.log import reader
from klasy.log.reader import LogReader
from klasy.weaver.counts import Count


@pytest.fixture
def ring():
    """A buffer of twenty records, each with a number."""
    return FakeRing([record(bytes([n]), time_ns=n) for n in range(20)])


@pytest.fixture
def log(ring, monkeypatch, tmp_path):
    """Its reader, in batches of eight."""
    monkeypatch.setattr(reader, "RingReader", lambda ring: ring)
    monkeypatch.setattr(reader, "_BATCH", 8)
    with LogReader([(schema(*fields(("n", "int", 1))), ring)], lambda _: None, SYMBOLS, locks=str(tmp_path)) as log:
        yield log


@pytest.fixture
def output(monkeypatch, tmp_path):
    """Standard output into a file. (pytest puts its own in sys.stdout when the test begins.)"""
    with open(tmp_path / "out", "w+") as file:
        monkeypatch.setattr(reading, "sys", SimpleNamespace(stdout=file))
        yield file


def numbers(text: str) -> list[int]:
    return [json.loads(line)["values"]["n"] for line in text.splitlines()]


def written(output) -> str:
    return os.pread(output.fileno(), 1 << 20, 0).decode()


def test_all_is_printed(log, ring, output):
    """Everything in the buffers is printed, a line each, and consumed."""
    LogOutput(log, SYMBOLS, as_json=True, hint="").drain()
    assert numbers(written(output)) == list(range(20))
    assert ring.consumed == 20


def test_text_before_comes_before(log, output):
    """What was printed before and is still in Python's buffer is not overtaken."""
    print("head", file=output)
    LogOutput(log, SYMBOLS, as_json=False, hint="").drain()
    assert written(output).startswith("head\n")
    assert written(output).endswith(" a: execution vfs_read: n = 19\n")


def test_keep(log, ring, output):
    """With keep nothing is consumed."""
    LogOutput(log, SYMBOLS, as_json=True, hint="").drain(keep=True)
    assert numbers(written(output)) == list(range(20))
    assert ring.consumed == 0


@pytest.mark.parametrize("room", [0, 1, 100, 500, 1000, 2000, 3000])
def test_a_full_disk_loses_nothing_and_repeats_nothing(log, ring, output, monkeypatch, room):
    """Wherever the disk is full: whole lines are there, and the rest comes with the next reading."""
    really = os.write
    left = room

    def write(descriptor, data):
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = really(descriptor, data[: min(left, 700)])
        left -= done
        return done

    out = LogOutput(log, SYMBOLS, as_json=True, hint="make room")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(WriteRefused, match="cannot write the log: No space left on device") as caught:
            out.drain()
    assert caught.value.hint == "make room"
    assert caught.value.exit_status == 3
    before = numbers(written(output))
    assert before == list(range(ring.consumed))
    out.drain()
    assert numbers(written(output)) == list(range(20))


def test_another_failure_to_write_has_no_hint_about_room(log, ring, output, monkeypatch):
    """Only where room is what lacks is it asked for."""

    def write(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(WriteRefused, match="Input/output error") as caught:
        LogOutput(log, SYMBOLS, as_json=True, hint="make room").drain()
    assert not caught.value.hint
    assert ring.consumed == 0


def test_nobody_reads(log, ring, monkeypatch, tmp_path):
    """A broken pipe consumes nothing of what could not be handed on."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    with os.fdopen(writing_end, "w") as file:
        monkeypatch.setattr(reading, "sys", SimpleNamespace(stdout=file))
        with pytest.raises(BrokenPipeError):
            LogOutput(log, SYMBOLS, as_json=True, hint="").drain()
    assert ring.consumed == 0


class Woven:
    """Of a woven aspect what reading needs."""

    watches_data = False

    name = "a"
    states = ()
    joinpoints = ()
    stopped = False
    not_followed = 0

    def __init__(self, path, *counts: Count) -> None:
        self.path = str(path)
        self._counts = counts

    def hold(self):
        pass

    def counts(self):
        return self._counts

    def unfollowed(self):
        return self.not_followed


def test_follow_ends_when_nothing_is_woven(log, ring, output, tmp_path):
    """What was logged to the end is shown, and then it ends."""
    folder = tmp_path / "aspect"
    folder.mkdir()
    woven = Woven(folder)
    real = ring.wait

    def wait(timeout):
        folder.rmdir()
        ring.records.append(record(bytes([99]), time_ns=99))
        return real(timeout)

    ring.wait = wait
    with Interrupts() as interrupts:
        follow(LogOutput(log, SYMBOLS, as_json=True, hint=""), log, [woven], interrupts)
    assert numbers(written(output)) == [*range(20), 99]


def test_follow_ends_with_the_time(log, output, tmp_path, monkeypatch):
    """A limit ends it though the aspect is still woven."""
    clock = iter([0.0, 1.0, 9.5, 10.5])
    monkeypatch.setattr(reading.time, "monotonic", lambda: next(clock))
    waits = []
    log.wait = waits.append
    with Interrupts() as interrupts:
        follow(LogOutput(log, SYMBOLS, as_json=True, hint=""), log, [Woven(tmp_path)], interrupts, limit=10.0)
    assert waits == [1.0, 0.5]
    assert numbers(written(output)) == list(range(20))


def test_losses():
    """What was not logged is said in one line, each kind apart, and a miss that may be several's counts once."""
    counts = (Count(5, 1, 0, 3, shared=True, part=1.5), Count(5, 2, 1, 3, shared=True, part=1.5))
    assert losses(Woven("", *counts)) == (
        "a: 3 records lost because the buffer was full; "
        "3 hits missed because the processor was in another probe; "
        "1 return not followed because too many calls were under way"
    )
    assert losses(Woven("", Count(5, 0, 0, 0))) is None


def test_losses_of_system_calls():
    """A system call of which one end was seen says so in words of its own."""

    class OfCalls(Woven):
        joinpoints = (SimpleNamespace(kind="syscall"), SimpleNamespace(kind="execution"))

    assert losses(OfCalls("", Count(5, 0, 2, 0), Count(5, 0, 1, 0))) == (
        "a: 2 system calls seen at one end only: under way when the aspect was woven, ended with the task, "
        "refused by seccomp or a tracer, or too many at once; "
        "1 return not followed because too many calls were under way"
    )


def test_say_losses(capsys):
    """Only aspects that lost something are spoken of; only what helps is recommended."""
    aspects = [Woven("", Count(1, 1, 0, 0)), Woven("", Count(1, 0, 0, 0)), Woven("", Count(1, 0, 2, 0))]
    say_losses(aspects, still_woven=True)
    assert capsys.readouterr().err.splitlines() == [
        "klasy: a: 1 record lost because the buffer was full",
        "  hint: klasy joinpoints a tells where; weave it with a larger --buffer",
        "klasy: a: 2 returns not followed because too many calls were under way",
        "  hint: klasy joinpoints a tells where",
    ]
    say_losses(aspects[2:], still_woven=False)
    assert capsys.readouterr().err == "klasy: a: 2 returns not followed because too many calls were under way\n"


def test_whether_anybody_reads(tmp_path):
    """A pipe or socket is read until its other end is closed; a file always is."""
    reading_end, writing_end = os.pipe()
    assert not nobody_reads(writing_end)
    os.close(reading_end)
    assert nobody_reads(writing_end)
    os.close(writing_end)
    ours, theirs = socket.socketpair()
    with ours:
        assert not nobody_reads(ours.fileno())
        theirs.close()
        assert nobody_reads(ours.fileno())
    for path in (tmp_path / "log", Path(os.devnull)):
        with path.open("w") as file:
            assert not nobody_reads(file.fileno())


def test_what_was_left_out():
    """What sample and limit leave out is told like what was lost."""
    assert losses(Woven("", Count(9, 0, 0, 0, left_out=7), Count(9, 0, 0, 0, left_out=1, cut=2))) == (
        "a: 8 hits left out by sample or limit; 2 loops ended by the bound on loops"
    )


def test_follow_ends_when_all_have_stopped_themselves(log, output, tmp_path):
    """An aspect that stopped itself runs no more: what it logged is shown, and then it ends."""
    (tmp_path / "aspect").mkdir()
    woven = Woven(tmp_path / "aspect")
    woven.stopped = True
    with Interrupts() as interrupts:
        follow(LogOutput(log, SYMBOLS, as_json=True, hint=""), log, [woven], interrupts)
    assert numbers(written(output)) == list(range(20))


def test_lines_to_text_in_memory():
    """A command run by somebody's own process, its output kept as text, writes there: it has no file behind it."""
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        write_lines(["one", "två"], "")
    assert kept.getvalue() == "one\ntvå\n"


def test_say_losses_of_processors(capsys, monkeypatch):
    """What the registers of a processor did not watch is told by who reads the log, not only by klasy status."""

    class OfData(Woven):
        watches_data = True

    monkeypatch.setattr("klasy.weaver.watch.coverage", lambda woven: f"not watched on CPU 1 ({woven.name})")
    aspects = [OfData("", Count(1, 0, 0, 0))]
    say_losses(aspects, still_woven=True)
    assert capsys.readouterr().err == "klasy: a: not watched on CPU 1 (a)\n"
    say_losses(aspects, still_woven=False)  # taken out: no register is armed any more
    assert capsys.readouterr().err == ""
