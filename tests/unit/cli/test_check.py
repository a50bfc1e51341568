"""``klasy check`` where the kernel shows too little."""

from __future__ import annotations

from klasy.cli import check
from klasy.cli.main import main
from klasy.errors import SystemRefusal
from klasy.weaver import build


def test_what_was_not_checked_is_said_once(monkeypatch, tmp_path, capsys):
    """Of however many files, and behind what is wrong with them."""

    def refuse(_: object) -> None:
        raise SystemRefusal("the kernel shows nothing", hint="ask it")

    monkeypatch.setattr(build, "build", refuse)
    monkeypatch.setattr(check, "_check_names_and_types", lambda _: None)
    names = [str(tmp_path / name) for name in ("one.asp", "two.asp")]
    for name in names:
        (tmp_path / name).write_text("aspect a { before(): execution(vfs_read) { log(1); } }")
    assert main(["check", *names, str(tmp_path / "none.asp")]) == 1
    missing, said, hint = capsys.readouterr().err.splitlines()
    assert "none.asp: No such file" in missing
    assert said.startswith("klasy: not checked: ")
    assert said.endswith("be probed: the kernel shows nothing")
    assert hint == "  hint: ask it"
