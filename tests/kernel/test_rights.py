"""Who may do what, and what nobody can make klasy do: by its folder, its imports, its names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import as_nobody, good, klasy_command
from support.livekernel import HOME

from klasy.source import SourceFile
from klasy.weaver.build import build

ROOT = Path(__file__).resolve().parents[2]
KLASY = Path(sys.executable).parent / "klasy"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\n\x9b31m"
MADE = """aspect made {
    count names[comm];
    before(struct dentry *d): execution(vfs_mkdir(.., struct dentry *d, ..)) && if(pid == PID) {
        names[comm]++; log("%s by %s", str(d->d_name.name), comm); log(comm, str(d->d_name.name));
    }
}""".replace("PID", str(os.getpid()))


pytestmark = pytest.mark.usefixtures("unwoven_after")


@pytest.fixture
def open_path(tmp_path):
    """A folder that everybody may enter."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    return tmp_path


def test_pins_are_roots_alone():
    """Nobody else can list, open, or change what is pinned, nor read what is kept of an aspect."""
    good("weave", "-", stdin=MADE)
    pins = [path for path in HOME.rglob("*") if not path.is_symlink()]
    assert len(pins) > 5
    child = os.fork()
    if child == 0:
        as_nobody()
        reached = 0
        for path in (HOME, *pins, HOME / "made/registry"):
            for flags in (os.F_OK, os.R_OK, os.W_OK) if path != HOME else (os.R_OK, os.W_OK, os.X_OK):
                reached += os.access(path, flags)
        os._exit(min(reached, 100))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    cache = Path(os.environ.get("KLASY_CACHE", "/var/cache/klasy"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in cache.glob("artifact-*"))
    good("unweave")


def test_root_of_a_container_is_told_so():
    """Who has all capabilities in a user namespace alone is not told to run as root, nor that all is well."""
    inside = ["unshare", "--user", "--map-root-user", KLASY]
    told = subprocess.run([*inside, "weave", "-"], input=MADE, capture_output=True, text=True, check=False)
    assert told.returncode == 3
    assert "in a container as the machine's" in told.stderr
    asked = subprocess.run([*inside, "doctor", "--json"], capture_output=True, text=True, check=False)
    rights = next(feature for feature in json.loads(asked.stdout)["features"] if feature["name"] == "rights")
    assert (asked.returncode, rights["state"], rights["remedy"]) == (3, "no", "run klasy outside")


@pytest.mark.only_on("6.12")
def test_a_hostile_folder(open_path):
    """Nothing in the folder where klasy is run is executed, whatever it is called, nor by what an aspect says."""
    trap = "import os; open('/tmp/sprung', 'a').write(__name__ + chr(10))\n"
    names = (
        *("lark", "capstone", "elftools", "bcc", "json", "re", "typing", "ctypes", "_ctypes", "struct", "argparse"),
        *("sitecustomize", "usercustomize", "klasy", "readline", "encodings", "signal", "marshal_", "difflib"),
    )
    for name in names:
        (open_path / f"{name}.py").write_text(trap)
        (open_path / name).mkdir()
        (open_path / name / "__init__.py").write_text(trap)
    cached = open_path / "__pycache__"
    cached.mkdir()
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", str(open_path)], check=True)
    (open_path / "pyvenv.cfg").write_text("home = /nowhere\ninclude-system-site-packages = true\n")
    (open_path / "python3.11._pth").write_text(f"{open_path}\nimport site\n")
    (open_path / "trap.pth").write_text(f"{trap}\n")
    (open_path / ".env").write_text(f"PYTHONPATH={open_path}\n")
    for name in ("mount", "bpftool", "python3", "sh", "clang", "addr2line"):
        (open_path / name).write_text("#!/bin/sh\necho ran $0 >> /tmp/sprung\n")
        (open_path / name).chmod(0o755)
    (open_path / "a.asp").write_text(MADE)
    (open_path / "wrong.asp").write_text(MADE.replace("vfs_mkdir", "vfs_mkdri"))
    sprung = Path("/tmp/sprung")
    sprung.unlink(missing_ok=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for hostile in ({}, {"PYTHONPATH": str(open_path), "PYTHONSTARTUP": str(open_path / "json.py"), "PYTHONHOME": ""}):
        for argv in (["check", "a.asp"], ["check", "wrong.asp"], ["joinpoints", "--show-code", "a.asp"], ["status"]):
            done = subprocess.run(
                [KLASY, *argv], cwd=open_path, env=clean | hostile, capture_output=True, text=True, check=False
            )
            assert done.returncode == (1 if "wrong.asp" in argv else 0), done
            assert not sprung.exists(), (argv, sprung.read_text())


@pytest.mark.parametrize(
    "path", ["/etc/passwd.asp", "../outside.asp", "sub/../../outside.asp", "link.asp", "link/outside.asp", "a\\0b.asp"]
)
def test_imports_stay_inside(open_path, path):
    """What lies outside the folder of the file cannot be imported, by no way; nothing of it is shown."""
    inside = open_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (open_path / "outside.asp").write_text("aspect secret_of_others { before(): execution(vfs_mkdir) {} }")
    (inside / "link.asp").symlink_to(open_path / "outside.asp")
    (inside / "link").symlink_to(open_path)
    (inside / "a.asp").write_text(f'import "{path}";\n{MADE}')
    done = klasy_command("check", str(inside / "a.asp"), prepare=as_nobody)
    assert done.status == 1, done
    assert "secret_of_others" not in done.out + done.err
    assert "Traceback" not in done.err


def test_hostile_strings(tmp_path):
    """What tasks and files are called commands no terminal, wherever it is shown; in JSON it is as it was."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        hostile_file = tmp_path / f"{HOSTILE}.asp"
        hostile_file.write_text(MADE)
        build(SourceFile("made.asp", MADE))
        good("weave", str(hostile_file))
        before = Path("/proc/self/comm").read_text().strip()
        texts, documents = [], []
        for number, into in enumerate((texts, documents)):
            Path("/proc/self/comm").write_bytes(b"\x1b[31m\x07\n\x9b1\xff")
            (tmp_path / f"\x1b[2J\n{number}\x07").mkdir()
            Path("/proc/self/comm").write_text(before)
            json_too = ["--json"] if into is documents else []
            for argv in (["log"], ["stat"], ["status"], ["joinpoints", "made"]):
                done = klasy_command(*argv, *json_too)
                assert done.status == 0, done
                into.append(done)
        for done in texts:
            assert all(line.isprintable() for line in (done.out + done.err).splitlines()), done
            assert len(done.out.splitlines()) < 8, "a newline in a name makes no line"
        for done in documents:
            assert done.out.replace("\n", "").isprintable() or done.out.isascii()
        records = [json.loads(line) for line in documents[0].out.splitlines()]
        assert {record["comm"] for record in records} == {"\x1b[31m\x07\n\\x9b1\\xff"}
        assert "\x1b[2J\n1\x07" in records[1]["values"].values()
        for done in documents[1:]:
            json.loads(done.out)
        wrong = tmp_path / "\x1b[2Jwrong.asp"
        wrong.write_text('aspect w { before(): execution("\x1b[31mnothing\x07") {} }')
        done = klasy_command("check", str(wrong))
        assert done.status == 1
        assert all(line.isprintable() for line in done.err.splitlines()), done
        good("unweave")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
