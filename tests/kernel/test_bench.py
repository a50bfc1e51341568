"""Each experiment of ``klasy bench`` in a tiny form: it runs, and its figures are of the size they must have."""

from __future__ import annotations

import json

from support.commands import klasy_command


def bench(*words):
    """The document of one experiment, measured hardly at all, and without other tools."""
    done = klasy_command("bench", *words, "--json", "--no-peers", "--rounds", "1", "--seconds", "0.001")
    assert done.status == 0, done.err
    return json.loads(done.out)


def medians(document):
    """By group and name."""
    return {(row["group"], row["name"]): row["median"] for row in document["rows"]}


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
