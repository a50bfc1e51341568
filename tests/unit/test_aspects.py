"""The ready aspects as a library: each explains itself, is found by its name, and is in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klasy.cli.aspects import about
from klasy.cli.main import main
from klasy.errors import InputError
from klasy.lang import load
from klasy.resources import shipped_aspects, shipped_path
from klasy.source import SourceFile

ROOT = Path(__file__).parents[2]
ASPECTS = shipped_aspects()


@pytest.mark.parametrize("name", ASPECTS)
def test_each_explains_itself(name: str):
    """A sentence on what it does, the command, and an example of what it shows stand at its head."""
    comment = re.match(r"(//.*\n)+", ASPECTS[name])
    assert comment is not None
    head = comment.group()
    assert about(ASPECTS[name]).endswith(".")
    assert re.search(rf"(?m)^//     klasy weave .*\b{name}\b", head)
    assert len(re.findall(r"(?m)^//     (?!klasy)", head)) >= 1, "no example of its output"


@pytest.mark.parametrize("name", ASPECTS)
def test_each_file_is_named_after_its_aspect(name: str):
    """The aspect that has the file's name is in it, and the text has no error of its own."""
    assert name in [aspect.name for aspect in load(SourceFile(f"{name}.asp", ASPECTS[name]))]


def test_the_documentation_lists_them_all():
    """docs/aspects.md has a row for each and for nothing else."""
    rows = re.findall(r"(?m)^\| \[`(\w+)`\]", (ROOT / "docs" / "aspects.md").read_text(encoding="utf-8"))
    assert rows == list(ASPECTS)


def test_only_names_lead_to_files():
    """What is no name of an aspect, a path for example, finds nothing."""
    found = shipped_path("tcp_life")
    assert found is not None
    assert Path(found).read_text(encoding="utf-8") == ASPECTS["tcp_life"]
    for name in ("", "nosuch", "../aspects/tcp_life", "tcp_life.asp", "/etc/passwd"):
        assert shipped_path(name) is None


def test_the_command(capsys: pytest.CaptureFixture[str]):
    """It lists all with what they do, and prints one as it is."""
    assert main(["aspects"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ASPECTS)
    assert main(["aspects", "tcp_life"]) == 0
    assert capsys.readouterr().out == ASPECTS["tcp_life"]


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]):
    """The nearest is named."""
    assert main(["aspects", "tcp_lif"]) == InputError.exit_status
    assert "did you mean 'tcp_life'?" in capsys.readouterr().err
