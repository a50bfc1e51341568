"""Signals end a command where nothing is torn."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time

import pytest

from klasy.cli.interrupts import Interrupts, hurried

NEVER = 60.0


@pytest.fixture(autouse=True)
def heard():
    """Who runs the tests may have had them ignore signals (nohup, a shell's &), which klasy keeps to."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered(number):
    """Outside of allowed() the work goes on; the signal ends it at the next place where that is allowed."""
    with Interrupts() as interrupts:
        assert not interrupts.requested
        send(number)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt) as caught, interrupts.allowed():
            pytest.fail("it was to end here")
        assert caught.value.args == (number,)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_a_signal_ends_what_is_allowed():
    """Within allowed() it raises at once."""
    with Interrupts() as interrupts:
        threading.Timer(0.05, send, [signal.SIGTERM]).start()
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            time.sleep(NEVER)


def test_a_second_signal_is_in_a_hurry():
    """Whoever sends a second one does not want to wait; where nothing may be left half done many make no difference."""
    with Interrupts() as interrupts:
        with hurried():
            send(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
        for _ in range(3):
            send(signal.SIGINT)
        assert interrupts.requested == signal.SIGINT


def test_hurry_before():
    """Two that came before it end it, too; without Interrupts it changes nothing."""
    with Interrupts() as interrupts:
        send(signal.SIGINT)
        with hurried():
            assert interrupts.requested == signal.SIGINT
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught, hurried():
            pytest.fail("it was to end here")
        assert caught.value.args == (signal.SIGTERM,)
    with hurried():
        pass


def test_bursts():
    """Different signals at once, at work and in a write that blocks: they end the write only, as KeyboardInterrupt."""
    ended = 0
    receiver, sender = os.pipe()
    fcntl.fcntl(sender, fcntl.F_SETPIPE_SZ, 4096)
    os.write(sender, bytes(4096))
    for _ in range(40):
        with Interrupts() as interrupts:
            child = os.fork()
            if not child:
                for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM) * 20:
                    os.kill(os.getppid(), number)
                while True:  # all of them may have come between Python's last look for signals and the write
                    time.sleep(0.05)
                    os.kill(os.getppid(), signal.SIGTERM)
            while not interrupts.requested:
                assert os.stat("/")
            for _ in range(50):
                assert os.stat("/")
            try:
                with hurried():
                    os.write(sender, b"x")
            except KeyboardInterrupt:
                ended += 1
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    os.close(receiver)
    os.close(sender)
    assert ended == 40


def test_the_way_out_has_begun():
    """What a signal ends it ends once: one that comes at the very first step of the way out does not raise there."""
    with Interrupts() as interrupts:
        for enclosure in (hurried, interrupts.allowed):
            with enclosure():
                try:
                    send(signal.SIGINT)
                    send(signal.SIGINT)
                except KeyboardInterrupt:
                    for number in (signal.SIGINT, signal.SIGTERM):
                        send(number)
                else:
                    pytest.fail("it was to end here")
            interrupts._signal, interrupts._second = 0, False


def test_handlers_are_put_back():
    """What was there before is there again, and what was ignored stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with Interrupts() as interrupts:
            assert signal.getsignal(signal.SIGTERM) is not mine
            send(signal.SIGHUP)
            assert not interrupts.requested
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sleep():
    """Sleeping ends by time, by a signal, and when there is nothing left to sleep for."""
    with Interrupts() as interrupts:
        interrupts.sleep(0.01, lambda: True, 1.0)
        interrupts.sleep(NEVER, lambda: False, 1.0)
        assert not interrupts.requested
        threading.Timer(0.05, send, [signal.SIGTERM]).start()
        interrupts.sleep(NEVER, lambda: True, NEVER)
        assert interrupts.requested
        interrupts.sleep(NEVER, lambda: True, NEVER)
