"""docs/language.md is true: its programs are read, and its tables have all there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klasy.errors import InputError
from klasy.lang import load
from klasy.lang.vocabulary import CONTEXT_NAMES, DESIGNATORS, FUNCTIONS, JOINPOINT_MEMBERS
from klasy.source import SourceFile

TEXT = (Path(__file__).parents[3] / "docs" / "language.md").read_text(encoding="utf-8")


def _errors(text: str) -> set[str]:
    try:
        load(SourceFile("language.md", text))
    except InputError as error:
        return {d.code for d in error.diagnostics}
    return set()


@pytest.mark.parametrize("program", re.findall(r"```asp\n(.*?)```", TEXT, re.DOTALL))
def test_programs(program: str) -> None:
    """Every program of the page is right."""
    assert not _errors(program)


def _rows(heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    table = TEXT.split(heading, 1)[1].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    return {name for line in table.splitlines() for name in re.findall(r"`(\w+)", line.strip("|").split("|")[0])}


def test_functions() -> None:
    """The table of functions has all of them."""
    assert _rows("### Functions") == FUNCTIONS.keys()


def test_designators() -> None:
    """The table of designators has all of them, and each is taken."""
    assert _rows("## Pointcuts\n") == set(DESIGNATORS)
    forms = {
        "call": "call(f)", "execution": "execution(f)", "within": "within(f)", "withinmodule": "withinmodule(f)",
        "if": "if(pid)", "get": "get(x)", "set": "set(x)", "access": "access(x)", "syscall": "syscall(f)",
        "event": "event(a:b)", "at": "at(f+1)", "withinfile": "withinfile(f)", "cflow": "cflow(call(f))",
        "cflowbelow": "cflowbelow(call(f))", "args": "args(..)", "target": "get(struct s.m) && target(x)",
        "user": 'user("f": execution(g))',
    }  # fmt: skip
    assert forms.keys() == set(DESIGNATORS)
    for form in forms.values():
        assert not _errors(f"aspect a {{ before(): {form} {{ log(1); }} }}")


@pytest.mark.parametrize(
    "statement", ["for (;;) return;", "while (pid) return;", "for (;;) break;", "for (;;) continue;", "return;"]
)
def test_statements(statement: str) -> None:
    """The statements that the page names are taken."""
    assert not _errors(f"aspect a {{ before(): call(f) {{ {statement} }} }}")


def test_names() -> None:
    """The page has every context name and every member of joinpoint."""
    rows = _rows("### Names")
    assert set(CONTEXT_NAMES) <= rows
    for member in JOINPOINT_MEMBERS:
        assert f"`.{member}`" in TEXT or f"`joinpoint.{member}`" in TEXT


def test_the_error_shown_is_the_one_given() -> None:
    """The example of an error is what is really said."""
    from klasy.diag import render

    text = """aspect log_dequeue {
    pointcut call("struct sk_buff *skb_dequeue(struct sk_buff_head *list)");
    before(struct sk_buff_head *lst) { log(lst->qlen); }
}
"""
    with pytest.raises(InputError) as caught:
        load(SourceFile("test.asp", text))
    shown = "\n".join("    " + line for d in caught.value.diagnostics for line in render(d).splitlines())
    assert shown in TEXT
