"""What commands say and end with where the rights, the kernel or the machine do not allow what was asked."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support.commands import as_nobody, klasy_command, mounts
from support.livekernel import leftovers

EXECUTION = "aspect e { pointcut execution(vfs_mkdir); before() { log(pid); } }"
SITES = "aspect s { pointcut call(vfs_mkdir) && within(do_mkdirat); before() { log(pid); } }"
TYPED = """aspect t {
    pointcut execution("ssize_t vfs_read(struct file *file, ..)");
    before(struct file *file) { log(pid); }
}"""
CALL = "aspect c { pointcut call(vfs_mkdir); before() { log(pid); } }"


@pytest.fixture
def aspects(tmp_path):
    """Aspects that anybody may read; afterwards nothing may be left."""
    for name, text in (("e.asp", EXECUTION), ("c.asp", CALL), ("t.asp", TYPED)):
        (tmp_path / name).write_text(text)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    yield tmp_path
    klasy_command("unweave")
    assert leftovers() == {}


def refused(done) -> tuple[str, str | None]:
    """The message and the hint of a command that the kernel or the rights did not allow."""
    assert done.status == 3, done
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert lines[0].startswith("klasy: ")
    assert len(lines) <= 2, done
    return lines[0].removeprefix("klasy: "), lines[1].removeprefix("  hint: ") if len(lines) == 2 else None


@pytest.mark.parametrize("command", ["weave", "joinpoints"])
def test_files_by_nobody(aspects, command):
    """Weaving and matching need root, and say so."""
    message, hint = refused(klasy_command(command, str(aspects / "c.asp"), prepare=as_nobody))
    assert "root" in message
    assert "run klasy as root" in hint


@pytest.mark.parametrize("argv", [["unweave"], ["unweave", "e"], ["status"], ["log"], ["log", "e"], ["joinpoints"]])
def test_woven_aspects_by_nobody(aspects, argv):
    """Woven aspects are only for root to see and to take out."""
    assert klasy_command("weave", str(aspects / "e.asp")).status == 0
    message, hint = refused(klasy_command(*argv, prepare=as_nobody))
    assert "root" in message
    assert "run klasy as root" in hint
    assert klasy_command("unweave", "e").out == "unwoven: e\n"


@pytest.mark.only_on("6.1")
def test_checking_by_nobody(aspects):
    """Who may not see addresses has names, prototypes, types and advice checked, and is told what was not."""
    done = klasy_command("check", str(aspects / "e.asp"), str(aspects / "c.asp"), prepare=as_nobody)
    assert done.status == 0, done
    assert done.out.splitlines() == [
        f"{aspects}/{name}.asp: aspect {name}: sound, as far as names and types tell" for name in "ec"
    ]
    assert "not checked: which join points there are, and whether they can be probed" in done.err
    (aspects / "wrong.asp").write_text(
        "aspect wrong {\n"
        "    pointcut a(struct dentry *d): execution(vfs_mkdirr(.., struct dentry *d, ..));\n"
        "    pointcut b(struct inode *d): execution(void vfs_mkdir(.., struct inode *d, ..));\n"
        "    before(struct dentry *d): a(d) { log(d->d_nmae); }\n"
        "    before(struct inode *d): b(d) { log(d->i_inoo); }\n"
        "}\n"
    )
    wrong = klasy_command("check", str(aspects / "wrong.asp"), prepare=as_nobody)
    by_root = klasy_command("check", str(aspects / "wrong.asp"))
    assert wrong.status == by_root.status == 1
    heads = re.findall(r"^.*wrong.asp:.*error: .*$", wrong.err, re.MULTILINE)
    assert len(heads) == 4, wrong.err
    assert sorted(heads) == sorted(re.findall(r"^.*wrong.asp:.*error: .*$", by_root.err, re.MULTILINE))
    (aspects / "syntax.asp").write_text("aspect syntax { before( }")
    assert klasy_command("check", str(aspects / "syntax.asp"), prepare=as_nobody).status == 1


def test_searching_by_nobody():
    """Types can be searched by anybody, functions by root."""
    done = klasy_command("search", "--types", "sk_buff_head", prepare=as_nobody)
    assert done.status == 0
    assert "struct sk_buff_head {" in done.out
    message, hint = refused(klasy_command("search", "vfs_mkdir", prepare=as_nobody))
    assert "root" in message
    assert hint == "run klasy as root"


def test_doctor():
    """On a good kernel the doctor finds nothing that is needed missing; as JSON it has the documented fields."""
    done = klasy_command("doctor", "--json")
    assert done.status == 0, done
    document = json.loads(done.out)
    assert set(document) == {"kernel", "ok", "features"}
    assert document["ok"] is True
    assert document["kernel"] == os.uname().release
    assert all(set(feature) == {"name", "state", "detail", "remedy", "needed"} for feature in document["features"])
    assert all(feature["state"] == "yes" for feature in document["features"] if feature["needed"])
    assert klasy_command("doctor").out.endswith("klasy can weave here\n")


@pytest.mark.only_on("6.1")
@pytest.mark.parametrize(
    ("prepare", "missing"),
    [
        (as_nobody, {"rights", "kernel symbols", "bpf file system", "tracefs"}),
        (mounts("mount -t tmpfs none /sys/kernel/btf"), {"btf"}),
        (mounts("umount /sys/kernel/tracing", "umount /sys/kernel/debug"), {"tracefs"}),
        (mounts("umount /sys/fs/bpf"), {"bpf file system"}),
        (mounts("mount -o remount,bind,ro /sys/fs/bpf"), {"bpf file system"}),
        (mounts("mount --bind /dev/null /proc/kallsyms"), {"kernel symbols"}),
        (mounts("mount --bind /dev/null /proc/kcore"), {"kernel text"}),
    ],
    ids=["nobody", "no-btf", "no-tracefs", "no-bpffs", "read-only-bpffs", "no-kallsyms", "no-kcore"],
)
def test_doctor_finds_what_is_missing(prepare, missing):
    """What is needed and missing is named, with the remedy, and the exit status is 3."""
    done = klasy_command("doctor", "--json", prepare=prepare)
    assert done.status == 3, done
    document = json.loads(done.out)
    assert document["ok"] is False
    lacking = {f["name"]: f for f in document["features"] if f["needed"] and f["state"] == "no"}
    assert set(lacking) == missing, done
    assert all(feature["remedy"] for feature in lacking.values()), lacking
    text = klasy_command("doctor", prepare=prepare)
    assert text.status == 3
    assert f"klasy cannot weave here: {', '.join(lacking)} missing" in text.out
    assert all(f"remedy: {feature['remedy']}" in text.out for feature in lacking.values())


def test_a_kernel_without_types(aspects):
    """Without BTF nothing can be woven: which configuration option is missing is said. What needs no type is told."""
    prepare = mounts("mount -t tmpfs none /sys/kernel/btf")
    untyped, typed = str(aspects / "e.asp"), str(aspects / "t.asp")
    places = klasy_command("joinpoints", untyped, prepare=prepare)
    assert places.status == 0, places
    assert places.out.splitlines()[-1].split() == ["before#0", "execution", "vfs_mkdir", "kprobe"]
    assert klasy_command("check", untyped, prepare=prepare).status == 0
    for argv in (["weave", untyped], ["weave", typed], ["joinpoints", typed], ["check", typed]):
        message, hint = refused(klasy_command(*argv, prepare=prepare))
        assert "BTF" in message
        assert "CONFIG_DEBUG_INFO_BTF" in hint
    (aspects / "syntax.asp").write_text("aspect syntax { before( }")
    assert klasy_command("check", str(aspects / "syntax.asp"), prepare=prepare).status == 1


def test_a_kernel_without_kprobes(aspects):
    """Without kernel probe events what needs them is refused, and why is said; the rest goes on."""
    prepare = mounts(
        "umount /sys/kernel/debug",
        "mount -t tmpfs none /sys/kernel/tracing",
        "mkdir /sys/kernel/tracing/events",
    )
    message, hint = refused(klasy_command("weave", "-", stdin=SITES, prepare=prepare))
    assert message == "this kernel has no kernel probe events: it was built without CONFIG_KPROBE_EVENTS"
    assert hint is None
    assert klasy_command("weave", str(aspects / "e.asp"), prepare=prepare).status == 0


def test_no_tracefs(aspects):
    """Where tracefs is not mounted it is, and the aspect woven."""
    prepare = mounts("umount /sys/kernel/tracing", "umount /sys/kernel/debug")
    done = klasy_command("weave", "--for", "200ms", "-", stdin=SITES, prepare=prepare)
    assert done.status == 0, done
    assert "woven: s, 1 join point by kprobe" in done.err


def test_kprobes_switched_off(aspects):
    """Kprobes that would be put in place and never hit are refused, with the remedy."""
    switch = Path("/sys/kernel/debug/kprobes/enabled")
    switch.write_text("0")
    try:
        message, hint = refused(klasy_command("weave", str(aspects / "c.asp")))
    finally:
        switch.write_text("1")
    assert message == "kprobes are switched off: probes would be put in place and never hit"
    assert hint == f"echo 1 > {switch}"


def test_a_read_only_bpffs(aspects):
    """Where links cannot be pinned nothing is woven, and the remedy is said."""
    for first in ([], [klasy_command("weave", "-", stdin=CALL)]):
        prepare = mounts("mount -o remount,bind,ro /sys/fs/bpf")
        message, hint = refused(klasy_command("weave", str(aspects / "e.asp"), prepare=prepare))
        assert message == "the BPF file system at /sys/fs/bpf is mounted read-only"
        assert hint == "mount -o remount,rw /sys/fs/bpf"
        if first:
            assert klasy_command("status", prepare=prepare).status == 0
            message, hint = refused(klasy_command("unweave", prepare=prepare))
            assert message == "the BPF file system at /sys/fs/bpf is mounted read-only"


def test_no_bpffs(aspects):
    """Where no BPF file system is mounted one is, and the aspect woven."""

    def prepare() -> None:
        mounts("umount /sys/fs/bpf")()
        assert not os.listdir("/sys/fs/bpf")

    running = klasy_command("weave", "--for", "200ms", str(aspects / "e.asp"), prepare=prepare)
    assert running.status == 0, running
    assert "woven: e, 1 join point by fentry" in running.err
    assert "unwoven: e" in running.err


def test_hidden_symbols(aspects):
    """kptr_restrict=2 hides addresses from root, too: weaving says how to see them, checking goes on."""
    restrict = Path("/proc/sys/kernel/kptr_restrict")
    before = restrict.read_text()
    restrict.write_text("2")
    try:
        message, hint = refused(klasy_command("weave", str(aspects / "e.asp")))
        assert "hides" in message
        assert "kptr_restrict" in hint
        done = klasy_command("check", str(aspects / "e.asp"))
        assert done.status == 0
        assert "sound, as far as names and types tell" in done.out
    finally:
        restrict.write_text(before)


def test_an_unwritable_cache(aspects):
    """What is kept for the next time is a convenience: where it cannot be, all goes on."""

    def prepare() -> None:
        os.environ["KLASY_CACHE"] = "/proc/none"

    assert klasy_command("check", str(aspects / "e.asp"), prepare=prepare).status == 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sk_buff"], "it is a type (struct sk_buff), not a function; types and members are found with --types"),
        (["struct sk_buff.len"], "types and members are found with --types"),
        (["--types", "struct sk_buff.lenn"], "did you mean 'sk_buff.len'?"),
        (["--types", "union tcp_word_hd"], "did you mean 'tcp_word_hdr'"),
        (["--types", "vfs_mkdir"], "functions are found without --types"),
    ],
)
def test_search_elsewhere(words, hint):
    """Where the name was looked for in the wrong place, the right one is named."""
    done = klasy_command("search", *words)
    assert done.status == 1
    assert done.err.startswith(f"klasy: nothing is named '{words[-1]}'\n  hint: {hint}")


def test_search():
    """Functions with prototypes and what hinders probing; near names where there is none; types; members; JSON."""
    done = klasy_command("search", "vfs_mkdir")
    assert done.status == 0
    assert re.search(r"^int vfs_mkdir\(.*struct dentry \*dentry, umode_t mode\)$", done.out, re.MULTILINE)
    none = klasy_command("search", "vfs_mkdri")
    assert (none.status, none.out) == (1, "")
    assert none.err.startswith("klasy: nothing is named 'vfs_mkdri'\n  hint: did you mean 'vfs_mkdir'")
    document = json.loads(klasy_command("search", "--json", "do_int3").out)
    assert set(document) == {"functions", "data", "events"}
    (function,) = document["functions"]
    assert set(function) == {"name", "prototype", "module", "clones", "copies", "traceable", "reason"}
    assert (function["traceable"], bool(function["reason"])) == (False, True)
    members = json.loads(klasy_command("search", "--json", "--types", "sk_buff_head.q*").out)
    assert members == {
        "members": [
            {"type": "struct sk_buff_head", "member": "qlen", "member_type": "__u32", "offset": 16, "stands_for": None}
        ]
    }
    (family,) = json.loads(klasy_command("search", "--json", "--types", "sock.sk_fam*").out)["members"]
    assert (family["member"], family["stands_for"]) == ("sk_family", "__sk_common.skc_family")
    assert klasy_command("search", "--types", "sock.sk_family").out.endswith(", __sk_common.skc_family\n")
    types = json.loads(klasy_command("search", "--json", "--types", "sk_buff_head").out)
    assert set(types) == {"types", "constants"}
    assert set(types["types"][0]) == {"kind", "name", "size", "definition"}
    states = json.loads(klasy_command("search", "--json", "--types", "TCP_*").out)["constants"]
    assert {"name": "TCP_LISTEN", "value": 10, "enum": "enum {...}"} in states
    assert klasy_command("search", "--types", "PF_KTHREAD").out == "PF_KTHREAD = 2097152    // a macro\n"
    flags = json.loads(klasy_command("search", "--json", "--types", "REQ_*").out)["constants"]
    assert {"REQ_SYNC", "REQ_META"} <= {each["name"] for each in flags if each["enum"] is None}
    assert len({each["name"] for each in flags}) == len(flags)
    assert "did you mean 'PF_KTHREAD'" in klasy_command("search", "--types", "PF_KTHREADS").err
    data = json.loads(klasy_command("search", "--json", "jiffies").out)["data"]
    assert {"name": "jiffies", "type": "long unsigned int", "module": None} in data
    percpu = json.loads(klasy_command("search", "--json", "runqueues").out)["data"]
    assert {"name": "runqueues", "type": "struct rq", "module": None} in percpu
    assert {None} == {d["type"] for d in json.loads(klasy_command("search", "--json", "reboot_force").out)["data"]}


def test_search_for_several():
    """What matches twice is shown once; that one of them is not there is said, and the status tells."""
    both = klasy_command("search", "vfs_mkdir", "vfs_mkd*")
    assert both.status == 0
    assert both.out == klasy_command("search", "vfs_mkd*").out
    assert both.out.count("vfs_mkdir(") == 1
    one = klasy_command("search", "vfs_mkdri", "vfs_rmdir")
    assert one.status == 1
    assert "vfs_rmdir(" in one.out
    assert one.err.startswith("klasy: nothing is named 'vfs_mkdri'\n  hint: did you mean 'vfs_mkdir'")
    mixed = json.loads(klasy_command("search", "--json", "--types", "sk_buff_head.qlen", "sk_buff_head").out)
    assert [len(mixed[kind]) for kind in ("members", "types")] == [1, 1]


def test_join_points_of_nothing():
    """A name may have been meant for a ready aspect, too."""
    done = klasy_command("joinpoints", "page_cach")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "klasy: no aspect 'page_cach' is woven, nor any other\n  hint: ready aspects of a like name: 'page_cache'\n"
    )
