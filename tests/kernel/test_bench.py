"""Each experiment of ``klasy bench`` in a tiny form: it runs, and its figures are of the size they must have."""

from __future__ import annotations

import json
import os
import re

import pytest
from support.commands import klasy_command
from support.weaving import woven

ASPECT = """aspect kept { before(struct file *file): execution("loff_t null_lseek(struct file *file, ..)") {
    log(file->f_pos, file->f_op); log("%pS %d", file->f_op->llseek, file->f_mode); } }"""


def bench(*words):
    """The document of one experiment, measured hardly at all, and without other tools."""
    done = klasy_command("bench", *words, "--json", "--no-peers", "--rounds", "1", "--seconds", "0.001")
    assert done.status == 0, done.err
    return json.loads(done.out)


def medians(document):
    """By group and name."""
    return {(row["group"], row["name"]): row["median"] for row in document["rows"]}


@pytest.mark.only_on("6.1")
def test_hits():
    """Each hit was counted, or it fails; a trap that logs takes time."""
    document = bench("hits", "--only", "fentry", "--only", "kprobe at a call")
    found = medians(document)
    assert found["kprobe at a call, logged", "klasy"] > 0
    assert {name for _, name in found} == {"empty program", "by hand", "klasy"}
    assert {group for group, _ in found} >= {"fentry, counted", "fentry, logged"}
    assert document["machine"]["kernel"]
    assert document["missing"] == {}


def test_unwoven():
    """The load would show a probe, and shows none where nothing is woven."""
    found = medians(bench("unwoven"))
    group = "lseek on /dev/null"
    assert found[group, "unwoven (kprobe)"] < found[group, "woven here (kprobe)"]


@pytest.mark.only_on("6.12")
def test_log():
    """All events come out, or there would be no figure; so few do not always take longer than fewer."""
    document = bench("log", "--only", "text")
    assert len(document["rows"]) + len(document["missing"]) == 1
    assert all("us of CPU an event" in row["note"] for row in document["rows"])
    assert all("uneven" in reason for reason in document["missing"].values())


@pytest.mark.only_on("6.12")
def test_traps():
    """Of join points on the way of a packet each packet hits each once."""
    document = bench("traps", "--only", "fentry, 10,", "--only", "kprobes, 10,", "--seconds", "0.1")
    notes = {(row["group"], row["name"]): row["note"] for row in document["rows"] if row["name"] != "0"}
    assert notes.keys() == {("kprobes", "10"), ("fentry", "10")}
    for note in notes.values():
        assert 9 < float(note.removesuffix(" hits a packet")) < 11  # the system sends some of its own


def test_a_raw_log_shows_the_same(tmp_path):
    """The lines of a file of klasy log --raw are those of klasy log, names of code included, when nothing is woven."""
    with woven(ASPECT), open(os.devnull, "rb") as null:
        for _ in range(3):
            null.seek(0)
        with (tmp_path / "kept.klog").open("wb") as file:
            assert klasy_command("log", "--raw", "--keep", "kept", stdout=file.fileno()).status == 0
        live = klasy_command("log", "kept").out
    shown = klasy_command("log", str(tmp_path / "kept.klog"))
    assert shown.status == 0
    assert "null_lseek+0x0 " in live
    assert _without_clock(shown.out) == _without_clock(live)


def _without_clock(text):
    """The clock on the wall was asked twice: its millionths of a second differ."""
    return re.sub(r"^\d\d:\d\d:\d\d\.\d{6} ", "", text, flags=re.M)
