"""What the commands print, to the letter: messages, tables and exit statuses, over a kernel of the tests' own.

A case is one command line; ESC in it is that character. ``[file]`` and ``[second]`` become test.asp and second.asp in
an empty folder, where there are also a few files that are no aspects. ``[machine]`` names one of machine.py, which
does not allow what is asked. What went to standard error comes first, marked with ``!``; the exit status is last,
unless it is 0.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from golden.cli.machine import FAULTS, Machine
from golden.cli.woven import ASPECTS, FakeWoven, foreign
from golden.harness import Case, cases, check
from golden.match.kernel import KERNEL

from klasy.cli.main import main
from klasy.match.options import Features
from klasy.weaver.woven import not_woven


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, but for files that cannot be aspects."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "binary.asp").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "latin.asp").write_bytes("aspect größe {}".encode("latin-1"))
    (tmp_path / "large.asp").write_bytes(b"// \n" * 300_000)
    (tmp_path / "empty.asp").touch()
    (tmp_path / "\x1b[31mred.asp").write_text("aspect red {")
    return tmp_path


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with the golden kernel and some woven aspects; its width and colours are those of no terminal."""

    def open_fake(name: str) -> FakeWoven:
        if name not in ASPECTS:
            raise not_woven([name], list(ASPECTS))
        return ASPECTS[name]

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("klasy.bpf.maps.cpu_numbers", lambda: 4)
    monkeypatch.setattr("klasy.kernel.live.running_kernel", lambda: KERNEL)
    monkeypatch.setattr("klasy.weaver.features.RunningFeatures", Features)
    monkeypatch.setattr("klasy.weaver.woven.read_registry", lambda: list(ASPECTS.values()))
    monkeypatch.setattr("klasy.weaver.woven.open_woven", open_fake)
    monkeypatch.setattr("klasy.cli.status.read_registry", lambda: list(ASPECTS.values()))
    monkeypatch.setattr("klasy.cli.status.foreign", foreign)
    monkeypatch.setattr("klasy.cli.filters.in_first_namespace", lambda *_: None)
    monkeypatch.setattr("klasy.cli.filters._cgroup_mounts", lambda _: [(0, "/", f"{tmp_path}/cgroup")])
    monkeypatch.setattr("klasy.cli.status.time.monotonic_ns", lambda: 10_000_000_000_000)


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line; its output, standard error first."""
    program, *argv = shlex.split(line.replace("ESC", "\x1b"))
    assert program == "klasy"
    try:
        status: object = main(argv)
    except SystemExit as end:  # argparse's way
        status = end.code
    captured = capsys.readouterr()
    lines = [f"! {text}".rstrip() for text in captured.err.splitlines()] + captured.out.splitlines()
    return "\n".join(lines + [f"(exit status {status})"] * (status != 0))


@pytest.mark.parametrize("case", cases("cli"), ids=str)
@pytest.mark.usefixtures("folder")
def test_commands(
    case: Case,
    capsys: pytest.CaptureFixture[str],
    update_golden: bool,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command prints this and ends with this status."""
    for section, name in (("file", "test.asp"), ("second", "second.asp")):
        if section in case.sections:
            Path(name).write_text(case.sections[section])
    if "machine" in case.sections:
        machine = Machine(tmp_path_factory.mktemp("machine"), monkeypatch)
        FAULTS[case.sections["machine"]](machine)
        with machine.files:
            said = machine.shown(run(case.input, capsys))
    else:
        said = run(case.input, capsys)
    check(case, said, update_golden)
