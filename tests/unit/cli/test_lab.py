"""``klasy lab`` and signals. What it does with a guest is tested with guests, in tests/vm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from klasy.cli.main import main

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])

# The command as it is, but for the guest, whose command ends with 7, and for the pack, whose modules are said to have
# changed; a signal comes at {moment}.
SCRIPT = """
import os, sys
from klasy import __main__, pack, startup
from klasy.lab import guest

def signalled_at(moment):
    if moment == "{moment}":
        os.kill(os.getpid(), {number})

class Guest:
    def __init__(self, *_, **__): pass
    def __enter__(self): return self
    def __exit__(self, *_): signalled_at("guest's end")
    def stream(self, *_, **__):
        signalled_at("command")
        return 7

def install(install=startup.install):
    finder = install()
    finder.stale = True
    return finder

def write_pack():
    signalled_at("writing of the pack")
    os.write(1, b"written")

guest.Guest, startup.install, pack.write_pack = Guest, install, write_pack
sys.argv = ["klasy", "lab", "--", "true"]
__main__.entry_point()
"""


def lab(moment: str, number: int) -> subprocess.CompletedProcess[str]:
    """A run of ``klasy lab`` that a signal reaches at a moment."""
    environment = {k: v for k, v in os.environ.items() if k not in ("KLASY_LAB", "PYTHONDONTWRITEBYTECODE")}
    script = SCRIPT.format(moment=moment, number=number)
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@SIGNALS
@pytest.mark.parametrize("moment", ["command", "guest's end"])
def test_a_signal_ends_the_lab(moment, number):
    """By it ends what a guest does, and klasy quietly."""
    done = lab(moment, number)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "written", "")


@SIGNALS
def test_a_signal_behind_the_command_changes_nothing(number):
    """The command has ended, and what is kept for the next one is not left half written."""
    done = lab("writing of the pack", number)
    assert (done.returncode, done.stdout, done.stderr) == (7, "written", "")


@pytest.mark.parametrize(("time", "wrong"), [("-1", "out of range"), ("0s", "out of range"), ("soon", "no time")])
def test_a_timeout_is_a_time(time, wrong, capsys):
    """What is none is told before a guest is begun."""
    assert main(["lab", f"--timeout={time}", "--", "true"]) == 2
    assert capsys.readouterr().err.startswith(f"klasy: '{time}' is {wrong}\n  hint: ")
