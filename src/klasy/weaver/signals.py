"""Signals and what must not be torn: in a transaction an ending signal raises, at its heart it waits."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, contextmanager, suppress

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from types import FrameType
else:
    import _signal as signal  # all of it but the enumerations, which take ten times as long to import

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP, where they would end the process outright, raise SystemExit: so we can undo."""
    before = {}

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # only the main thread can: in others the caller sees to it
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Meanwhile the signals that end a process wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
