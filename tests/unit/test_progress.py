"""The line that tells how far something long has come."""

from __future__ import annotations

import os

import pytest

from klasy import progress


@pytest.fixture
def clock(monkeypatch):
    """The time of day, to be moved on by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    """Standard error is one."""
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 2)


def test_one_line_where_there_is_no_terminal(clock, capfd):
    """What takes long says so once, in a plain line on standard error; what is quick says nothing."""
    show = progress.line("looking for accesses, functions")
    show(0, 900)
    clock[0] += progress.PATIENCE - 0.1
    show(128, 900)
    assert capfd.readouterr() == ("", "")
    clock[0] += 0.2
    show(256, 900)
    show(384, 900)
    clock[0] += 60
    show(512, 900)
    show(900, 900)
    assert capfd.readouterr() == ("", "klasy: looking for accesses, functions: 256 of 900 done so far\n")


def test_nothing_is_said_of_what_is_done(clock, capfd):
    """If the first report after some seconds is that all is done, there is nothing to tell."""
    show = progress.line("looking")
    show(0, 5)
    clock[0] += 2 * progress.PATIENCE
    show(5, 5)
    assert capfd.readouterr() == ("", "")


def test_a_line_on_a_terminal(clock, capfd, terminal):
    """It is written over as work goes on, from the beginning, and goes away when all is done."""
    show = progress.line("looking")
    show(0, 5)
    clock[0] += 2 * progress.PATIENCE
    show(3, 5)
    show(5, 5)
    assert capfd.readouterr() == ("", "\r\x1b[Klooking: 0 of 5\r\x1b[Klooking: 3 of 5\r\x1b[K")
