"""Modules come out of the pack exactly when their sources are what was packed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import klasy

SOURCES = Path(klasy.__file__).parent


@pytest.fixture
def copy(tmp_path):
    """A copy of klasy's sources with a pack of their own."""
    target = tmp_path / "klasy"
    target.mkdir()
    for name in ("__init__", "startup", "plain", "source", "errors"):
        shutil.copy(SOURCES / f"{name}.py", target)
    (target / "lang").mkdir()
    (target / "lang" / "__init__.py").write_text("NAME = 'lang'\n")
    (target / "lang" / "inner.py").write_text("from klasy import lang\nVALUE = (lang.NAME, 1)\n")
    assert run(tmp_path, "print(startup.write_pack(), startup.is_current())") == "True True"
    return tmp_path


def run(folder: Path, statement: str) -> str:
    """What a statement prints in a fresh interpreter that imports klasy from a folder."""
    code = f"import sys\nfrom klasy import startup\n{statement}"
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SHOW = (
    "f = startup.install()\nimport klasy.lang.inner as m\n"
    "print(m.VALUE, type(m.__spec__.loader).__name__, m.__file__.endswith('lang/inner.py'), f.stale)"
)


def test_modules_come_from_the_pack(copy):
    """An unchanged module is loaded by the pack's finder, with its file and its package as usual."""
    assert run(copy, SHOW) == "('lang', 1) PackFinder True False"


def test_a_changed_source_counts(copy):
    """A module whose source was edited is imported from the source, and the pack is known to be stale."""
    source = copy / "klasy" / "lang" / "inner.py"
    source.write_text("VALUE = 'edited'\n")
    assert run(copy, SHOW) == "edited SourceFileLoader True True"
    assert run(copy, "print(startup.is_current())") == "False"


def test_a_new_module_counts(copy):
    """A module that is not in the pack is imported from its source."""
    (copy / "klasy" / "fresh.py").write_text("VALUE = 3\n")
    assert run(copy, "f = startup.install()\nimport klasy.fresh as m\nprint(m.VALUE, f.stale)") == "3 True"


@pytest.mark.parametrize("content", [b"", b"klasypk1", b"klasypk1\xe3", b"something else", b"klasypk1" + bytes(40)])
def test_a_damaged_pack_is_as_good_as_none(copy, content):
    """Whatever lies where the pack should be, imports work."""
    (pack,) = (copy / "klasy" / "__pycache__").glob("*.pack")
    pack.write_bytes(content)
    assert run(copy, SHOW) == "('lang', 1) SourceFileLoader True True"


def test_tracebacks_show_the_source(copy):
    """A traceback through a packed module shows its lines."""
    statement = (
        "startup.install()\nimport klasy.errors, traceback\n"
        "try:\n    klasy.errors.KernelRefused('x', 'no number')\nexcept Exception:\n"
        "    print(traceback.format_exc().count('os.strerror(errno)'))"
    )
    assert int(run(copy, statement)) >= 1
