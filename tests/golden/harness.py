"""Golden cases: small texts with what is expected of them, in ``*.test`` files.

A file holds cases, each in sections that begin with a line in brackets; text before the first case is a comment::

    [case missing_semicolon]
    aspect a { .. }
    [out]
    a.asp:1:12: error: ..

The text below ``[case NAME]`` is the input; other sections (``[options]``, ``[kernel]``) are a test's own; ``[out]`` is
last. A test calls ``check`` with what is now, which is compared, or with ``--update-golden`` written into the file, for
a person to read in the diff. Blank lines at the ends of a section do not count.

    @pytest.mark.parametrize("case", cases("parse"), ids=str)
    def test_parse(case, update_golden):
        check(case, errors_of(case.input), update_golden)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_HEADING = re.compile(r"\[(case (?P<case>[\w.-]+)|(?P<section>[a-z]+))\]\s*\Z")


@dataclass
class Case:
    """One case of a file."""

    path: Path
    name: str
    sections: dict[str, str] = field(default_factory=dict)

    @property
    def input(self) -> str:
        """What stands below the heading of the case."""
        return self.sections["case"]

    @property
    def expected(self) -> str:
        """What stands below ``[out]``; empty in a case that is new."""
        return self.sections.get("out", "")

    def __str__(self) -> str:
        return f"{self.path.stem}.{self.name}"


def read(path: Path) -> tuple[str, list[Case]]:
    """The comment at the top of a file, and its cases."""
    head: list[str] = []
    found: list[Case] = []
    lines = head
    collected: list[tuple[Case, str, list[str]]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _HEADING.match(line)
        if not match:
            lines.append(line)
            continue
        lines = []
        if match["case"]:
            if match["case"] in (case.name for case in found):
                raise ValueError(f"{path}: two cases named {match['case']}")
            found.append(Case(path, match["case"]))
        elif not found:
            raise ValueError(f"{path}: [{match['section']}] stands before any case")
        collected.append((found[-1], match["section"] or "case", lines))
    for case, section, text in collected:
        case.sections[section] = "\n".join(text).strip("\n")
    return "\n".join(head).strip("\n"), found


def write(path: Path, head: str, found: list[Case]) -> None:
    """Write a file anew."""
    parts = [head] if head else []
    for case in found:
        text = f"[case {case.name}]\n{case.input}\n"
        for name, body in case.sections.items():
            if name not in ("case", "out"):
                text += f"[{name}]\n{body}\n"
        parts.append(f"{text}[out]\n{case.expected}")
    path.write_text("\n\n".join(parts).rstrip("\n") + "\n", encoding="utf-8")


def cases(folder: str, pattern: str = "*.test") -> list[Case]:
    """All cases in a folder of tests/golden."""
    paths = sorted((Path(__file__).parent / folder).glob(pattern))
    return [case for path in paths for case in read(path)[1]]


def check(case: Case, actual: str, update: bool) -> None:
    """Compare what is with what is expected; where ``update``, make it the expectation instead."""
    actual = "\n".join(line.rstrip() for line in actual.strip("\n").splitlines())
    if actual == case.expected:
        return
    if update:
        head, found = read(case.path)
        for other in found:
            if other.name == case.name:
                other.sections["out"] = actual
        write(case.path, head, found)
        return
    assert actual == case.expected, f"{case} differs; pytest --update-golden rewrites it"
