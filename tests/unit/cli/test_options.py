"""What is read without argparse is what argparse would have read."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.cli import main as cli
from klasy.cli.options import Arguments, Options


def declared(command: str) -> Options:
    """The arguments of a command, as the quick reader knows them."""
    options = Options()
    cli._declare(options, import_module(f"klasy.cli.{command}"))
    return options


def by_argparse(command: str, words: list[str]) -> dict[str, object] | None:
    """What argparse makes of a command line; None where it ends the process."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return vars(cli._parser(command, import_module(f"klasy.cli.{command}")).parse_args(words, Arguments()))
        except SystemExit:
            return None


OPTIONS = [
    *("-f", "--follow", "--for", "--for=1s", "--json", "-q", "--buffer", "--buffer=", "--replace", "--debug", "--all"),
    *("--why", "--show-code", "--keep", "--types", "--kernel", "6.1", "-h", "--help", "--json=x", "-fq", "--", "--no"),
]
WORDS = st.one_of(
    st.sampled_from(OPTIONS), st.sampled_from(["a.asp", "b", "-", "", "-1", "10s", "x y", "-x y", "=", "a=b"])
)


@given(st.sampled_from(list(cli.COMMANDS)), st.lists(WORDS, max_size=6))
def test_as_argparse(command, words):
    """Any line that is read at all is read as argparse does."""
    found = declared(command).read(words)
    if found is not None:
        assert vars(found) == by_argparse(command, words)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weave -f a.asp", {"files": ["a.asp"], "follow": True, "time": None}),
        ("weave a.asp b.asp --for 10s --json -q", {"files": ["a.asp", "b.asp"], "time": "10s", "json": True}),
        ("log", {"aspects": [], "follow": False}),
        ("joinpoints a.asp --show-code", {"what": "a.asp", "show_code": True}),
        ("joinpoints", {"what": None}),
        ("search tcp_*", {"patterns": ["tcp_*"]}),
    ],
)
def test_usual_lines_need_no_argparse(line, expected):
    """Right command lines are read here: else nothing would be gained."""
    command, *words = line.split()
    found = declared(command).read(words)
    assert found is not None
    assert vars(found) | expected == vars(found)


def test_argparse_is_not_imported(tmp_path):
    """A command whose line is right runs to its end without it."""
    code = "import sys; from klasy.cli.main import main; main(['check', 'no.asp']); print('argparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
