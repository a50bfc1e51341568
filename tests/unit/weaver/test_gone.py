"""Probes that went with their module, told from the kernel's list."""

from __future__ import annotations

from types import SimpleNamespace

from klasy.weaver.gone import Gone, gone

LIST = """ffffffffc04ce0f0  k  dummy_xmit+0x50  dummy [GONE]
ffffffffc04ce0c2  k  0xffffffffc04ce0c2 [GONE]
ffffffffc04d0000  r  other+0x0  other [FTRACE]
ffffffff81000000  k  vfs_read+0x0    [OPTIMIZED]
"""


def aspect(*points: tuple[int, str | None]):
    """An aspect with a probe of some points, each of which serves a join point."""
    rows = [[address, "f", 0, module] for address, module in points]
    return SimpleNamespace(document={"probes": [{"points": rows, "joinpoints": [[i] for i in range(len(rows))]}]})


def test_what_went_is_counted_by_join_point(tmp_path):
    """Points on the list as gone are, those in use and those of the kernel proper are not."""
    path = tmp_path / "list"
    path.write_text(LIST)
    points = [(0xFFFFFFFFC04CE0F0, "dummy"), (0xFFFFFFFFC04CE0C2, "dummy"), (0xFFFFFFFFC04D0000, "other")]
    assert gone(aspect(*points, (0xFFFFFFFF81000000, None)), str(path)) == Gone(2, ("dummy",))
    assert gone(aspect(*points[2:]), str(path)) is None


def test_nothing_is_asked_where_no_module_is_woven(tmp_path):
    """Nor is a list that cannot be read an error."""
    assert gone(aspect((1, None)), str(tmp_path / "nowhere")) is None
    assert gone(aspect((1, "dummy")), str(tmp_path / "nowhere")) is None
