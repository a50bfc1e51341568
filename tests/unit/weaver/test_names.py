"""Names of groups and events: whose they are can be told, and they fit the kernel's limits."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from klasy.weaver.pinfs import Token, start_time
from klasy.weaver.sweep import orphans
from klasy.weaver.tracefs import NAME_MAX, event_name, group_name, group_token

tokens = st.builds(
    Token,
    fs=st.integers(0, (1 << 32) - 1),
    pid=st.integers(1, 1 << 22),
    start=st.integers(0, 1 << 44),
    number=st.integers(0, 999),
)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,199}", fullmatch=True)


@given(names, tokens)
def test_the_group_tells_its_token_and_fits(aspect, token):
    """Whatever the aspect is called, its group names its token, is legal, and short enough for the kernel."""
    group = group_name(aspect, token)
    assert group_token(group) == token
    assert len(group) <= NAME_MAX
    assert group.isidentifier()
    assert group.isascii()


@given(tokens, st.integers(0, 99999))
def test_event_names_fit_and_are_the_tokens_own(token, number):
    """An event's name fits, is legal, and begins with what marks all events of its weave and no others'."""
    event = event_name(token, number)
    assert len(event) <= NAME_MAX
    assert event.isidentifier()
    assert event.startswith(f"k{token}_")


@given(tokens, tokens)
def test_no_token_begins_like_another(one, other):
    """Rows of kprobe_profile are told by a prefix: that of one weave is never that of another's event."""
    if one != other:
        assert not event_name(other, 7).startswith(f"k{one}_")


@given(st.text(max_size=40) | names.map(lambda n: f"klasy_{n}"))
def test_foreign_groups_are_nobodys(group):
    """A name that klasy would not have given is no token's; what is parsed is what was printed."""
    token = group_token(group)
    assert token is None or group.endswith(f"_{token}")


def test_groups_of_others_and_of_before():
    """Names that look like klasy's but are not: no token in them, or not as it is written."""
    for group in ("kprobes", "klasy", "klasy_", "klasy_a", "klasy_a_1_2", "klasy_a_1c_04711_2b_1", "my_1c_4711_2b_1"):
        assert group_token(group) is None
    assert group_token("klasy_a_1c_4711_2b_1") == Token(0x1C, 4711, 0x2B, 1)


def test_orphans_are_unclaimed_and_of_this_file_system():
    """A group is cleared only if no directory claims it and it was made for this very bpffs."""
    mine, claimed, container = (group_name("a", Token(fs, 1, 2, n)) for fs, n in ((7, 1), (7, 2), (8, 3)))
    assert orphans([mine, claimed, container, "klasy_foreign", "kprobes"], {claimed}, 7) == [mine]


def test_start_time_is_stable_and_the_processes_own():
    """The start time tells two processes of one pid apart: a child's is not its parent's (or not earlier)."""
    assert start_time() == start_time()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert start_time() > 0
