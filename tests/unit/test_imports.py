"""What the way to a weave must not import: the names of modules, where times would only tell of the machine.

A start in an emulated guest takes 0.2 s, and each of these some hundredths to tenths more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import klasy

SOURCES = Path(klasy.__file__).parent
SNAPSHOT = Path(__file__).parents[1] / "data" / "kernels" / "6.1.snapshot"

# Of the standard library; where klasy needs what they do, klasy.plain or another module has a lighter way to it.
DEAR = {
    *("argparse", "ast", "collections", "contextlib", "copy", "ctypes", "dataclasses", "difflib", "enum", "functools"),
    *("heapq", "importlib", "inspect", "json", "locale", "logging", "operator", "pathlib", "random", "re", "shutil"),
    *("signal", "site", "string", "subprocess", "tempfile", "textwrap", "threading", "traceback", "typing", "types"),
    *("unittest", "warnings", "weakref", "__future__"),
}
# Of klasy; only errors, other commands and other ways of weaving need them.
RARE = {
    "cli.usage",
    "cli.search",
    "lang.recover",
    "lang.syntax_help",
    "lang.printer",
    "match.lint",
    "match.signature_help",
}
RARE |= {
    "bpf.interp",
    "bpf.text",
    "bpf.verifier",
    "bpf.features",
    "kernel.absent",
    "lab",
    "lang.generate",
    "pack",
    "flow",
}

BUILD = """
import sys
sys.argv = ["klasy", "weave", "-f", "--for", "1s", "{aspect}"]
from klasy import startup
finder = startup.install()
imported = []
run_module = finder.exec_module
finder.exec_module = lambda module: (imported.append(module.__name__), run_module(module))
from klasy.cli import main, weave
arguments = main._arguments("weave", weave, sys.argv[2:])
from klasy.cli.sources import read_sources
sources = read_sources(arguments.files)
import klasy.weaver.kept
import klasy.weaver.build
import klasy.weaver.session, klasy.cli.interrupts, klasy.cli.reading
before = set(sys.modules)
from klasy.kernel.snapshot import SnapshotKernel
kernel = SnapshotKernel.load("{snapshot}")
kernel.symbols, kernel.btf.blob.layout
for name in set(sys.modules) - before:  # what it needs does not count, unless it is needed again
    del sys.modules[name]
from klasy.match.options import Features, PlanOptions
artifact, = klasy.weaver.build.build_all(sources, kernel, PlanOptions(Features()), limits=weave._limits(None, None))
assert artifact.programs
print(*sorted(sys.modules), sep="\\n")
print("stale" if finder.stale else "fresh", *imported)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> tuple[set[str], list[str]]:
    """The modules that a weave imports, but for what the running kernel's system calls bring; who needed importlib."""
    folder = tmp_path_factory.mktemp("imports")
    shutil.copytree(SOURCES, folder / "klasy", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    aspect = folder / "first_hit.asp"
    aspect.write_text(
        'aspect first_hit { pointcut execution("ssize_t vfs_read(struct file *file, ..)");'
        ' before(struct file *file) { log("flags %x", file->f_flags); } }'
    )
    code = f"import sys; sys.path.append({str(folder)!r}); "
    write = [sys.executable, "-ISc", code + "from klasy.pack import write_pack; assert write_pack()"]
    subprocess.run(write, check=True)
    text = code + "\n" + BUILD.format(aspect=aspect, snapshot=SNAPSHOT)
    environment = {**os.environ, "KLASY_CACHE": str(folder)}
    command = [sys.executable, "-ISc", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    *modules, last = done.stdout.splitlines()
    state, *by_importlib = last.split()
    assert state == "fresh"
    return set(modules), by_importlib


def test_dear_modules_are_not_imported(imported):
    """None of the standard library's that klasy goes around."""
    modules, _ = imported
    assert not modules & DEAR


def test_rare_modules_are_not_imported(imported):
    """None of klasy's that a weave without errors does not need."""
    modules, _ = imported
    assert not {name.removeprefix("klasy.") for name in modules} & RARE


def test_what_a_weave_needs_lies_in_bundles(imported):
    """klasy.pack.BUNDLES names all that is needed: nothing is left to importlib but what stands for a bundle."""
    _, by_importlib = imported
    # Their packages, the command's own module, and those that stand for the bundles.
    expected = {"klasy.cli", "klasy.cli.main", "klasy.cli.weave", "klasy.weaver", "klasy.weaver.build"}
    assert set(by_importlib) <= expected | {"klasy.weaver.kept", "klasy.kernel.snapshot"}
