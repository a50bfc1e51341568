"""Ctrl-C, SIGTERM and SIGHUP for commands that go on until they are told to end: at a place where nothing is torn."""

from __future__ import annotations

import time

from klasy.plain import TYPE_CHECKING, contextmanager, suppress

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType, TracebackType
    from typing import Self
else:
    import _signal as signal  # all of it but the enumerations, which take ten times as long to import

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While it is entered, a signal is remembered, and ends what ``allowed()`` encloses by KeyboardInterrupt.

    Who is in a hurry sends a second one: that ends what ``hurried()`` encloses. Elsewhere no signal raises, however
    many come: what was begun there is not left half done. Both enclose no more than one call that may take long, as
    parts of Python written in C go on after a handler has raised, and run the next signal's handler with the exception
    set: os.stat multiplies the times of a file, and CPython 3.11 looks for signals in each multiplication.
    """

    _entered: Interrupts | None = None

    def __init__(self) -> None:
        self._signal = 0
        self._second = False
        self._allowed = False
        self._hurried = False
        self._woken = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                self._before[number] = signal.signal(number, self._handle)
        Interrupts._entered = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        Interrupts._entered = None
        while self._before:
            signal.signal(*self._before.popitem())

    @property
    def requested(self) -> int:
        """The signal that has come, or 0."""
        return self._signal

    def wake_on_child(self) -> None:
        """From now on the end of a child ends what ``allowed()`` encloses too: who waits there is to look around."""
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._wake)

    def _wake(self, _number: int, _: FrameType | None) -> None:
        self._woken = True
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._second = self._signal != 0
        self._signal = number
        # Each raises once. The next one may come before the `finally` that says it is over has run its first
        # instruction, and would then be allowed in all that is to be done on the way out.
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt(number)
        if self._second and self._hurried:
            self._hurried = False
            raise KeyboardInterrupt(number)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Here a signal may end the work, and one that came before does."""
        self._allowed = True
        try:
            self.check()
            if self._woken:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = self._woken = False

    @contextmanager
    def _hurry(self) -> Iterator[None]:
        self._hurried = True
        try:
            if self._second:
                raise KeyboardInterrupt(self._signal)
            yield
        finally:
            self._hurried = False

    def check(self) -> None:
        """End the work if a signal has come."""
        if self._signal:
            raise KeyboardInterrupt(self._signal)

    def sleep(self, seconds: float | None, good: Callable[[], bool], look_around: float) -> None:
        """Sleep until the time is over, a signal comes, or what ``look_around`` asks now and then is not good."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self._signal and good():
            left = look_around if end is None else min(look_around, end - time.monotonic())
            if left <= 0:
                return
            with suppress(KeyboardInterrupt), self.allowed():
                time.sleep(left)


def hurried() -> AbstractContextManager[None]:
    """Here a second signal ends the work, and one that came before does. No change where no Interrupts is entered."""
    entered = Interrupts._entered
    return entered._hurry() if entered is not None else suppress()
