"""What the guest's host side does by itself: find the end of an output, and word a command for the guest's shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from klasy.lab.guest import Guest, _script, _Stream
from klasy.lab.host import LabError
from klasy.lab.kernels import DEFAULT

MARK = b"aabaab"
# Few letters, so that parts of the mark turn up everywhere.
pieces = st.lists(st.text("abc", max_size=7).map(str.encode), max_size=12)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(pieces, st.binary(max_size=5))
@example([b"aabaa", b"baab"], b"")
def test_output_up_to_the_mark(given_pieces: list[bytes], behind: bytes) -> None:
    """However the bytes are cut, all before the first mark arrive, in order, and none of the mark or behind it."""
    everything = b"".join(given_pieces) + MARK + behind
    received = bytearray()
    stream = _Stream(MARK, received.extend)
    for piece in [*given_pieces, MARK, behind]:
        stream.feed(piece)
    assert stream.ended
    assert bytes(received) == everything[: everything.find(MARK)]


@given(st.text("xyz", min_size=1, max_size=50))
def test_output_is_not_held_back(text: str) -> None:
    """What cannot be the beginning of the mark is handed on at once: a line that is written is seen."""
    received = bytearray()
    stream = _Stream(MARK, received.extend)
    stream.feed(text.encode())
    assert received == text.encode()
    assert not stream.ended


@settings(max_examples=25, deadline=None)  # each starts two shells
@given(st.lists(words, min_size=1, max_size=4), words)
def test_words_survive_the_shell(arguments: list[str], value: str) -> None:
    """Any words and any value of a variable reach the command unchanged."""
    program = ["/usr/bin/env", "-i", "/usr/bin/printf", "%s\\0", *arguments]
    script = _script(program, "/", {"VALUE": value})
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in arguments)
    script = _script('printf %s "$VALUE"', "/", {"VALUE": value})
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout == value.encode()


def test_script_starts_in_the_directory(tmp_path: Path) -> None:
    """The shell is in the directory before the command runs."""
    odd = tmp_path / "a 'b' $c"
    odd.mkdir()
    done = subprocess.run(["sh", "-c", _script(["pwd"], str(odd), {})], capture_output=True, text=True, check=True)
    assert done.stdout == f"{odd}\n"


def test_a_guest_that_is_not_running() -> None:
    """Commands need a guest that was entered."""
    with pytest.raises(LabError, match="not running"):
        Guest(DEFAULT).run(["true"])
