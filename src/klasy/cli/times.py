"""Times as people write them on a command line."""

from __future__ import annotations

from klasy.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400


def seconds(text: str) -> float:
    """The seconds of a time like ``500ms``, ``10s`` or ``5m``; without a unit they are seconds. Raises UsageError."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise UsageError(f"'{text}' is no time", hint="write it as 500ms, 10s, 5m or 1h") from None
    if not 0 < value < _LONGEST:
        raise UsageError(f"'{text}' is out of range", hint="more than nothing, less than a year")
    return value
