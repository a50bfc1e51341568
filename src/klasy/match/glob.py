"""Wildcards in names: ``*`` and ``%`` match any run of characters."""

from __future__ import annotations


def is_glob(pattern: str) -> bool:
    """Whether a name holds a wildcard."""
    return "*" in pattern or "%" in pattern


def star(pattern: str) -> str:
    """The pattern with ``*`` as its only wildcard, runs of it shortened to one."""
    pattern = pattern.replace("%", "*")
    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Whether a name matches a pattern as a whole."""
    if not is_glob(pattern):
        return pattern == name
    first, *middle, last = star(pattern).split("*")
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
