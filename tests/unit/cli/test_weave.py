"""``klasy weave``: its sizes, and whose aspects it takes out."""

from __future__ import annotations

import pytest

from klasy.cli import weave
from klasy.cli.weave import _bytes, _Ours
from klasy.errors import UsageError
from klasy.weaver.woven import NotWoven


@pytest.mark.parametrize(
    ("text", "size"),
    [("64K", 1 << 16), ("1m", 1 << 20), ("3M", 1 << 22), ("1G", 1 << 30), ("1", 4096), ("4097", 8192), ("5000", 8192)],
)
def test_sizes(text, size):
    """A buffer is at least as large as was asked for, and of a size that the kernel takes."""
    assert _bytes(text) == size


@pytest.mark.parametrize("text", ["", "K", "1.5M", "many", "0", "-1K", "2G", "1T", "0x1000"])
def test_no_sizes(text):
    """What is no size, or none that a buffer can have, is wrong usage."""
    with pytest.raises(UsageError):
        _bytes(text)


class Woven:
    """A woven aspect, as a directory."""

    states = ()

    def __init__(self, path) -> None:
        self.name = path.name
        self.path = str(path)

    def hold(self) -> None:
        """There is nothing to hold."""

    def finish(self) -> None:
        """Nor to switch off."""

    def close(self) -> None:
        """Nor to close."""


@pytest.fixture
def gone(monkeypatch):
    """What was unwoven."""
    names = []
    monkeypatch.setattr("klasy.weaver.unweave.unweave", names.extend)
    return names


def test_only_what_was_woven_here_is_taken_out(tmp_path, gone):
    """An aspect that another klasy has taken out, or put in the place of ours, is left alone."""
    for name in ("mine", "replaced", "taken"):
        (tmp_path / name).mkdir()
    ours = _Ours([Woven(tmp_path / name) for name in ("mine", "replaced", "taken")])
    ours.hold()
    assert ours.there()
    (tmp_path / "keep-inode").mkdir()
    (tmp_path / "replaced").rename(tmp_path / "old")
    (tmp_path / "keep-inode").rename(tmp_path / "replaced")
    (tmp_path / "taken").rmdir()
    ours.take_out()
    assert gone == ["mine"]
    ours.take_out()
    assert gone == ["mine"]
    assert not ours.there()


def test_taken_out_between_the_look_and_the_deed(tmp_path, monkeypatch):
    """Who is a moment quicker is welcome."""

    def unweave(names):
        raise NotWoven(f"{names} is not woven")

    monkeypatch.setattr("klasy.weaver.unweave.unweave", unweave)
    _Ours([Woven(tmp_path)]).take_out()


def test_a_refused_weave_takes_nothing_out(tmp_path, gone, monkeypatch):
    """An aspect of the same name that somebody else has woven survives our failing to weave ours for a while."""
    from klasy.weaver.session import AlreadyWoven

    class Refused:
        recipes = ()

        def __init__(self, *_):
            pass

        def weave(self, *_):
            raise AlreadyWoven("the aspect 'a' is already woven")

        def keep(self):
            pass

    aspect = tmp_path / "a.asp"
    aspect.write_text("aspect a { pointcut execution(ip_rcv); before() { log(pid); } }")
    monkeypatch.setattr(weave, "_Artifacts", Refused)
    from klasy.cli.main import main

    for options in (["-f"], ["--for", "1s"], ["-f", "--replace"]):
        assert main(["weave", *options, str(aspect)]) == 1
    assert gone == []
