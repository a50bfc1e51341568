"""Caches that are never trusted and never needed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.kernel import caches


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "deep" / "cache"))


def test_round_trip():
    """What was stored is loaded, the folder is made, and no draft is left."""
    assert caches.store("name", 3, b"contents")
    assert bytes(caches.load("name", 3)) == b"contents"
    assert os.listdir(caches.folder()) == ["name"]


def test_nothing_there():
    """A cache that was never written is none."""
    assert caches.load("name", 1) is None


def test_mapped():
    """What is kept to be mapped is its contents alone; not by others, not of others, and nothing is nothing."""
    assert caches.load_mapped("types") is None
    assert caches.store_mapped("types", b"contents")
    mapped = caches.load_mapped("types")
    assert mapped is not None
    assert (len(mapped), mapped[2:5]) == (8, b"nte")
    path = os.path.join(caches.folder(), "types")
    os.chmod(path, 0o664)
    assert caches.load_mapped("types") is None
    os.chmod(path, 0o644)
    os.truncate(path, 0)
    assert caches.load_mapped("types") is None


def test_another_version():
    """Contents of another version are not taken."""
    caches.store("name", 3, b"contents")
    assert caches.load("name", 4) is None


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_files_that_others_may_write(mode):
    """A file that the group or the world may write is not trusted."""
    caches.store("name", 1, b"contents")
    os.chmod(os.path.join(caches.folder(), "name"), mode)
    assert caches.load("name", 1) is None


def test_files_of_others(monkeypatch):
    """A file of another user than root is not trusted."""
    caches.store("name", 1, b"contents")
    if os.geteuid() == 0:
        os.chown(os.path.join(caches.folder(), "name"), 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert caches.load("name", 1) is None


def test_links_are_not_followed():
    """A symbolic link in the place of a file is not trusted."""
    caches.store("real", 1, b"contents")
    os.symlink("real", os.path.join(caches.folder(), "name"))
    assert caches.load("name", 1) is None


@given(st.integers(0, 33), st.integers(1, 255))
def test_damage_is_noticed(at, change):
    """A change of any byte, of the head or of the contents, is noticed."""
    caches.store("name", 1, b"contents of it")
    path = os.path.join(caches.folder(), "name")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data[at % len(data)] ^= change
    with open(path, "wb") as file:
        file.write(data)
    assert caches.load("name", 1) is None


def test_cut_short():
    """A file that is cut short, or empty, is noticed."""
    caches.store("name", 1, b"contents")
    path = os.path.join(caches.folder(), "name")
    for size in (20, 5, 0):
        os.truncate(path, size)
        assert caches.load("name", 1) is None


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    """Where nothing can be kept, store says so and raises nothing."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "file" / "cache"))
    assert caches.store("name", 1, b"contents") is False
    assert caches.load("name", 1) is None


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=20), max_size=5))
def test_packing(parts):
    """Named parts survive, and a cut is noticed."""
    data = caches.pack(parts)
    assert {name: bytes(part) for name, part in caches.unpack(memoryview(data)).items()} == parts
    if data:
        with pytest.raises(ValueError, match="cut short"):
            caches.unpack(memoryview(data)[:-1])
