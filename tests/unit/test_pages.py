"""The pages hold together: what they link to, the files they name and the options they show are there."""

from __future__ import annotations

import argparse
import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from klasy.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
FOLDERS = ("src", "docs", "tests", "aspects", "examples", "benchmarks", "grammar")


def _without_programs(text: str) -> str:
    """A page without its blocks of code, in which a # begins no heading."""
    return re.sub(r"(?ms)^```.*?^```$|^ {4}.*?$", "", text)


def _anchors(text: str) -> set[str]:
    """What a link can point to in a page: its headings, as forges spell them."""
    headings = re.findall(r"(?m)^#+ (.*)$", _without_programs(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """A link leads to a file that is there, and to a heading of that page."""
    links = re.findall(r"\]\(([^)\s]+)\)", _without_programs(TEXTS[page]))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files(page: Path) -> None:
    """A path of the repository that a page names is there."""
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./*-]*\w)", TEXTS[page])
    for name in named:
        assert list(ROOT.glob(name)), name


def _options(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    import_module(f"klasy.cli.{command}").configure(parser)
    return {option for action in parser._actions for option in action.option_strings} | {"--debug"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: Path) -> None:
    """Each ``klasy COMMAND`` in a page's code is one, with the options shown."""
    code = re.findall(r"`([^`\n]+)`|^ {4}(.+)$", re.sub(r"(?ms)^```.*?^```$", "", TEXTS[page]), re.M)
    for line in (inline or block for inline, block in code):
        for command, rest in re.findall(r"(?<![\w/.])klasy ([a-z]+)((?: +[^\s;|#&`]+)*)", line):
            assert command in COMMANDS, line
            for word in rest.split():
                if word == "--":
                    break
                if re.fullmatch(r"\[?--?[a-z][a-z0-9-]*\]?", word):
                    assert word.strip("[]") in _options(command), line


def _finding_names() -> set[str]:
    """The names of findings that the matcher gives to what reports them."""
    names = set()
    for source in (ROOT / "src/klasy/match").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if function in (
                "error",
                "warning",
                "fail",
                "_fail",
                "Refusal",
                "Unreached",
                "Mismatch",
                "Misfit",
                "TypeRefError",
            ):
                words = [node.value for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.Constant)]
                names |= {word for word in words if re.fullmatch(r"[a-z]+(-[a-z]+)+", str(word))}
    return names


def test_findings() -> None:
    """docs/joinpoints.md names every finding about pointcuts, and none that there is not."""
    text = TEXTS[ROOT / "docs/joinpoints.md"]
    named = {
        name
        for line in text[text.index("| code |") :].splitlines()
        for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", line)
    }
    found = _finding_names()
    assert len(found) > 60
    assert found <= named
    everything = "".join(path.read_text() for path in (ROOT / "src/klasy").rglob("*.py"))
    assert not [name for name in named if f'"{name}"' not in everything]
