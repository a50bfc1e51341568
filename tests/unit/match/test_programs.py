"""Functions of programs: which of a name are woven."""

from __future__ import annotations

import pytest
from support.fakekernel import FakeKernel
from support.matching import codes, messages

from klasy.programs.files import ProgramFile, Symbol

COPY, PICK, FAST = (
    Symbol("copy", 0x1000, 0x1000, 16, False),
    Symbol("copy", 0x2000, 0x2000, 16, True),
    Symbol("copy_fast", 0x3000, 0x3000, 16, False),
)


@pytest.mark.parametrize(
    ("symbols", "name", "said"),
    [
        ([PICK, FAST], "copy", ["chosen-at-start"]),
        ([COPY, PICK, FAST], "copy", ["chosen-at-start"]),  # as the C library's memcpy: the first is hardly ever called
        ([COPY, FAST], "copy", []),
        ([COPY, PICK, FAST], "copy*", []),
    ],
)
def test_chosen_at_start(monkeypatch: pytest.MonkeyPatch, symbols: list[Symbol], name: str, said: list[str]) -> None:
    """What is chosen when a program starts is not woven, which is never kept quiet where it was named."""
    monkeypatch.setattr(ProgramFile, "symbols", lambda _: symbols)
    body = f'before(): user("/bin/sh": execution({name})) {{ log(1); }}'
    assert codes(FakeKernel(), body) == said
    shown = messages(FakeKernel(), body)
    assert ("name the function that is chosen; here, one of copy_fast" in shown) == bool(said)
    assert ("error" in shown) == (COPY not in symbols)
