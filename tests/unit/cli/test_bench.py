"""``klasy bench`` before it measures anything."""

from __future__ import annotations

import os
import sys

import pytest

from klasy.bench import EXPERIMENTS
from klasy.cli import main as cli


def test_without_a_name_the_experiments_are_listed(capsys):
    """Each with what it is for."""
    assert cli.main(["bench"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and what in shown for name, what in EXPERIMENTS.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hist"], "there is no experiment 'hist'"),
        (["hits", "--rounds", "0"], "--rounds takes a number from 1 on"),
        (["hits", "--rounds", "x"], "--rounds takes a whole number"),
        (["hits", "--seconds", "nan"], "up to 60"),
    ],
)
def test_wrong_usage(words, message, capsys):
    """Is told before anything is done."""
    assert cli.main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_only_for_root(monkeypatch, capsys):
    """A clear refusal."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["bench", "hits"]) == 3
    assert "klasy bench needs root" in capsys.readouterr().err


def test_a_picture_needs_matplotlib_from_the_start(monkeypatch, capsys):
    """Not only when minutes of measuring are over."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["bench", "hits", "--png", "x.png"]) == 3
    shown = capsys.readouterr().err
    assert "--png needs matplotlib" in shown
    assert "'.[plot]'" in shown


def test_only_what_there_is(monkeypatch, capsys):
    """A part that is misspelt does not pass for one that was measured."""
    from klasy.bench import hits
    from klasy.bench.measure import Report

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(hits, "measure", lambda _: Report("hits", "cost of a hit", "ns", (), {}))
    assert cli.main(["bench", "hits", "--only", "fentri", "--only", "kprobes"]) == 2
    shown = capsys.readouterr()
    assert "no part of hits has 'fentri' or 'kprobes' in its name" in shown.err
    assert shown.out == ""
