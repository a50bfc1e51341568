"""What of the system call layer needs no kernel that knows BPF."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from klasy.bpf import features, links, maps, pins, program, sys
from klasy.bpf.sys import Buffer, Descriptor
from klasy.errors import KernelLacks, KernelRefused


def some_descriptor() -> Descriptor:
    return Descriptor(os.open("/dev/null", os.O_RDONLY))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_with_closes():
    """Leaving the block gives the descriptor back, by an exception too; closing again does nothing."""
    d = some_descriptor()
    number = d.fileno()
    with contextlib.suppress(RuntimeError), d:
        assert is_open(number)
        raise RuntimeError
    assert not is_open(number)
    d.close()
    with pytest.raises(ValueError, match="closed"):
        d.fileno()
    assert repr(d) == "<Descriptor closed>"


def test_a_forgotten_descriptor_is_closed_with_a_warning():
    """Nothing leaks, and the one who forgot hears of it."""
    d = some_descriptor()
    number = d.fileno()
    with pytest.warns(ResourceWarning, match=f"unclosed .*name={number} "):
        del d
    assert not is_open(number)


def test_nothing_of_ours_runs_when_a_descriptor_goes():
    """A signal that comes in a finalizer written in Python raises into nothing: Python prints it, and goes on."""
    assert not hasattr(Descriptor, "__del__")


def test_buffers():
    """A buffer has an address, is written in place, and reads back; an empty one is legal."""
    b = Buffer(b"abc\0def")
    b.view[0:1] = b"X"
    assert (b.size, b.bytes(), b.text()) == (7, b"Xbc\0def", "Xbc")
    assert b.address
    assert (Buffer(4).bytes(), Buffer(0).bytes(), Buffer(b"").size) == (bytes(4), b"", 0)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("events", b"events"), ("a/b c-ä", b"a_b_c__"), ("x" * 20, b"x" * 15), ("a.b", b"a.b"), ("", b"")],
)
def test_names_as_the_kernel_takes_them(name, kept):
    """Fifteen bytes of letters, digits, underscore and dot."""
    assert sys.object_name(name) == kept


@pytest.mark.parametrize(
    ("text", "level"),
    [("[none] integrity confidentiality\n", "none"), ("none [integrity] confidentiality\n", "integrity"), ("", None)],
)
def test_lockdown_level(tmp_path, text, level):
    """The level in brackets is the one in force; no file, no answer."""
    (tmp_path / "lockdown").write_text(text)
    assert sys.lockdown(str(tmp_path / "lockdown")) == level
    assert sys.lockdown(str(tmp_path / "absent")) is None


def test_a_refusal_names_attempt_reason_and_remedy():
    """The hint of the caller counts first, then what is known of missing rights."""
    error = sys.refused("creating map 'x'", errno.E2BIG, {errno.E2BIG: "make it smaller"})
    assert isinstance(error, KernelRefused)
    assert (str(error), error.hint) == ("creating map 'x': Argument list too long (E2BIG)", "make it smaller")
    assert sys.refused("creating map 'x'", errno.ENOMEM).hint is None
    assert sys.refused("creating map 'x'", errno.EPERM).hint


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-3\n", 4), ("0,2-3,8\n", 4), ("0-127", 128)])
def test_lists_of_cpus(text, count):
    """The kernel's list format, counted."""
    assert maps.count_cpus(text) == count


def test_map_types_by_name():
    """Map types go by the kernel's names in lower case."""
    assert maps.map_type("percpu_array") == 6
    with pytest.raises(KeyError):
        maps.map_type("no_such_map")


def test_file_systems_by_mount_table(tmp_path):
    """The longest mount point above a path decides, of two on one point the later."""
    table = tmp_path / "mounts"
    table.write_text(
        "root / ext4 rw 0 0\nbpf /m/bpf bpf rw 0 0\ntmp /m/bpf/inner tmpfs rw 0 0\n"
        "bpf /m/over bpf rw 0 0\ntmp /m/over tmpfs rw 0 0\n"
    )
    found = {
        path: pins.is_bpffs(path, str(table))
        for path in ("/m/bpf", "/m/bpf/a/b", "/m/bpffs", "/m/bpf/inner/x", "/m/over/x", "/m")
    }
    assert found == {
        "/m/bpf": True,
        "/m/bpf/a/b": True,
        "/m/bpffs": False,
        "/m/bpf/inner/x": False,
        "/m/over/x": False,
        "/m": False,
    }


def test_pins_in_a_plain_directory(tmp_path):
    """Walking and removing work on any tree, sorted; what is not there is no error."""
    for name in ("b/two", "a", "b/one"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    root = str(tmp_path / "root")
    assert list(pins.walk(root)) == [f"{root}/a", f"{root}/b/one", f"{root}/b/two"]
    assert pins.unpin_tree(root) == 3
    assert not os.path.exists(root)
    assert (pins.unpin_tree(root), list(pins.walk(root)), pins.unpin(f"{root}/a")) == (0, [], False)


def test_dotted_pins_are_refused_before_the_kernel_sees_them():
    """bpffs reserves names with dots; its own answer would be a bare EPERM."""
    with some_descriptor() as d, pytest.raises(ValueError, match="dot"):
        pins.pin(d, "/sys/fs/bpf/klasy/a.b")  # type: ignore[arg-type]


def test_a_kernel_without_the_kprobe_pmu(tmp_path):
    """Without its directory in sysfs there are no perf kprobes, and that is said with what it takes."""
    with pytest.raises(KernelLacks) as caught:
        links._pmu_type(str(tmp_path))
    assert "CONFIG_KPROBE_EVENTS" in caught.value.hint


def test_arguments_that_contradict():
    """Mistakes of the caller never become system calls."""
    with pytest.raises(ValueError, match="symbol or an address"):
        links.perf_kprobe()
    with pytest.raises(ValueError, match="symbol or an address"):
        links.perf_kprobe(symbol="f", address=1)
    loaded = program.Program(-1)
    for options in ({}, {"symbols": ["a"], "addresses": [1]}, {"symbols": ["a", "b"], "cookies": [1]}):
        with pytest.raises(ValueError, match="symbols or addresses"):
            links.attach_kprobe_multi(loaded, **options)


# --- features that are told by files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "text", "state"),
    [
        (features.lockdown, "[none] integrity confidentiality", "yes"),
        (features.lockdown, "none [integrity] confidentiality", "yes"),
        (features.lockdown, "none integrity [confidentiality]", "no"),
        (features.lockdown, None, "yes"),
        (features.jit, "1\n", "yes"),
        (features.jit, "0\n", "no"),
        (features.jit, None, "unknown"),
        (features.btf, "x", "yes"),
        (features.btf, None, "no"),
        (features.lsm, "lockdown,capability,bpf\n", "yes"),
        (features.lsm, "lockdown,capability\n", "no"),
        (features.lsm, None, "unknown"),
        (features.rights, "Name:\tx\nCapEff:\t000001ffffffffff\n", "yes"),
        (features.rights, "Name:\tx\nCapEff:\t0000000000000000\n", "no"),
        (features.rights, f"CapEff:\t{1 << 21 | 1 << 17 | 1 << 34 | 1 << 38:016x}\n", "no"),
    ],
)
def test_features_read_from_files(tmp_path, probe, text, state):
    """Each answer follows from the file's content, and a no says what to do."""
    file = tmp_path / "file"
    if text is not None:
        file.write_text(text)
    feature = probe(str(file))
    assert feature.state == state
    assert bool(feature) == (state == "yes")
    if state == "no":
        assert feature.remedy


def test_missing_rights_are_named(tmp_path):
    """The capabilities that are missing, and only they."""
    (tmp_path / "status").write_text(f"CapEff:\t{1 << 21 | 1 << 17 | 1 << 34 | 1 << 38:016x}\n")
    assert features.rights(str(tmp_path / "status")).detail == "missing: CAP_BPF"


def test_root_of_a_user_namespace_has_no_rights(tmp_path):
    """It has all capabilities, in its namespace."""
    (tmp_path / "status").write_text("CapEff:\t000001ffffffffff\n")
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns/user").touch()  # any inode but that of the first namespace
    assert features.rights(str(tmp_path / "status")).state == "no"


def test_lsm_remedy_keeps_the_modules_there_are(tmp_path):
    """The boot parameter proposed adds bpf to the list in force."""
    (tmp_path / "lsm").write_text("lockdown,yama\n")
    assert features.lsm(str(tmp_path / "lsm")).remedy == "boot with lsm=lockdown,yama,bpf"


def test_tracefs_in_its_two_places(tmp_path):
    """The first place that has kprobe_events is taken; without any, the mount command is the remedy."""
    places = (str(tmp_path / "a"), str(tmp_path / "b"))
    assert features.tracefs(places).remedy == f"mount -t tracefs tracefs {places[0]}"
    (tmp_path / "b").mkdir()
    (tmp_path / "b/kprobe_events").touch()
    assert features.tracefs(places) == ("tracefs", "yes", places[1], "")


def test_errors_of_a_probe_become_answers():
    """Refusals for want of rights leave the question open; others, and lacks, are a no with the version needed."""

    def refuse(error: int):
        def attempt() -> str:
            raise KernelRefused("trying", error)

        return features._try("x", attempt, since="5.8", remedy="do this")

    assert refuse(errno.EPERM).state == "unknown"
    assert refuse(errno.ENOMEM).state == "unknown"
    no = refuse(errno.EINVAL)
    assert (no.state, no.remedy) == ("no", "do this")
    assert "needs Linux 5.8" in no.detail

    def lack() -> str:
        raise KernelLacks("there is no such thing", hint="build it in")

    assert features._try("x", lack)[1:] == ("no", "there is no such thing", "build it in")
    assert features._try("x", lambda: "fine") == ("x", "yes", "fine", "")


def test_swapping_two_names(tmp_path):
    """Both names are there before and after, never one of them alone; a missing one is an error that names both."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    sys.rename_exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert [(tmp_path / name).read_text() for name in "ab"] == ["b", "a"]
    with pytest.raises(KernelRefused, match=r"swapping .*/a and .*/c: .*ENOENT"):
        sys.rename_exchange(str(tmp_path / "a"), str(tmp_path / "c"))
