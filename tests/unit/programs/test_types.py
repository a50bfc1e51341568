"""Types of user programs as BTF: what their source says, as the compiler has laid it out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest

from klasy.btf.btf import Btf
from klasy.btf.types import Enum, Fwd, Struct, Typedef, Union
from klasy.btf.walk import find_member
from klasy.programs.debuginfo import DebugInfo, types_at
from klasy.programs.files import ProgramFile
from klasy.programs.types import Found, Wanted

SOURCE = r"""
enum colour { RED = -1, GREEN, BLUE = 7 };
typedef struct node node_t;
struct far { int away; };
struct inner { short a; char name[12]; };
union either { long whole; unsigned char bytes[8]; };
struct node {
	const char *label;
	struct node *next;
	struct far *far;
	struct inner in;
	union { int i; float f; };
	unsigned low : 3, high : 5;
	_Bool flag;
	enum colour colour;
	int grid[2][3];
	double weight;
	union either either;
	int (*hook)(int);
	struct later *later;
	node_t *kin;
	char rest[];
};
long f(struct node *n, enum colour c) { return n->next->grid[1][2] + c; }
"""
OTHER = "struct node { int other; }; struct later { int x; }; int g(struct node *n, struct later *l) { return 1; }"
LAYOUT = ["label", "next", "far", "in", "in.name", "i", "f", "flag", "colour", "grid", "weight", "either", "hook"]
LAYOUT += ["later", "kin", "rest"]

DATA = Path(__file__).parents[2] / "data" / "programs"

pytestmark = pytest.mark.skipif(which("gcc") is None, reason="compiles programs")


def compiled(folder: Path, *options: str) -> str:
    """A library of both sources."""
    for name, text in (("one.c", SOURCE), ("two.c", OTHER)):
        (folder / name).write_text(text)
    command = ["gcc", "-g", "-fPIC", "-shared", "-o", "lib.so", *options, "one.c", "two.c"]
    subprocess.run(command, check=True, cwd=folder)
    return str(folder / "lib.so")


def read(path: str, names: set[str], members: set[str] = frozenset(), functions: str = "f") -> Found:
    """Types by their names, as the units of some functions know them."""
    places = [(path, symbol.address) for symbol in ProgramFile(path).symbols() if symbol.name in functions]
    found = types_at(places, Wanted(frozenset(names), frozenset(members), frozenset(("BLUE",))))
    assert found is not None
    return found


@pytest.fixture(scope="module", params=["4", "5"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for each way to write it down."""
    return compiled(tmp_path_factory.mktemp("types"), f"-gdwarf-{request.param}")


def test_layout_is_the_compilers(library: str, tmp_path: Path) -> None:
    """Sizes and offsets of all members are what offsetof and sizeof say; bit-fields lie where they are set."""
    btf = Btf(read(library, {"node_t"}, {"next"}).data)
    (node,) = btf.find("node", Struct)
    prints = "".join(f'printf("%zu ", offsetof(struct node, {name}));' for name in LAYOUT)
    bits = "struct node n; memset(&n, 0, sizeof n); n.high = 31;"
    bits += " for (size_t i = 0; i < sizeof n; i++) if (((char *)&n)[i])"
    main = (
        f"#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n{SOURCE}"
        f'int main(void) {{ {prints} {bits} printf("%zu %d ", i, ((unsigned char *)&n)[i]); printf("%zu", sizeof n); }}'
    )
    subprocess.run(["gcc", "-x", "c", "-o", tmp_path / "main", "-"], input=main, text=True, check=True)
    told = [int(word) for word in subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout.split()]
    places = {name: find_member(btf, node, name.partition(".")[0]) for name in LAYOUT}
    places["in.name"] = find_member(btf, places["in"].type_id, "name")
    offsets = [place.bit_offset // 8 for place in places.values()]
    offsets[LAYOUT.index("in.name")] += offsets[LAYOUT.index("in")]
    assert offsets == told[: len(LAYOUT)]
    high = find_member(btf, node, "high")
    assert (high.bit_offset // 8, 31 << high.bit_offset % 8) == tuple(told[len(LAYOUT) : -1])
    assert high.bitfield_size == 5
    assert btf.size_of(node) == told[-1]


def test_kinds(library: str) -> None:
    """Each type is what the source says, in C's words; a negative constant makes an enumeration signed."""
    btf = Btf(read(library, {"node"}).data)
    (node,) = btf.find("node", Struct)
    members = {name: btf.c_name(find_member(btf, node, name).type_id) for name in LAYOUT if "." not in name}
    assert members == {
        "label": "const char *",
        "next": "struct node *",
        "far": "struct far *",
        "in": "struct inner",
        "i": "int",
        "f": "float",
        "flag": "_Bool",
        "colour": "enum colour",
        "grid": "int [2][3]",
        "weight": "double",
        "either": "union either",
        "hook": "int (*)(int)",
        "later": "struct later *",
        "kin": "node_t *",
        "rest": "char []",
    }
    colour = btf.type(btf.find("colour", Enum)[0])
    assert colour == Enum("colour", 4, True, (("RED", -1), ("GREEN", 0), ("BLUE", 7)))
    assert btf.find("either", Union)
    assert btf.find("node_t", Typedef)


def test_only_what_is_named_is_followed(library: str) -> None:
    """What a pointer leads to is there with its members where the member that holds it is named, else declared."""
    for members, kind in ((set(), Fwd), ({"far"}, Struct)):
        found = read(library, {"node"}, members)
        (far,) = Btf(found.data).find("far", Struct, Fwd)
        assert isinstance(Btf(found.data).type(far), kind)
    assert {"node", "far", "inner", "colour", "node_t"} <= set(found.names)
    assert found.several == frozenset()
    assert Btf(found.data).find_constant("BLUE")


def test_two_of_one_name(library: str) -> None:
    """Where the units of the functions mean different structs by a name neither is taken; a declaration finds its
    definition in the other."""
    found = read(library, {"node", "later"}, functions="fg")
    assert found.several == {"node"}
    btf = Btf(found.data)
    assert not btf.find("node", Struct)
    assert btf.find("later", Struct)


def test_nothing_is_known(tmp_path: Path) -> None:
    """Of a file without debug information, or an address that is no function's."""
    assert (
        types_at([(compiled(tmp_path, "-g0"), 0x1000)], Wanted(frozenset(("node",)), frozenset(), frozenset())) is None
    )


@pytest.mark.skipif(which("g++") is None, reason="compiles C++")
def test_classes(tmp_path: Path) -> None:
    """A class of C++ is a struct; what it inherits is reached as its own, a static member is in no object."""
    source = "struct base { int id; }; class worker : public base { public: static int all; long spent; base &boss; };"
    function = 'extern "C" long f(worker *w) { return w->spent + w->boss.id; }'
    command = ["g++", "-g", "-fPIC", "-shared", "-x", "c++", "-o", tmp_path / "lib.so", "-"]
    subprocess.run(command, input=f"{source} {function}", text=True, check=True)
    btf = Btf(read(str(tmp_path / "lib.so"), {"worker"}, {"boss"}).data)
    (worker,) = btf.find("worker", Struct)
    places = {name: find_member(btf, worker, name) for name in ("id", "spent", "boss", "all")}
    assert {name: place.bit_offset // 8 for name, place in places.items() if place} == {"id": 0, "spent": 8, "boss": 16}
    assert btf.c_name(places["boss"].type_id) == "struct base *"


def test_shortened(tmp_path: Path) -> None:
    """Types that dwz has put into another unit, or into another file, are found there; without that file nothing is
    told of them, and no half of it."""
    path = str(DATA / "items.so")
    btf = Btf(read(path, {"item", "state"}, {"name"}, "get1").data)
    (item,) = btf.find("item", Struct)
    members = {name: btf.c_name(find_member(btf, item, name).type_id) for name in ("place", "state", "counts")}
    assert members == {"place": "struct place", "state": "enum state", "counts": "long long int [4]"}
    assert btf.size_of(item) == 64
    (tmp_path / "items.so").write_bytes((DATA / "items.so").read_bytes())
    alone = str(tmp_path / "items.so")
    (symbol,) = (s for s in ProgramFile(alone).symbols() if s.name == "get1")
    assert types_at([(alone, symbol.address)], Wanted(frozenset(("item",)), frozenset(), frozenset())) is None


def test_functions_in_pieces(tmp_path: Path) -> None:
    """A function of which the compiler has put a part elsewhere is known by where it begins."""
    source = """struct job { int n; }; void stop(int) __attribute__((cold, noreturn));
    int done(struct job *job) { if (__builtin_expect(job->n < 0, 0)) { stop(job->n + 1); } return job->n; }"""
    for version in ("4", "5"):
        path = tmp_path / f"lib{version}.so"
        command = ["gcc", "-g", f"-gdwarf-{version}", "-O2", "-fPIC", "-shared", "-x", "c", "-o", path, "-"]
        subprocess.run(command, input=source, text=True, check=True)
        symbols = {symbol.name: symbol.address for symbol in ProgramFile(str(path)).symbols()}
        assert "done.cold" in symbols
        prototype = DebugInfo(str(path)).prototype(symbols["done"], ("done",))
        assert prototype is not None
        assert prototype.text == "int done(struct job *job)"
        assert DebugInfo(str(path)).prototype(symbols["done.cold"], ("done",)) is None
