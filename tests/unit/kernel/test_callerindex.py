"""The kept calls of functions."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klasy.kernel import caches, callerindex
from klasy.kernel.callerindex import CallerIndex


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))


A, B, C = 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8100_1000, 0xFFFF_FFFF_C000_0040
CALLS = [(A + 0x10, 5, True, B), (A + 0x20, 6, False, B), (C + 0x30, 2, False, A), (C + 0x40, 5, False, B)]


def test_kept_for_the_next():
    """What was added is there for who opens the index under the same key, for each function and for all, by address."""
    CallerIndex("name", b"key").add([A, B], CALLS)
    later = CallerIndex("name", b"key")
    assert A in later
    assert B in later
    assert C not in later
    assert later.calls([B]) == [call for call in CALLS if call[3] == B]
    assert later.calls([B, A]) == later.calls([A, B]) == CALLS
    assert later.calls([]) == []


def test_nobody_calls_it():
    """That a function has no calls is kept too."""
    CallerIndex("name", b"key").add([C], [])
    assert CallerIndex("name", b"key").calls([C]) == []


def test_more_is_added():
    """What is added later stands beside what was there."""
    CallerIndex("name", b"key").add([B], [call for call in CALLS if call[3] == B])
    second = CallerIndex("name", b"key")
    second.add([A, C], [call for call in CALLS if call[3] == A])
    for index in (second, CallerIndex("name", b"key")):
        assert index.calls([A, B, C]) == CALLS


def test_another_key():
    """Text that may have changed: nothing is taken, and what is stored then counts under the new key alone."""
    CallerIndex("name", b"key").add([A, B], CALLS)
    changed = CallerIndex("name", b"other")
    assert A not in changed
    changed.add([C], [])
    assert C in CallerIndex("name", b"other")
    assert C not in CallerIndex("name", b"key")


@pytest.mark.parametrize("part", ["key", "targets", "ends", "addresses", "codes"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damage(part, damage):
    """A file whose parts do not go together holds nothing."""
    CallerIndex("name", b"key").add([A, B], CALLS)
    parts = {name: bytes(data) for name, data in caches.unpack(caches.load("name", callerindex._VERSION)).items()}
    if damage == "cut":
        parts[part] = parts[part][:-1]
    else:
        del parts[part]
    caches.store("name", callerindex._VERSION, caches.pack(parts))
    index = CallerIndex("name", b"key")
    assert A not in index
    assert B not in index


def test_too_much_is_not_kept(monkeypatch):
    """More calls than are worth a file serve the command that found them and no other."""
    monkeypatch.setattr(callerindex, "_MOST", 3)
    index = CallerIndex("name", b"key")
    index.add([A, B], CALLS)
    assert index.calls([A, B]) == CALLS
    assert A not in CallerIndex("name", b"key")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 15), st.booleans(), st.sampled_from([A, B, C])),
        unique_by=lambda call: call[0],
    ),
    st.sampled_from([[A, B, C], [C, B, A], [B], [A, C]]),
)
def test_any_calls(calls, asked):
    """Whatever is kept comes back, by address."""
    calls.sort()
    CallerIndex("any", bytes(str(calls), "ascii")).add([A, B, C], calls)
    later = CallerIndex("any", bytes(str(calls), "ascii"))
    assert later.calls(asked) == [call for call in calls if call[3] in asked]
