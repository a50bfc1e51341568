"""Kernel probe events: reading what tracefs shows, over files in a directory of the test's."""

from __future__ import annotations

import pytest

from klasy.errors import KernelLacks, KernelRefused
from klasy.weaver.pinfs import Token
from klasy.weaver.tracefs import PART, DefinitionRefused, KprobeEvents, SiteCount, expedited_rcu, restore_rcu

TOKEN = Token(0x1C, 4711, 0x2B3F, 1)
PROFILE = """\
  k1c_4711_2b3f_1_0                                           12               1
  k1c_4711_2b3f_1_0                                            0               0
  somebody                                                    99               9
  k1c_4711_2b3f_10_0                                          77               0
  k1c_4711_2b3f_1_12                                           5               3
"""
# As Debian's 6.1.192 wrote it.
ERROR_LOG = """\
[ 5066.138430] trace_kprobe: error: Probe point is not an instruction boundary
  Command: p:g/k1 0xffffffff9c2d7171 site=\\0xffffffff9c2d7171
                  ^
[ 5066.138431] trace_kprobe: error: Failed to register probe event
  Command: p:g/k1 0xffffffff9c2d7180 site=\\0xffffffff9c2d7180
                  ^
[ 5066.150000] hist:foo:bar: error: Couldn't find field
  Command: keys=nothing
                ^
"""


@pytest.fixture
def events(tmp_path):
    """A tracefs of files."""
    for name in ("kprobe_events", "kprobe_profile", "error_log"):
        (tmp_path / name).write_text("")
    (tmp_path / "events").mkdir()
    return KprobeEvents(str(tmp_path))


def test_the_profile_has_the_rows_of_one_weave_in_order(events, tmp_path):
    """Rows of other weaves, one whose token only begins alike included, and of other users are left out."""
    (tmp_path / "kprobe_profile").write_text(PROFILE)
    assert events.profile(TOKEN) == {0: [SiteCount(12, 1), SiteCount(0, 0)], 12: [SiteCount(5, 3)]}


def test_groups_are_those_of_klasy(events, tmp_path):
    """Of the groups in tracefs only those with a token are klasy's."""
    for name in ("sched", "kprobes", "klasy_a_1c_4711_2b3f_1", "klasy_mine", "klasy_b_c_1c_4711_2b3f_2"):
        (tmp_path / "events" / name).mkdir()
    assert events.groups() == ["klasy_a_1c_4711_2b3f_1", "klasy_b_c_1c_4711_2b3f_2"]


def test_definitions_are_appended_and_give_the_id(events, tmp_path):
    """Others' definitions stay, ours follow, each address made distinct by its argument; the id is tracefs's."""
    (tmp_path / "kprobe_events").write_text("p:other/event vfs_read\n")
    (tmp_path / "events" / "g" / "k1").mkdir(parents=True)
    (tmp_path / "events" / "g" / "k1" / "id").write_text("1723\n")
    assert events.define("g", "k1", [0x10, 0x20]) == 1723
    assert events.define("g", "k1", [0x30], returns=True, maxactive=64) == 1723
    assert (tmp_path / "kprobe_events").read_text() == (
        "p:other/event vfs_read\n"
        "p:g/k1 0x10 site=\\0x10\n"
        "p:g/k1 0x20 site=\\0x20\n"
        "r64:g/k1 0x30 site=\\0x30\n"
    )  # fmt: skip
    assert events.count("g", "k1") == 3
    assert events.count("other", "event") == 1


def test_many_definitions_are_told_as_they_come_and_can_be_broken_off(events, tmp_path):
    """In parts of whole lines, each told of when it is in the kernel; what the listener raises ends it there."""
    (tmp_path / "events" / "g" / "k1").mkdir(parents=True)
    (tmp_path / "events" / "g" / "k1" / "id").write_text("1723\n")
    told = []

    def listen(done: int) -> None:
        assert events.count("g", "k1") == done
        told.append(done)

    events.define("g", "k1", range(0x10, 0x10 + 3 * PART), on_part=listen)
    assert told == [PART, 2 * PART]

    def end(done: int) -> None:
        if done == 4 * PART:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        events.define("g", "k2", range(0x1000, 0x1000 + 9 * PART), on_part=end)
    assert events.count("g", "k2") == 4 * PART


@pytest.mark.parametrize(
    ("address", "reason"),
    [(0xFFFFFFFF9C2D7171, "no instruction begins there"), (0xFFFFFFFF9C2D7180, "it lies in code closed to probes")],
)
def test_a_refusal_is_told_in_the_kernels_words(events, tmp_path, monkeypatch, address, reason):
    """The definition that failed is the first that is not there; its reason is found in error_log by its line."""
    (tmp_path / "error_log").write_text(ERROR_LOG)
    (tmp_path / "kprobe_events").write_text("p:g/k1 0x(____ptrval____) site=\\0x10\n")

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(events, "_write", refuse)
    with pytest.raises(DefinitionRefused, match=reason) as caught:
        events.define("g", "k1", [0x10, address, 0x30])
    assert (caught.value.index, caught.value.errno) == (1, 22)


def test_a_refusal_without_words_tells_the_error(events, monkeypatch):
    """Where error_log says nothing of it, the error number must do."""

    def refuse(*_: object) -> None:
        raise OSError(84, "")

    monkeypatch.setattr(events, "_write", refuse)
    with pytest.raises(DefinitionRefused, match="Invalid or incomplete"):
        events.define("g", "k1", [0x10])


def test_a_kernel_with_kprobes_off_lacks_them(events, monkeypatch):
    """ENODEV is no fault of the address."""

    def refuse(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(events, "_write", refuse)
    with pytest.raises(KernelLacks, match="switched off"):
        events.define("g", "k1", [0x10])


def test_deleting_what_is_gone_is_no_error(events, monkeypatch):
    """Somebody else was quicker: fine. Somebody uses it: an error."""

    def fail(number: int) -> None:
        def write(*_: object) -> None:
            raise OSError(number, "")

        monkeypatch.setattr(events, "_write", write)

    fail(2)
    events.delete("g")
    fail(16)
    with pytest.raises(KernelRefused, match="Device or resource busy") as caught:
        events.delete("g")
    assert caught.value.errno == 16


def test_rcu_is_hurried_only_meanwhile(tmp_path):
    """The setting comes back, also on errors; one that was on before stays on; a killed process's is mended."""
    setting, marker = tmp_path / "rcu_expedited", tmp_path / "~rcu_expedited"
    setting.write_text("0")

    def fail_meanwhile() -> None:
        with expedited_rcu(str(marker), str(setting)):
            assert setting.read_text() == "1"
            assert marker.is_dir()
            with expedited_rcu(str(marker), str(setting)):
                pass
            assert setting.read_text() == "1"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_meanwhile()
    assert setting.read_text() == "0"
    assert not marker.exists()

    setting.write_text("1")
    with expedited_rcu(str(marker), str(setting)):
        assert not marker.exists()
    assert setting.read_text() == "1"

    marker.mkdir()
    restore_rcu(str(marker), str(setting))
    assert setting.read_text() == "0"
    assert not marker.exists()
