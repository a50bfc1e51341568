"""Fetching a kernel, with stand-ins for apt: which sources are asked, and what a failure leaves behind."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from klasy.lab import fetch
from klasy.lab.fetch import Source, kernel_files, read_sources
from klasy.lab.host import LabError
from klasy.lab.kernels import KERNELS, LabKernel, by_name

KERNEL = LabKernel("9.9", "linux-image-test", ("stable", "stable-security"))
RELEASE = "9.9.0-1-test"
ONE_LINE = """\
# deb http://commented.example/debian stable main
deb http://mirror.example/debian stable main contrib
deb-src http://mirror.example/debian stable main
deb [arch=amd64 signed-by=/keys/a.gpg] http://sec.example/debian-security stable-security main # why
deb https://tools.example/apt stable main
deb http://other.example/debian stable contrib
"""
STANZAS = """\
Types: deb deb-src
# a comment within
URIs: http://mirror.example/debian/
Suites: stable
 stable-updates
Components: main non-free
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: stable-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: stable
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: stable
Components: main
"""


def test_one_line_sources(tmp_path: Path) -> None:
    """sources.list is read: Debian's binary archives with the part main, their suites and keys, and no others."""
    (tmp_path / "sources.list").write_text(ONE_LINE)
    assert list(read_sources(tmp_path)) == [
        Source("http://mirror.example/debian", ("stable",), ""),
        Source("http://sec.example/debian-security", ("stable-security",), "/keys/a.gpg"),
    ]


def test_deb822_sources(tmp_path: Path) -> None:
    """sources.list.d/*.sources is read too, with folded fields; what is disabled or source only is left out."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(STANZAS)
    (tmp_path / "sources.list.d" / "saved.sources.bak").write_text(STANZAS)
    assert list(read_sources(tmp_path)) == [
        Source(
            "http://mirror.example/debian/",
            ("stable", "stable-updates"),
            "/usr/share/keyrings/debian-archive-keyring.gpg",
        ),
        Source("http://mirror.example/debian-security", ("stable-security",), ""),
    ]


def test_a_machine_without_sources(tmp_path: Path) -> None:
    """No apt configuration, no sources; and that is no error by itself."""
    assert list(read_sources(tmp_path / "nowhere")) == []


def test_names_of_kernels() -> None:
    """A kernel is found by its name; an unknown name is refused with the names there are."""
    assert [by_name(kernel.name) for kernel in KERNELS] == list(KERNELS)
    with pytest.raises(KeyError, match=r"no kernel '2\.6'.*6\.1, 6\.12"):
        by_name("2.6")


class Machine:
    """A machine with a Debian mirror, a cache of its own, and an apt that is a script: ``apt_get`` is its text."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = directory / "bin"
        self.cache = directory / "cache"
        self.log = directory / "log"
        etc = directory / "etc"
        for made in (self.bin, etc):
            made.mkdir()
        (etc / "sources.list").write_text(ONE_LINE)
        monkeypatch.setattr(fetch, "SOURCES", etc)
        monkeypatch.setenv("KLASY_CACHE", str(self.cache))
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        monkeypatch.delenv("KLASY_MIRROR", raising=False)
        self.script("apt-cache", f"echo 'Package: linux-image-test\nDepends: linux-image-{RELEASE} (= 9.9.1-1)'")
        self.script("apt-get", f'case "$*" in *download*) cp {self._package(directory)} . ;; esac')

    def script(self, name: str, text: str) -> None:
        """Put a program on PATH that logs how it was called."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{text}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, of: str) -> list[str]:
        """How a program was called, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(of + " ")]

    @property
    def kernels(self) -> list[str]:
        """What lies in the cache of kernels, but for locks."""
        found = self.cache / "lab" / "kernels"
        return sorted(name for name in os.listdir(found) if not name.endswith(".lock")) if found.exists() else []

    def _package(self, directory: Path) -> Path:
        tree = directory / "tree"
        modules = tree / "lib" / "modules" / RELEASE
        for made in (tree / "DEBIAN", tree / "boot", modules, tree / "usr" / "share" / "doc"):
            made.mkdir(parents=True)
        (tree / "boot" / f"vmlinuz-{RELEASE}").write_text("a kernel")
        (modules / "modules.order").touch()
        (modules / "modules.builtin").touch()
        control = f"Package: linux-image-{RELEASE}\nVersion: 9.9.1-1\nArchitecture: amd64\n"
        (tree / "DEBIAN" / "control").write_text(control + "Maintainer: nobody\nDescription: a test\n")
        archive = directory / f"linux-image-{RELEASE}_9.9.1-1_amd64.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, archive], check=True, capture_output=True)
        shutil.rmtree(tree)
        return archive


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose apt works."""
    return Machine(tmp_path, monkeypatch)


def test_fetched_once(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest image is fetched, unpacked and indexed, told on standard error; the next time nothing is asked."""
    found = kernel_files(KERNEL)
    assert found.release == RELEASE
    assert found.image.read_text() == "a kernel"
    assert (found.modules / "modules.dep").exists()
    out, err = capsys.readouterr()
    assert out == ""
    assert f"fetching linux-image-{RELEASE}=9.9.1-1" in err
    calls = machine.log.read_text()
    assert kernel_files(KERNEL) == found
    assert machine.log.read_text() == calls
    assert capsys.readouterr() == ("", "")


def test_asks_the_machines_mirror_for_the_kernels_suites(machine: Machine) -> None:
    """apt works with the mirrors that the machine uses, the suites of the kernel, and a state of its own."""
    kernel_files(KERNEL)
    state = machine.cache / "lab" / "apt" / "9.9"
    assert (state / "sources.list").read_text() == (
        "deb http://mirror.example/debian stable main\n"
        "deb [signed-by=/keys/a.gpg] http://sec.example/debian-security stable-security main\n"
    )
    for call in machine.calls("apt-get"):
        assert f"Dir::State={state}" in call
        assert "Dir::Etc::sourceparts=/dev/null" in call


def test_another_mirror(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """KLASY_MIRROR takes the place of the machine's mirror."""
    monkeypatch.setenv("KLASY_MIRROR", "http://chosen.example/debian")
    kernel_files(KERNEL)
    sources = (machine.cache / "lab" / "apt" / "9.9" / "sources.list").read_text()
    assert " http://chosen.example/debian stable main\n" in sources
    assert "mirror.example" not in sources


def test_no_mirror_is_known(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a Debian source gets an error that says how to name one."""
    monkeypatch.setattr(fetch, "SOURCES", tmp_path / "nowhere")
    with pytest.raises(LabError, match="no Debian mirror is known") as caught:
        kernel_files(KERNEL)
    assert "KLASY_MIRROR=URI" in (caught.value.hint or "")
    assert machine.kernels == []


@pytest.mark.parametrize("step", ["update", "download"])
def test_a_failing_fetch_leaves_nothing(
    machine: Machine, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When apt fails, its words and a remedy are shown, and the cache is as before; the next attempt works."""
    monkeypatch.chdir(tmp_path)  # apt-get update runs where the command was given, and leaves its half file there
    working = (machine.bin / "apt-get").read_text()
    fault = f'case "$*" in *{step}*) touch half.deb; echo "E: unreachable" >&2; exit 100 ;; esac'
    machine.script("apt-get", fault + "\n" + working)
    with pytest.raises(LabError, match="E: unreachable") as caught:
        kernel_files(KERNEL)
    assert "KLASY_MIRROR" in (caught.value.hint or "")
    assert caught.value.exit_status == 3
    assert machine.kernels == []
    (machine.bin / "apt-get").write_text(working)
    assert kernel_files(KERNEL).release == RELEASE


def test_a_damaged_package_leaves_nothing(machine: Machine) -> None:
    """A package that does not unpack is an error, and nothing of it stays."""
    machine.script("apt-get", 'case "$*" in *download*) echo rubbish > a.deb ;; esac')
    with pytest.raises(LabError, match="unpacking the kernel package failed"):
        kernel_files(KERNEL)
    assert machine.kernels == []


def test_a_damaged_cache_is_reported(machine: Machine) -> None:
    """An unpacked kernel without its image is an error that says what to remove."""
    kernel_files(KERNEL).image.unlink()
    with pytest.raises(LabError, match="is damaged") as caught:
        kernel_files(KERNEL)
    assert caught.value.hint == f"remove it and try again: rm -r {machine.cache}/lab/kernels/9.9"


def test_two_labs_fetch_once(machine: Machine, tmp_path: Path) -> None:
    """Two processes that need the same kernel at once fetch it once; both get it."""
    working = (machine.bin / "apt-get").read_text()
    said = [tmp_path / "said 0", tmp_path / "said 1"]
    until_one_waits = f"""n=0
        until grep -qs waiting '{said[0]}' '{said[1]}' || [ $n = 1200 ]; do sleep 0.05; n=$((n + 1)); done
    """
    machine.script("apt-get", until_one_waits + working.split("\n", 2)[2])
    program = (
        "import sys; from pathlib import Path; from klasy.lab import fetch, kernels; "
        "fetch.SOURCES = Path(sys.argv[1]); "
        f"print(fetch.kernel_files(kernels.LabKernel{tuple(KERNEL)!r}).release)"
    )
    argv = [sys.executable, "-c", program, str(fetch.SOURCES)]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=path.open("w"), text=True) for path in said]
    assert [process.communicate(timeout=120)[0] for process in both] == [f"{RELEASE}\n"] * 2
    assert len([call for call in machine.calls("apt-get") if "download" in call]) == 1
    assert any("waiting" in path.read_text() for path in said)
