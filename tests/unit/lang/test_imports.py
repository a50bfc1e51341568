"""Imports: what a file sees of others, what it may read, and what is said of those that cannot be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from klasy import resources
from klasy.cli.sources import read_source
from klasy.diag import render
from klasy.errors import InputError
from klasy.lang import ast, load
from klasy.lang.walk import nodes
from klasy.source import MAX_SIZE, SourceFile

if TYPE_CHECKING:
    from pathlib import Path

RECEIVE = """
aspect tcp {
    pointcut rcv(struct sock *sk): execution(tcp_rcv_established(struct sock *sk, ..)) && here();
    pointcut here(): within(tcp_*);
    before(struct sock *s): rcv(s) { log(s->sk_num); }
}
"""
USER = "aspect user { before(struct sock *sock): tcp.rcv(sock) { log(sock->sk_num); } }"


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file, by its path below a folder of its own, and gives its whole path."""

    def work(name: str, text: str) -> str:
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return work


def said(path: str) -> str:
    """The errors of a file, as the user reads them, with the names of files cut to their last two parts."""
    with pytest.raises(InputError) as caught:
        load(read_source(path))
    text = "\n".join(render(d) for d in caught.value.diagnostics)
    return text.replace(os.path.dirname(path) + "/", "")


def test_a_named_pointcut(write):
    """A pointcut of an imported aspect is put in place, with what it uses there and the names given here."""
    write("lib/tcp.asp", RECEIVE)
    path = write("main.asp", f'import "lib/tcp.asp";\n{USER}')
    (aspect,) = load(read_source(path))
    pointcut = aspect.advice[0].pointcut
    assert not any(isinstance(n, ast.PointcutRef) for n in nodes(pointcut))
    execution, within = (n for n in nodes(pointcut) if isinstance(n, ast.Execution | ast.Within))
    assert execution.signature.params[0].name == "sock"
    assert within.signature.name == "tcp_*"
    assert [file.name for file in aspect.imports] == [f"{os.path.dirname(path)}/lib/tcp.asp"]
    assert aspect.name == "user"  # and tcp is not woven


def test_several_ways_to_a_file(write):
    """A file that is reached twice is read once; the path is from the file that imports, also upwards."""
    write("lib/tcp.asp", RECEIVE)
    write("lib/more.asp", 'import "../lib/tcp.asp"; aspect more { before(): tcp.here() && call(f) {} }')
    path = write("main.asp", f'import "lib/tcp.asp"; import "lib/more.asp"; {USER}')
    (aspect,) = load(read_source(path))
    assert len(aspect.imports) == 2


def test_pointcuts_in_one_file():
    """The aspects of one file see each other without an import."""
    user, _ = load(SourceFile("a.asp", USER + RECEIVE))
    assert any(isinstance(n, ast.Within) for n in nodes(user.advice[0].pointcut))


def test_a_ring_of_pointcuts_through_two_aspects():
    """Aspects of one file can use each other's pointcuts, but no pointcut itself by way of another."""
    text = """
aspect a { pointcut p(): b.q(); before(): p() {} }
aspect b { pointcut q(): a.p(); before(): q() {} }
"""
    with pytest.raises(InputError) as caught:
        load(SourceFile("a.asp", text))
    assert "recursive-pointcut" in {d.code for d in caught.value.diagnostics}


def test_state_of_another(write):
    """A pointcut that tests the state of its aspect serves no other, for that has no such state."""
    write("lib.asp", "aspect lib { u64 on; pointcut p(): call(f) && if(on); before(): p() { on = 1; } }")
    path = write("main.asp", 'import "lib.asp"; aspect a { before(): lib.p() {} }')
    text = said(path)
    assert "main.asp:1:40: error: pointcut 'lib.p' tests 'on', which only its own aspect has [foreign-state]" in text
    assert "lib.asp:1:50: note: tested here" in text


def test_unknown_names(write):
    """A name that is not there: with the near one, and with where it would be found."""
    write("deep.asp", "aspect deep { pointcut p(): call(f); before(): p() {} }")
    write("tcp.asp", f'import "deep.asp"; {RECEIVE}')
    path = write("main.asp", 'import "tcp.asp"; aspect a { before(): tcp.rvc(..) || tpc.rcv(..) || deep.p() {} }')
    text = said(path)
    assert "aspect 'tcp' has no pointcut 'rvc' [unknown-pointcut]" in text
    assert "did you mean 'tcp.rcv'?" in text
    assert "there is no aspect 'tpc' here [unknown-aspect]" in text
    assert "did you mean 'tcp'?" in text
    assert "hint: it is in 'deep.asp': this file must import it, too" in text


def test_errors_of_an_imported_file(write):
    """All errors come in one go, each in its own file, the first of each with the import that led there."""
    write("lib/tcp.asp", "aspect t {\n    before(int x): call(f) {}\n    before(): p() {}\n}\n")
    path = write("main.asp", 'import "lib/tcp.asp";\naspect a { before(int y): call(f) {} }')
    first, _, text = said(path).partition("\n")
    assert (
        first == "lib/tcp.asp:2:12: error: this advice's pointcut does not bind the parameter 'x' [unbound-parameter]"
    )
    assert text == """\
    2 |     before(int x): call(f) {}
      |            ^^^^^
lib/tcp.asp:2:20: note: the pointcut
    2 |     before(int x): call(f) {}
      |                    ^^^^^^^
main.asp:1:1: note: imported here
    1 | import "lib/tcp.asp";
      | ^^^^^^^^^^^^^^^^^^^^^
  hint: name it in the signature: 'f(int x, ..)'
lib/tcp.asp:3:15: error: there is no pointcut 'p' [unknown-pointcut]
    3 |     before(): p() {}
      |               ^^^
main.asp:2:19: error: this advice's pointcut does not bind the parameter 'y' [unbound-parameter]
    2 | aspect a { before(int y): call(f) {} }
      |                   ^^^^^
main.asp:2:27: note: the pointcut
    2 | aspect a { before(int y): call(f) {} }
      |                           ^^^^^^^
  hint: name it in the signature: 'f(int y, ..)'"""  # fmt: skip


def test_a_broken_file_hides_nothing(write):
    """Where an imported file cannot be read as a whole, what it may have is not said to be missing."""
    write("lib.asp", "aspect lib { pointcut p() call(f); before(): p() {} }")
    path = write("main.asp", 'import "lib.asp"; aspect a { before(): lib.p() {} }')
    text = said(path)
    assert text.startswith("lib.asp:1:26: error: ")
    assert "main.asp:1:40" not in text


def test_a_cycle(write):
    """Files that import each other, or themselves, are refused with all places of the ring."""
    write("b.asp", 'import "a.asp"; aspect b { before(): call(f) {} }')
    path = write("a.asp", 'import "b.asp"; import "a.asp"; aspect a { before(): call(f) {} }')
    text = said(path)
    assert "b.asp:1:1: error: 'a.asp' is imported while it is being read: it imports this file itself" in text
    assert "a.asp:1:1: note: it is on the way here by this import" in text
    assert "a.asp:1:17: error: 'a.asp' is this file itself [import-cycle]" in text


def test_twice(write):
    """One file imported twice, by whatever names, is an error that shows both places."""
    write("b.asp", "aspect b { before(): call(f) {} }")
    os.symlink("b.asp", write("x", "") + "c.asp")
    path = write("a.asp", 'import "b.asp";\nimport "xc.asp";\naspect a { before(): call(f) {} }')
    text = said(path)
    assert "a.asp:2:1: error: 'xc.asp' is imported twice [imported-twice]" in text
    assert "a.asp:1:1: note: the first time" in text


def test_names_of_aspects(write):
    """Two aspects that are read together cannot have one name."""
    write("b.asp", "aspect a { before(): call(f) {} }")
    path = write("a.asp", 'import "b.asp";\naspect a { before(): call(f) {} }')
    text = said(path)
    assert "a.asp:2:8: error: two aspects are named 'a', and one of them is imported [duplicate-aspect]" in text
    assert "b.asp:1:8: note: the other is here" in text


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("../outside.asp", "import-outside"), ("link.asp", "import-outside"), ("folder/outside.asp", "import-outside"),
        ("/etc/passwd.asp", "import-outside"), ("dangling.asp", "import-outside"), ("lib", "bad-import"),
        ("", "bad-import"), ("a\\nb.asp", "bad-import"), ("pipe.asp", "bad-import"), ("dir.asp", "bad-import"),
        ("nothing.asp", "missing-import"), ("no/where.asp", "missing-import"), ("large.asp", "unreadable-import"),
        ("binary.asp", "unreadable-import"), ("latin.asp", "unreadable-import"),
    ],
)  # fmt: skip
def test_what_is_refused(written, code, write, tmp_path):
    """Nothing outside the folder is read, not by links either; nor what is no text file. The error shows the import."""
    (tmp_path / "outside.asp").write_text("aspect secret { before(): call(f) {} }")
    home = os.path.dirname(write("lib.asp", ""))
    os.symlink("../outside.asp", f"{home}/link.asp")
    os.symlink("..", f"{home}/folder")
    os.symlink("/nowhere", f"{home}/dangling.asp")
    os.mkfifo(f"{home}/pipe.asp")
    os.mkdir(f"{home}/dir.asp")
    write("large.asp", " " * (MAX_SIZE + 1))
    with open(f"{home}/binary.asp", "wb") as file:
        file.write(b"aspect \0")
    with open(f"{home}/latin.asp", "wb") as file:
        file.write(b"// \xe9\xe9")
    path = write("main.asp", f'import "{written}";\naspect a {{ before(): call(f) {{}} }}')
    with pytest.raises(InputError) as caught:
        load(read_source(path))
    (error,) = caught.value.diagnostics
    assert error.code == code
    assert error.span is not None
    assert (error.span.line, error.span.column) == (1, 1)
    assert "secret" not in render(error)


def test_a_near_name(write):
    """A file that is missing is told with one of nearly its name."""
    write("lib/tcp.asp", RECEIVE)
    path = write("main.asp", 'import "lib/tpc.asp"; aspect a { before(): call(f) {} }')
    assert "there is no file 'lib/tpc.asp' beside 'main.asp' [missing-import]" in said(path)
    assert "did you mean 'lib/tcp.asp'?" in said(path)


def test_what_ships_with_klasy(write, tmp_path, monkeypatch):
    """A ready aspect is imported by its name, unless a file of the same name lies beside; by it others that ship."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "tcp.asp").write_text('import "base.asp";' + RECEIVE.replace("within(tcp_*)", "base.here()"))
    (folder / "base.asp").write_text("aspect base { pointcut here(): within(f); before(): call(f) {} }")
    monkeypatch.setattr(resources, "aspects_folder", lambda: str(folder))
    path = write("main.asp", f'import "tcp.asp"; {USER}')
    (aspect,) = load(read_source(path))
    assert [file.name for file in aspect.imports] == ["klasy/aspects/tcp.asp", "klasy/aspects/base.asp"]
    (aspect,) = load(SourceFile("<stdin>", f'import "tcp.asp"; {USER}'))  # for what is no file, too
    assert len(aspect.imports) == 2
    write("tcp.asp", RECEIVE)
    (aspect,) = load(read_source(path))
    assert [file.path for file in aspect.imports] == [f"{os.path.dirname(path)}/tcp.asp"]


def test_what_is_no_file(tmp_path, monkeypatch):
    """A text that is no file imports nothing from the current directory."""
    (tmp_path / "tcp.asp").write_text(RECEIVE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load(SourceFile("<stdin>", f'import "tcp.asp"; {USER}'))
    assert "what is no file can import nothing else [missing-import]" in render(caught.value.diagnostics[0])
