"""What macros of the headers stand for, as Python's own modules have it."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import socket

import pytest

from klasy.kernel import callwords, macros


@pytest.mark.parametrize(
    ("module", "prefix"),
    [(errno, "E"), (signal, "SIG"), (socket, "AF_"), (socket, "SOCK_"), (socket, "MSG_"), (os, "O_"), (mmap, "PROT_")],
)
def test_numbers_are_the_headers(module: object, prefix: str) -> None:
    """Whatever Python names too has the same number: many of each kind; O_LARGEFILE is 0 in the C library alone."""
    shared = {name: int(number) for name, number in vars(module).items() if macros.number(name) is not None}
    shared = {name: number for name, number in shared.items() if name.startswith(prefix) and name != "O_LARGEFILE"}
    assert len(shared) >= 3
    assert {name: macros.number(name) for name in shared} == shared


def test_a_name_has_one_number() -> None:
    """No two tables give a name different numbers, as the last one would be believed."""
    seen: dict[str, int] = {}
    for words in [*callwords.WORDS.values(), callwords.FAMILY, callwords.RESOLVE, callwords.AT_FDCWD]:
        for name, number in {**words.choices, **words.flags}.items():
            assert seen.setdefault(name, number) == number
    assert macros.number("ERESTARTSYS") == 512
    assert macros.number("NR_CPUS") is None
