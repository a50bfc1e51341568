"""What debug information adds: functions as gcc compiled them (tests/data/debuginfo/net/held.c), and facts by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.minikernel import BASE, MiniKernel

from klasy.dwarf.elf import ElfFile
from klasy.flow import sites
from klasy.flow.debuginfo import Facts
from klasy.flow.index import Index
from klasy.kernel.kallsyms import Symbols

HELD = Path(__file__).parents[2] / "data" / "debuginfo" / "held.elf"
TYPES = """
struct part { int x; int y; };
struct item { int a; int b; struct item *next; struct part part; long c; };
struct holder { long count; struct part *payload; };
""" + "".join(f"struct box{n} {{ int a; int b; struct box{n} *next; struct part part; }};" for n in range(4))
PROTOTYPES = """
int by_void(void *data); int by_inlined(void *data); int by_part(struct part *part); int by_cast(struct holder *holder);
int by_slot(void *data, void *other); int by_cold(void *data, int value); int by_members(void *data);
int outside(int value); int seldom(int value); int begin(void);
"""


class ElfKernel(MiniKernel):
    """A kernel whose text and functions are those of held.elf, elsewhere than it was linked to lie."""

    def __init__(self, declarations: str = TYPES + PROTOTYPES) -> None:
        from elftools.elf.elffile import ELFFile

        super().__init__(declarations, {}, build_id=ElfFile(str(HELD)).build_id)
        with HELD.open("rb") as stream:
            file = ELFFile(stream)
            text = file.get_section_by_name(".text")
            shift = BASE - text["sh_addr"]
            self._text = text.data()
            listed = file.get_section_by_name(".symtab").iter_symbols()
            functions = [s for s in listed if s["st_info"].type == "STT_FUNC"]
        found = sorted((s["st_value"] + shift, s["st_size"], s.name.encode()) for s in functions)
        starts, ends = [start for start, _, _ in found], [start + size for start, size, _ in found]
        self._symbols = Symbols.build(BASE, starts, ends, [name for _, _, name in found])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as packages of debug information leave it; what is kept is kept beside it."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "boot").mkdir()
    shutil.copy(HELD, tmp_path / "boot" / "vmlinux-6.1.0-mini")
    return str(tmp_path)


@pytest.fixture
def kernel(root: str) -> ElfKernel:
    """The kernel with its debug information."""
    found = ElfKernel()
    found.seek_debug_info(root)
    return found


def test_variables_type_what_prototypes_do_not(kernel: ElfKernel) -> None:
    """A void pointer's copy in a variable, one in an inlined function, in a slot, in an unlikely piece, or computed
    from the register: each access is a site only with debug information, which the derivation names."""
    asked = "item.a", "item.b", "item.part.y"
    alone = kernel.ask(*asked, debug_info=False)
    assert {(site.function.name, site.members[0].path) for site in alone.accesses} == set()
    found = kernel.ask(*asked)
    assert {
        (site.function.name, site.members[0].path, site.base_register, site.base_offset, site.derivation)
        for site in found.accesses
    } == {
        ("by_void", "b", "di", 0, "by debug information: variable 'it'"),
        ("by_inlined", "part.y", "di", 0, "by debug information: variable 'inlined'"),
        ("by_part", "b", "di", 16, "by debug information: variable 'whole'"),
        ("by_part", "a", "bp", 16, "by debug information: variable 'whole'"),
        ("by_cast", "b", "ax", 0, "by debug information: variable 'it'"),
        ("by_slot", "b", "ax", 0, "by debug information: variable 'spilled'"),
        ("by_cold.cold", "a", "bx", 0, "by debug information: variable 'it'"),
    }
    assert {site.confidence for site in found.accesses} == {sites.PROVED}
    assert [kernel.function_at(one.address).name for one in found.unknown] == ["by_members"]  # no variable has it


def test_what_is_known_stays(kernel: ElfKernel) -> None:
    """What follows from a prototype keeps its derivation where the variable says the same."""
    (site,) = kernel.ask("holder.payload").accesses
    assert site.derivation == "argument 1 of by_cast (struct holder *)"


def test_a_question_reaches_them(kernel: ElfKernel) -> None:
    """Functions whose prototype does not lead to the struct are looked at where a variable does."""
    found = kernel.ask("item.part.y", whole=False)
    assert [site.function.name for site in found.accesses] == ["by_inlined"]
    assert not kernel.ask("item.part.y", whole=False, debug_info=False).accesses


def test_several_processes(kernel: ElfKernel) -> None:
    """Workers find the same."""
    assert kernel.ask("item.b", processes=3).accesses == kernel.ask("item.b").accesses


def test_kept_apart(kernel: ElfKernel, root: str) -> None:
    """What was found without debug information does not stand in the way once that is installed, nor the other way
    round; both are kept."""
    member = kernel.member("item.b")

    def count(asked: MiniKernel) -> int:
        return len(Index(asked, processes=1).accesses([member], whole=True).accesses)

    assert count(ElfKernel()) == 0
    assert count(kernel) == 4
    assert count(ElfKernel()) == 0
    kept = {path.name for path in (Path(root) / "cache").glob("flow-*") if "answer" not in path.name}
    assert len(kept) == 2
    assert {name.endswith("-debug") for name in kept} == {True, False}


def test_another_build(root: str) -> None:
    """Debug information of another build tells nothing."""
    kernel = ElfKernel()
    kernel.build_id = "cd" * 20
    kernel.seek_debug_info(root)
    assert not kernel.ask("item.b").accesses


def test_damaged(kernel: ElfKernel, root: str) -> None:
    """Where debug information is damaged, all is as without it."""
    path = Path(root) / "boot" / "vmlinux-6.1.0-mini"
    header = next(h for h in ElfFile(str(path)).headers if h.name == ".debug_abbrev")
    content = bytearray(path.read_bytes())
    content[header.offset : header.offset + header.size] = b"\xff" * header.size
    path.write_bytes(content)
    assert not kernel.ask("item.b").accesses


@pytest.mark.parametrize(
    "declared",
    [
        "struct item { int a; int b; struct item *next; struct part part; long c; long more; };",
        "union item { int a; int b; long c[5]; };",
    ],
)
def test_types_that_are_not_those_of_btf(root: str, declared: str) -> None:
    """A struct of another size, or a union of the name, is another type."""
    kernel = ElfKernel(f"struct part {{ int x; int y; }}; {declared} struct holder {{ long count; }}; {PROTOTYPES}")
    kernel.seek_debug_info(root)
    assert len(kernel.ask("part.x", "holder.count").accesses) == 1  # the part's own
    index = Index(kernel, use_cache=False, processes=1)
    rows = [row for text in [index.engine.text(None)] for unit in text.units() for row in _rows(index, unit)]
    assert not [row for row in rows if "'it'" in row.reason or "'inlined'" in row.reason]


# --- facts by hand

TWO = """
struct tiny { int a; };
struct small { int a; int b; int c; int d; };
struct large { int a; int b; struct small inner; struct small *link; };
int f(struct small *given, void *other);
"""
READ = ["8b 47 04", "8b 46 04", "c3"]  # mov 0x4(%rdi),%eax; mov 0x4(%rsi),%eax


def _rows(index: Index, unit: int):
    from klasy.flow.cfg import Unit

    return index.engine.rows(Unit(index.engine.text(None), unit))


def told(*facts: tuple[int, str, int, str]) -> list[tuple[str, int, str]]:
    """Type, offset and derivation of the accesses of f, where registers hold what variables are said to point to."""
    kernel = MiniKernel(TWO, {"f": READ})
    index = Index(kernel, use_cache=False, processes=1)
    types = index.engine.seeds.types_of(None)
    spans: dict = {}
    for register, struct, offset, name in facts:
        place = index.engine.seeds.by_name(struct), offset
        spans.setdefault((register, None), []).append((0, 0x100, place, name))

    index.engine.debug = SimpleNamespace(of=lambda unit: Facts(spans))
    return [(types.name(row.type_id) if row.type_id else "", row.offset, row.reason) for row in _rows(index, 0)]


DI, SI = 7, 6
ARGUMENT = "argument 1 of f (struct small *)"


def test_a_larger_object_counts() -> None:
    """A variable of a struct that holds what the prototype says is that struct, and one of a part leaves it."""
    found = told((DI, "large", 8, "whole"))
    assert found[0] == ("struct large", 12, "by debug information: variable 'whole'")
    assert told((DI, "small", 0, "same"))[0] == ("struct small", 4, ARGUMENT)


def test_contradiction() -> None:
    """A variable of another struct in the same place is right; one of an object behind, or within, says nothing."""
    assert told((DI, "large", 0, "cast"))[0] == (
        "struct large", 4, "by debug information: variable 'cast'",
    )  # fmt: skip
    assert told((DI, "large", -16, "behind"))[0] == ("struct small", 4, ARGUMENT)
    assert told((DI, "tiny", -8, "kept_in_bytes"))[0] == ("struct small", 4, ARGUMENT)


def test_variables_that_differ() -> None:
    """Of several variables the whole counts, and the object pointed into before one behind it; of two that cannot both
    be, none."""
    whole = (SI, "large", 0, "whole")
    assert told(whole, (SI, "small", -8, "part"))[1] == (
        "struct large", 4, "by debug information: variable 'whole'",
    )  # fmt: skip
    assert told(whole, (SI, "small", -32, "private"))[1][0] == "struct large"
    assert told(whole, (SI, "small", 0, "cast"))[1] == ("", 4, "")


def test_variables_in_other_places() -> None:
    """What is cast to one struct here and to another there is at each access what the variables there say."""
    index = Index(MiniKernel(TWO, {"f": ["8b 46 04", "8b 46 08", "8b 46 0c", "c3"]}), use_cache=False, processes=1)
    small, large = (index.engine.seeds.by_name(name) for name in ("small", "large"))
    spans = {(SI, None): [(0, 3, (small, 0), "one"), (3, 6, (large, 0), "other")]}
    index.engine.debug = SimpleNamespace(of=lambda unit: Facts(spans))
    assert [(row.type_id, row.reason) for row in _rows(index, 0)] == [
        (small, "by debug information: variable 'one'"),
        (large, "by debug information: variable 'other'"),
        (0, ""),
    ]


def test_nodes_of_lists() -> None:
    """A list's node, from which the variable of the loop is computed, is a part of that variable's object, even if the
    node is a variable itself."""
    types = """
    struct list_head { struct list_head *next; struct list_head *prev; };
    struct entry { int a; int b; struct list_head node; };
    struct other { long a; struct list_head node; };
    int f(struct list_head *head);
    """
    code = [
        "48 8b 07",  # mov (%rdi),%rax
        "48 3b 38",  # cmp (%rax),%rdi
        "48 8d 48 f8",  # lea -0x8(%rax),%rcx
        "eb 0a",  # jmp to the loop's test
        "48 8b 00",  # mov (%rax),%rax
        "48 3b 38",  # cmp (%rax),%rdi
        "48 8d 48 f8",  # lea -0x8(%rax),%rcx
        "8b 50 fc",  # mov -0x4(%rax),%edx: the entry's b
        "83 39 00",  # cmpl $0,(%rcx): its a
        "75 ee",  # jne
        "c3",
    ]
    index = Index(MiniKernel(types, {"f": code}), use_cache=False, processes=1)
    node, entry = (index.engine.seeds.by_name(name) for name in ("list_head", "entry"))
    spans = {(0, None): [(3, 0x20, (node, 0), "pos")], (1, None): [(0x16, 0x20, (entry, 0), "each")]}
    index.engine.debug = SimpleNamespace(of=lambda unit: Facts(spans))
    (row,) = [row for row in _rows(index, 0) if row.at == 0x16]
    assert (row.type_id, row.offset, row.reason) == (entry, 4, "by debug information: variable 'each'")
