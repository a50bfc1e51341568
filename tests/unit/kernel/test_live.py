"""The model of the running kernel, where its files can be made up; the rest: tests/kernel/test_kernel_live.py."""

from __future__ import annotations

import pytest
from support.fakekernel import FakeKernel

from klasy.btf.types import Struct
from klasy.kernel import caches
from klasy.kernel.live import LiveKernel

TYPES = bytes(FakeKernel("struct thing { int number; }; void see(struct thing *thing);").btf.blob._data)
PAGE = 4096


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Where a kernel has its types; they fill some pages."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "cache"))
    where = tmp_path / "sys/kernel/btf"
    where.mkdir(parents=True)
    (where / "vmlinux").write_bytes(TYPES + bytes(3 * PAGE))
    return where


def found(files) -> list[int]:
    """Where a new model of the kernel has the struct."""
    kernel = LiveKernel(str(files / "none"), str(files.parents[1]))
    assert kernel.btf is not None
    return kernel.btf.find("thing", Struct)


def test_types_are_kept(files):
    """The second time they come from what was kept, of which only the first page is compared."""
    expected = found(files)
    assert len(expected) == 1
    whole = (files / "vmlinux").read_bytes()
    (files / "vmlinux").write_bytes(whole[:PAGE] + b"x" * (len(whole) - PAGE))
    assert found(files) == expected
    (files / "vmlinux").write_bytes(b"x" * len(whole))
    with pytest.raises(Exception, match="not BTF"):
        found(files)


def test_types_kept_in_part_do_not_count(files):
    """A file of another size is not taken, and replaced."""
    expected = found(files)
    (name,) = [path.name for path in (files.parents[2] / "cache").iterdir() if path.name.startswith("types-")]
    assert caches.store_mapped(name, TYPES)
    assert found(files) == expected
    kept = caches.load_mapped(name)
    assert kept is not None
    assert kept[:] == (files / "vmlinux").read_bytes()


def test_where_types_lie_is_kept_at_the_end(files, monkeypatch):
    """What lists them is written when the process ends, and the next one has it mapped; a damaged one is made anew."""
    at_exit = []
    monkeypatch.setattr("atexit.register", lambda *call: at_exit.append(call))
    expected = found(files)
    assert [path.name for path in (files.parents[2] / "cache").iterdir() if path.name.startswith("btf-")] == []
    ((write, *arguments),) = at_exit
    write(*arguments)
    kernel = LiveKernel(str(files / "none"), str(files.parents[1]))
    assert kernel.btf is not None
    assert kernel.btf.blob.layout.strings is not None
    assert kernel.btf.find("thing", Struct) == expected
    assert len(at_exit) == 1
    caches.store_mapped(kernel._layout_name, b"x" * 100)
    assert found(files) == expected
    assert len(at_exit) == 2
