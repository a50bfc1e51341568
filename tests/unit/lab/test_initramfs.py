"""The initramfs: a well-formed archive, with the modules in an order in which they can be loaded."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.lab.fetch import UnpackedKernel
from klasy.lab.initramfs import cpio, initramfs, module_files

names = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=30).filter(
    lambda name: name != "TRAILER!!!"
)
members = st.lists(
    st.tuples(names, st.sampled_from([0o100644, 0o100755, 0o040755]), st.binary(max_size=50)), max_size=8
)


def read_cpio(archive: bytes) -> list[tuple[str, int, bytes]]:
    """The members of a newc archive, read by the format's description."""
    found, at = [], 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_at = at + 110
        name = archive[name_at : name_at + fields[11] - 1].decode()
        assert archive[name_at + fields[11] - 1] == 0
        data_at = -(-(name_at + fields[11]) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], archive[data_at : data_at + fields[6]]))
        at = -(-(data_at + fields[6]) // 4) * 4


@given(members)
def test_archive_holds_what_was_put_in(given_members: list[tuple[str, int, bytes]]) -> None:
    """Names, modes and contents come back, each member at a multiple of four, whatever their lengths."""
    assert read_cpio(cpio(given_members)) == given_members


def kernel(directory: Path, dep: str) -> UnpackedKernel:
    """An unpacked kernel that has only modules.dep."""
    found = UnpackedKernel("9.9", "9.9-test", directory)
    found.modules.mkdir(parents=True)
    (found.modules / "modules.dep").write_text(dep)
    return found


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    """A chain of needs is loaded from its far end, each module once; one that is built in has no file."""
    dep = """\
kernel/a-far.ko:
kernel/near.ko: kernel/a-far.ko
kernel/wanted.ko: kernel/near.ko kernel/a-far.ko
kernel/sub/also_wanted.ko.xz: kernel/a-far.ko
kernel/unwanted.ko:
"""
    found = kernel(tmp_path, dep)
    files = module_files(found.modules, ["wanted", "also-wanted", "built_in"])
    assert [path.name for path in files] == ["a-far.ko", "near.ko", "wanted.ko", "also_wanted.ko.xz"]


def test_compressed_modules_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest's insmod reads plain files, so the archive holds them so, and lists them in order."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "cache"))
    found = kernel(tmp_path, "virtio_console.ko.xz:\nvirtio_blk.ko: virtio_console.ko.xz\n")
    (found.modules / "virtio_console.ko.xz").write_bytes(lzma.compress(b"console"))
    (found.modules / "virtio_blk.ko").write_bytes(b"blk")
    content = {name: data for name, _, data in read_cpio(initramfs(found, "disk").read_bytes())}
    assert content["modules/virtio_console.ko"] == b"console"
    assert content["modules/order"] == b"virtio_console.ko\nvirtio_blk.ko\n"
    assert content["init"].startswith(b"#!/bin/busybox sh")
    assert content["bin/busybox"].startswith(b"\x7fELF")


def test_built_again_only_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same inputs give the same file, untouched; another module another one."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "cache"))
    found = kernel(tmp_path, "virtio_blk.ko:\n")
    (found.modules / "virtio_blk.ko").write_bytes(b"one")
    first = initramfs(found, "disk")
    written = first.stat().st_mtime_ns
    assert initramfs(found, "disk") == first
    assert first.stat().st_mtime_ns == written
    (found.modules / "virtio_blk.ko").write_bytes(b"another")
    assert initramfs(found, "disk") != first
