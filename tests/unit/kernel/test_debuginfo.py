"""Debug information of a kernel: which file it is in, and what it tells of source files and lines."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from klasy.dwarf.elf import ElfFile
from klasy.kernel.debugfiles import DebugInfo, NoDebugInfo
from klasy.kernel.dwarf_source import ObjectDebug, from_root

DATA = Path(__file__).parents[2] / "data" / "debuginfo"
LINKED, MODULE = DATA / "linked5.elf", DATA / "module.ko"
TEXT = 0x1000000  # where it was linked to lie
SLIDE = 0xFFFF_FFFF_9A00_0000


def _symbols(path: Path) -> dict[str, int]:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        return {s.name: s["st_value"] for s in ELFFile(file).get_section_by_name(".symtab").iter_symbols() if s.name}


SYMBOLS = _symbols(LINKED)


class Kernel:
    """What DebugInfo asks of a kernel: one that booted ``slide`` from where it was linked to lie."""

    release = "6.1.0-test"

    def __init__(self, slide: int = SLIDE, build_id: str = "", modules: tuple[str, ...] = ()) -> None:
        self.build_id = build_id or ElfFile(str(LINKED)).build_id or ""
        self.symbols = {None: SimpleNamespace(base=slide, end=slide + 0x1000)}
        self._modules = modules

    def modules(self):
        return self._modules

    def build_id_of(self, module):
        return "1122334455667788990011223344556677889900"

    def module_sections(self, module):
        return {".text": 0x5000_0000}

    def object_at(self, address):
        if SLIDE <= address < SLIDE + 0x1000:
            return None, None
        return ("core", None) if 0x5000_0000 <= address < 0x5000_1000 and self._modules else None


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """A folder as packages of debug information leave it."""
    (tmp_path / "boot").mkdir()
    shutil.copy(LINKED, tmp_path / "boot" / "vmlinux-6.1.0-test")
    return str(tmp_path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept is kept here."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _live(name: str, offset: int = 0) -> int:
    return SYMBOLS[name] - TEXT + SLIDE + offset


def test_nothing_is_installed(tmp_path: Path) -> None:
    """The error names the package, to the letter."""
    with pytest.raises(NoDebugInfo) as caught:
        DebugInfo(Kernel(), str(tmp_path)).check()
    assert "no debug information of the kernel (6.1.0-test)" in caught.value.message
    assert caught.value.hint == "apt-get install linux-image-6.1.0-test-dbg"
    assert DebugInfo(Kernel(), str(tmp_path)).places([_live("begin")]) == {}


def test_another_build(installed: str) -> None:
    """Of another build nothing is believed: the error gives both build ids."""
    with pytest.raises(NoDebugInfo) as caught:
        DebugInfo(Kernel(build_id="ab" * 20), installed).check()
    assert "another build" in caught.value.message
    assert "ab" * 20 in caught.value.message
    assert ElfFile(str(LINKED)).build_id in caught.value.message


def test_damaged(installed: str) -> None:
    """A file whose units cannot be read is an error that names it."""
    path = Path(installed) / "boot" / "vmlinux-6.1.0-test"
    header = next(h for h in ElfFile(str(path)).headers if h.name == ".debug_info")
    content = bytearray(path.read_bytes())
    content[header.offset + 4] = 77  # the version
    path.write_bytes(content)
    with pytest.raises(NoDebugInfo, match="cannot be read: it is in version 77 of DWARF"):
        DebugInfo(Kernel(), installed).check()


def test_by_build_id(tmp_path: Path) -> None:
    """A file under its build id is found, too."""
    build_id = Kernel().build_id
    folder = tmp_path / ".build-id" / build_id[:2]
    folder.mkdir(parents=True)
    shutil.copy(LINKED, folder / f"{build_id[2:]}.debug")
    assert "net/core.c" in DebugInfo(Kernel(), str(tmp_path)).files()


def test_files_of_functions(installed: str) -> None:
    """A function's file is the one that was compiled, or the .c file that this one includes; headers are no files."""
    info = DebugInfo(Kernel(), installed)
    assert info.files() == {"net/core.c", "net/part.c", "net/other.c"}
    expected = {
        "begin": "net/core.c", "again": "net/core.c", "part_of_it": "net/part.c", "outside": "net/other.c",
        "measure": "net/other.c",
    }  # fmt: skip
    for file in info.files():
        lies = info.within(lambda name, file=file: name == file)
        for name, its in expected.items():
            function = SimpleNamespace(address=_live(name), module=None, in_program=False)
            assert lies(function) == (its == file)
        assert not lies(SimpleNamespace(address=_live("begin") + 0x10000, module=None, in_program=False))
        assert not lies(SimpleNamespace(address=_live("begin"), module="/lib/libc.so.6", in_program=True))


def test_lines_of_instructions(installed: str) -> None:
    """Every instruction's line is what the file's own table says, moved by where the kernel lies."""
    from elftools.elf.elffile import ELFFile

    info = DebugInfo(Kernel(), installed)
    expected = {}
    with LINKED.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            names = [entry.name.decode() for entry in program.header["file_entry"]]
            states = [e.state for e in program.get_entries() if e.state is not None]
            for state, following in pairwise(states):
                if not state.end_sequence:
                    for address in range(state.address, following.address):
                        expected[address - TEXT + SLIDE] = names[state.file], state.line
    found = info.places(expected)
    assert {address: (place.file.rpartition("/")[2], place.line) for address, place in found.items()} == expected
    assert {place.file for place in found.values()} == {"net/core.c", "net/part.c", "net/other.c", "include/queue.h"}


def _line_of(text: str, file: str) -> int:
    lines = (DATA / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def _rows_of(name: str) -> set[tuple[int, int]]:
    """Address and line of the rows of a file, as pyelftools reads them."""
    from elftools.elf.elffile import ELFFile

    found = set()
    with LINKED.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            names = [entry.name.decode() for entry in program.header["file_entry"]]
            states = [e.state for e in program.get_entries() if e.state is not None]
            found |= {(state.address, state.line) for state in states if names[state.file] == name}
    return found


def test_beginnings(installed: str) -> None:
    """A line begins once in each function and in each inlined copy that it is part of."""
    info = DebugInfo(Kernel(), installed)
    line = _line_of("return outside(number)", "net/core.c")  # of twice(), which is inlined into two functions
    first, second = info.beginnings("net/core.c", line)
    ends = sorted([*(_live(name) for name in ("begin", "again", "part_of_it", "outside", "measure")), SLIDE + 0x1000])

    def of(name: str) -> range:
        start = _live(name)
        return range(start, next(end for end in ends if end > start))

    assert {name for name in ("begin", "again") for place in (first, second) if place in of(name)} == {"begin", "again"}
    assert {(place - SLIDE + TEXT, line) for place in (first, second)} <= _rows_of("core.c")
    (only,) = info.beginnings("net/part.c", _line_of("sink = 1", "net/part.c"))
    assert only in of("part_of_it")
    assert info.beginnings("net/core.c", 1) == []
    assert line in info.lines("net/core.c")
    assert 1 not in info.lines("net/core.c")


def test_a_module(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's debug information is found beneath the same folder as the module, and lies where its sections do."""
    info = DebugInfo(Kernel(modules=("core",)), installed)
    target = Path(installed) / "core.ko"
    shutil.copy(MODULE, target)
    monkeypatch.setattr(DebugInfo, "_module_files", lambda self, module: iter([str(target)]))
    begin = 0x5000_0000 + _symbols(MODULE)["begin"]
    line = _line_of("int begin(", "net/core.c")
    found = info.places([begin, _live("begin")])
    assert found[begin] == found[_live("begin")]  # it is the same code
    assert found[begin].line in range(line, line + 4)
    lies = info.within(lambda name: name == "net/core.c")
    assert lies(SimpleNamespace(address=begin, module="core", in_program=False))


def test_what_is_kept(installed: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found of the units is kept by build id, and then not found again."""
    first = DebugInfo(Kernel(), installed)
    first.check()
    assert [path.name for path in cache.iterdir()] == [f"units-{Kernel().build_id}"]
    monkeypatch.setattr(ObjectDebug, "_make_index", lambda self: pytest.fail("it was kept"))
    second = DebugInfo(Kernel(), installed)
    assert second.of(None).units == first.of(None).units
    assert second.files() == first.files()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/build/x/linux-6.1/arch/x86/kernel/head_64.S", "arch/x86/kernel/head_64.S"),
        ("net/ipv4/tcp.c", "net/ipv4/tcp.c"),
        ("./include/linux/tcp.h", "include/linux/tcp.h"),
        ("kernel/sched/../time/timer.c", "kernel/time/timer.c"),
        ("/elsewhere/a.c", "/elsewhere/a.c"),
    ],
)
def test_names_of_files(path: str, expected: str) -> None:
    """Files are named from the root of the sources, however the compiler was given them."""
    assert from_root(path, "/build/x/linux-6.1") == expected
