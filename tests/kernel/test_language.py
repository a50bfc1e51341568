"""What is written once and used in many places, in the kernel: imports, functions."""

from __future__ import annotations

import os

import pytest
from support.weaving import woven

from klasy.cli.main import main
from klasy.weaver.woven import open_woven

MINE = f"if(pid == {os.getpid()})"


pytestmark = pytest.mark.usefixtures("nothing_left")


def test_import(file, tmp_path, capfd):
    """A pointcut of an imported file reaches the kernel; that file's aspect is not woven, and its text is kept."""
    library = f"aspect lib {{ pointcut mine(): {MINE}; before(): execution(vfs_fsync_range) {{ log(2); }} }}"
    (tmp_path / "lib.asp").write_text(library)
    (tmp_path / "user.asp").write_text(
        'import "lib.asp"; aspect user { before(): execution(vfs_fsync_range) && lib.mine() { log("synced"); } }'
    )
    assert main(["weave", str(tmp_path / "user.asp")]) == 0
    os.fsync(file)
    with open_woven("user") as aspect:
        assert [file["text"] for file in aspect.document["source"]["imports"]] == [library]
    capfd.readouterr()
    assert main(["log"]) == 0
    assert capfd.readouterr().out.count("synced") == 1
    assert main(["unweave"]) == 0
    assert capfd.readouterr().out == "unwoven: user\n"


@pytest.mark.parametrize("force", ["fentry", "kprobe"])
def test_functions(file, force):
    """Functions run in both kinds of programs, with pointers, loops, state and other functions, and in a condition."""
    text = f"""aspect f {{
        u64 calls;
        hist sizes;
        pointcut mine(struct file *file): execution(vfs_fsync_range(struct file *file, ..)) && if(wanted(pid));
        bool wanted(u32 p) {{ return p == {os.getpid()}; }}
        struct inode *inode(struct file *f) {{ return f->f_inode; }}
        u64 scaled(u64 x, u64 by) {{ u64 r = 0; for (u64 i = 0; i < by; i++) r += x; calls++; return r; }}
        void note(struct file *f, u64 by) {{
            if (!f) return;
            sizes.add(scaled(inode(f)->i_size, by));
            log(inode(f)->i_size, scaled(scaled(inode(f)->i_size, 2), scaled(by, 1)), calls);
        }}
        before(struct file *file): mine(file) {{ note(0, 1); note(file, 3); note(file, 5); }}
    }}"""
    os.write(file, b"x" * 100)
    with woven(text, force=force) as aspect:
        os.fsync(file)
        assert [[v for _, v in event.values] for event in aspect.mine()] == [[100, 600, 4], [100, 1000, 8]]


def test_abstract(file, tmp_path, capfd):
    """Two aspects of one abstract aspect run side by side, each with its own arguments, pointcut and state."""
    (tmp_path / "base.asp").write_text("""abstract aspect base(functions, u64 from) {
        pointcut run(): execution(functions) && here();
        abstract pointcut here();
        u64 calls;
        before(): run() { calls++; if (calls >= from) log(calls, from); }
    }""")
    (tmp_path / "both.asp").write_text(f"""import "base.asp";
        aspect first extends base(vfs_fsync_range, 2) {{ pointcut here(): {MINE}; }}
        aspect second extends base("vfs_fsync_%", (2 + 1)) {{
            pointcut here(): {MINE};
            before(): run() {{ log("own"); }}
        }}""")
    assert main(["check", str(tmp_path / "base.asp")]) == 0
    assert main(["weave", str(tmp_path / "base.asp")]) == 1
    assert "there is nothing to weave: all aspects are abstract" in capfd.readouterr().err
    assert main(["weave", str(tmp_path / "both.asp")]) == 0
    for _ in range(3):
        os.fsync(file)
    capfd.readouterr()
    for name, expected in (
        ("first", ["calls = 2, from = 2", "calls = 3, from = 2"]),
        ("second", ["own", "own", "own", "calls = 3, from = 3"]),
    ):
        assert main(["log", name]) == 0
        assert [line.rpartition(": ")[2] for line in capfd.readouterr().out.splitlines()] == expected
    assert main(["unweave"]) == 0
