"""C's types and conversions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compiling import compile_text
from support.fakekernel import FakeKernel

from klasy.btf.btf import Btf
from klasy.btf.types import Struct as BtfStruct
from klasy.btf.types import Typedef
from klasy.compiler.programtypes import ProgramTypes
from klasy.compiler.types import (
    BOOL,
    CHAR,
    INT,
    LONG,
    UINT,
    ULONG,
    VOID,
    Array,
    Bool,
    Char,
    Enum,
    Function,
    Incomplete,
    Integer,
    Opaque,
    Pointer,
    Struct,
    Types,
    Void,
    common,
    literal_type,
    pointer_to,
    promoted,
    same,
)
from klasy.kernel.snapshot import SnapshotKernel
from klasy.lang.ast import TagKind, TypeRef
from klasy.match.typeref import TypeRefError
from klasy.source import SourceFile, Span

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
SPAN = Span(SourceFile("test.asp", "type"), 0, 4)
U8 = Integer(1, False, "u8")
U16 = Integer(2, False, "u16")

KERNEL = FakeKernel(
    """
    typedef unsigned int u32;
    typedef const char *text;
    enum level { LOW = -1, HIGH = 3 };
    struct later;
    struct node { struct node *next; struct later *later; u32 bits : 5; text name; int (*call)(struct node *n); };
    struct box { union { struct { int x; int y; }; long both; }; char tag[4]; struct node in; };
    """,
    modules={"mod": "struct of_module { int only; struct node n; }; struct later { long told; };"},
)
NODE = KERNEL.btf.find("node", BtfStruct)[0]


def ref(name: str, tag: TagKind = TagKind.NONE, pointers: int = 0, array: tuple[int, ...] = ()) -> TypeRef:
    return TypeRef(SPAN, tag, name, pointers, array)


@pytest.mark.parametrize(
    ("kind", "bits", "result"),
    [
        (U8, 0, INT),
        (CHAR, 0, INT),
        (BOOL, 0, INT),
        (U16, 0, INT),
        (UINT, 0, UINT),
        (UINT, 31, INT),
        (UINT, 32, UINT),
        (ULONG, 20, INT),
        (ULONG, 40, ULONG),
        (LONG, 40, LONG),
        (LONG, 0, LONG),
    ],
)
def test_promotion(kind, bits, result):
    """What fits an int becomes one, a bit-field by its own width."""
    assert promoted(kind, bits) is result


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (INT, INT, INT),
        (INT, UINT, UINT),
        (INT, LONG, LONG),
        (UINT, LONG, LONG),
        (LONG, ULONG, ULONG),
        (INT, ULONG, ULONG),
    ],
)
def test_usual_arithmetic_conversions(a, b, result):
    """The wider type wins, of one width the unsigned, in either order."""
    assert common(a, b) is result
    assert common(b, a) is result


@pytest.mark.parametrize(
    ("value", "unsigned", "longs", "decimal", "result"),
    [
        (1, False, 0, True, INT),
        (0x7FFFFFFF, False, 0, True, INT),
        (0x80000000, False, 0, True, LONG),
        (0x80000000, False, 0, False, UINT),
        (1, True, 0, True, UINT),
        (1 << 32, True, 0, True, ULONG),
        (1, False, 1, True, LONG),
        ((1 << 64) - 1, False, 0, False, ULONG),
        ((1 << 64) - 1, False, 0, True, None),
        (1 << 64, True, 2, False, None),
    ],
)
def test_types_of_literals(value, unsigned, longs, decimal, result):
    """C11 6.4.4.1: the first type of the list that holds it; decimal ones are never unsigned by themselves."""
    assert literal_type(value, unsigned=unsigned, longs=longs, decimal=decimal) is result


def test_wrap():
    """Conversion to a type is modulo its width, for bool whether it is not zero."""
    assert U8.wrap(-1) == 255
    assert CHAR.wrap(200) == -56
    assert BOOL.wrap(256) == 1
    assert INT.holds(-1)
    assert not U8.holds(256)


def test_types_from_btf():
    """Each kind of BTF type becomes its compile-time type, typedefs looked through but kept in the name."""
    types = Types(KERNEL)
    node = types.of(KERNEL.btf, NODE)
    assert isinstance(node, Struct)
    u32 = types.of(KERNEL.btf, KERNEL.btf.find("u32", Typedef)[0])
    assert isinstance(u32, Integer)
    assert (u32.name, u32.size, u32.signed) == ("u32", 4, False)
    name = types.member(node, "name")
    assert isinstance(name.type, Pointer)
    assert isinstance(name.type.target, Char)
    call = types.member(node, "call").type
    assert isinstance(call.target, Function)
    level = types.written(ref("level", TagKind.ENUM))
    assert isinstance(level, Enum)
    assert level.signed


def test_types_are_made_once():
    """A type asked for twice is the same object: recursive structs come to an end."""
    types = Types(KERNEL)
    node = types.of(KERNEL.btf, NODE)
    pointer = types.member(node, "next").type
    assert pointer.target is node


def test_written_types():
    """A written type has its pointers and dimensions around its base, and says so."""
    types = Types(KERNEL)
    double = types.written(ref("node", TagKind.STRUCT, 2))
    assert double.name == "struct node **"
    assert isinstance(double.target.target, Struct)
    grid = types.written(ref("u32", array=(2, 3)))
    assert isinstance(grid, Array)
    assert (grid.count, grid.element.count, grid.size) == (2, 3, 24)
    assert types.written(ref("unsigned long int")) is ULONG
    assert isinstance(types.written(ref("void")), Void)
    assert isinstance(types.written(ref("_Bool")), Bool)


def test_unknown_type_is_an_error():
    """A type that neither the kernel nor a module has is reported with what was probably meant."""
    with pytest.raises(TypeRefError) as error:
        Types(KERNEL).written(ref("nodee", TagKind.STRUCT))
    assert "'struct node'" in error.value.diagnostic.hints[0]


def test_types_of_modules():
    """A type that only a module has is found there, and handed along to who shows it; shared ones stay the kernel's."""
    types = Types(KERNEL)
    found = types.written(ref("of_module", TagKind.STRUCT))
    assert isinstance(found, Struct)
    inner = types.member(found, "n").type
    assert inner is types.of(KERNEL.btf, NODE)
    assert types.shown(inner) == (None, NODE)
    assert not types.handed
    name, type_id = types.shown(found)
    assert [member.name for member in Btf(types.handed[name]).resolved(type_id).members] == ["only", "n"]


MODULES = FakeKernel(
    "struct console { int flags; }; struct page { long flags; }; enum mode { OFF, ON }; void f(struct console *c);",
    modules={
        "virt": "struct console { long ws; int hvc; }; struct page { long flags; }; struct own { int a; };"
        "enum m { OFF_OWN = 3 };",
        "also": "struct own { int a; }; struct other { struct own o; };",
        "alas": "struct own { int a; int b; }; enum n { OFF_OWN = 4 };",
    },
)


@pytest.mark.parametrize(
    ("near", "name", "sizes"),
    [
        ((), "console", 4),
        ((None,), "console", 4),
        (("virt",), "console", 16),
        (("also",), "console", 4),
        (("also", None), "console", 4),
        (("virt", None), "console", None),
        (("virt", "also"), "console", None),
        (("virt",), "own", 4),
        (("virt", "also"), "own", 4),
        (("alas", None), "own", 8),
        (("alas", "also"), "own", None),
        ((None,), "own", None),
        ((None,), "other", 4),
    ],
)
def test_whose_type_a_name_means(near, name, sizes):
    """In a module's code its own, then the kernel's, then another module's; an error where it would be several."""
    types = Types(MODULES, near)
    if sizes is None:
        with pytest.raises(TypeRefError, match=f"'struct {name}' is one type in .*, another in ") as error:
            types.written(ref(name, TagKind.STRUCT))
        assert error.value.diagnostic.code == "ambiguous-type"
        assert "withinmodule(" in error.value.diagnostic.hints[0]
    else:
        assert types.written(ref(name, TagKind.STRUCT)).size == sizes


def test_copies_of_a_type_are_one():
    """A module's copy of a kernel's or another module's struct is the same to C; where matching failed nobody minds."""
    types = Types(MODULES, ["virt"])
    page = types.written(ref("page", TagKind.STRUCT))
    assert page.btf is MODULES.btf
    one, two = (Types(MODULES, [name]).written(ref("own", TagKind.STRUCT)) for name in ("virt", "also"))
    assert one.btf is not two.btf
    assert same(pointer_to(one), pointer_to(two))
    assert not same(one, Types(MODULES, ["alas"]).written(ref("own", TagKind.STRUCT)))
    assert Types(MODULES, sure=False).written(ref("own", TagKind.STRUCT)).size in (4, 8)


def test_constants_of_modules():
    """A module's constant is known in its code, and elsewhere if modules agree on it."""
    assert Types(MODULES, ["virt"]).constant("OFF_OWN")[0] == 3
    assert Types(MODULES, ["alas"]).constant("OFF_OWN")[0] == 4
    assert Types(MODULES).constant("OFF_OWN") is None
    assert Types(MODULES, ["virt"]).constant("ON")[0] == 1


def test_incomplete_struct_is_completed_by_a_module():
    """What the kernel only declares may be defined in a module."""
    types = Types(KERNEL)
    later = types.member(types.of(KERNEL.btf, NODE), "later").type.target
    assert isinstance(later, Incomplete)
    complete = types.complete(later)
    assert complete is not None
    assert complete.size == 8


def test_members_through_anonymous_structs():
    """``.name`` reaches into anonymous structs and unions; offsets and bit-fields are those of BTF."""
    types = Types(KERNEL)
    box = types.written(ref("box"))
    assert types.member(box, "y").bit_offset == 32
    assert types.member(box, "both").bit_offset == 0
    assert types.member(box, "missing") is None
    bits = types.member(types.of(KERNEL.btf, NODE), "bits")
    assert bits.bits == 5
    assert types.member_names(box) == ["x", "y", "both", "tag", "in"]


def test_constants():
    """Enumeration constants are found by name, with their enumeration."""
    value, enum = Types(KERNEL).constant("LOW")
    assert (value, enum.name) == (-1, "enum level")
    assert Types(KERNEL).constant("MEDIUM") is None


def test_same():
    """Types are one to C whatever names they came by; pointers by what they point to."""
    types = Types(KERNEL)
    node = types.of(KERNEL.btf, NODE)
    assert same(types.written(ref("u32")), UINT)
    assert not same(INT, UINT)
    assert same(pointer_to(node), types.member(node, "next").type)
    assert not same(pointer_to(node), pointer_to(INT))
    assert not same(pointer_to(CHAR), pointer_to(U8))
    assert same(Array(INT, 3), Array(INT, 3))
    assert not same(Array(INT, 3), Array(INT, 4))
    assert same(VOID, types.written(ref("void")))


def test_wide_integers_are_opaque():
    """A 128-bit integer has a size and no arithmetic."""
    from klasy.btf.btf import Btf
    from klasy.btf.types import Int
    from klasy.btf.write import write

    kernel = FakeKernel()
    kernel.btf = Btf(write([Int("__int128", 16, True, bits=128)]))
    wide = Types(kernel).of(kernel.btf, 1)
    assert isinstance(wide, Opaque)
    assert wide.size == 16


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_plain_char(version: str) -> None:
    """A char that is written is the kernel's, which is unsigned from 6.2 on: its strings can be kept in variables, and
    its numbers have its sign. A program's is signed."""
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{version}.snapshot"))
    char = Types(kernel).written(ref("char"))
    assert isinstance(char, Char)
    assert char.signed is (version == "6.1")
    assert ProgramTypes(Types(kernel), None, ()).written(ref("char")).signed
    text = """aspect a {
        char *f(struct net_device *dev) { return dev->name; }
        const char *kept;
        before(struct net_device *dev): execution(dev_hard_start_xmit(*, struct net_device *dev, ..)) {
            char *name = dev->name;
            const char *same = f(dev);
            kept = same;
            log("%s %s", name, str(kept));
        }
    }"""
    assert not compile_text(text, kernel).diagnostics


def test_plain_chars_of_two_compilers() -> None:
    """What a program's advice takes of the kernel's types can be kept as the program's strings."""
    theirs = Char(1, False, "char")
    assert same(pointer_to(theirs), pointer_to(CHAR))
    assert same(Array(theirs, 4, "char[4]"), Array(CHAR, 4, "char[4]"))
    assert not same(theirs, CHAR)
    assert not same(pointer_to(theirs), pointer_to(U8))


def test_macros_have_the_type_of_their_number() -> None:
    """A macro is the literal that the header has; the kernel's own constant is first."""
    own = FakeKernel("enum { SIGKILL = 77 }; void f(int a);")
    advice = "before(int a): execution(f(int a)) { log(%s); }"
    for text, size, signed in (
        *(("ENOENT", 4, True), ("CLONE_IO", 4, False), ("AT_FDCWD", 4, True), ("INT_MIN", 4, True)),
        *(("NSEC_PER_MSEC", 8, True), ("LONG_MIN", 8, True), ("PAGE_SIZE", 8, False), ("U64_MAX", 8, False)),
        *(("FMODE_READ", 4, False), ("VM_READ", 4, True), ("PF_SUSPEND_TASK", 4, False)),
    ):
        macro = Types(own).macro(text)
        assert macro is not None
        assert (macro[1].size, macro[1].signed) == (size, signed)
        compile_text("aspect a { " + advice % f"{text}, -{text}, a == {text}" + " }", own)
    assert Types(own).constant("SIGKILL") is not None
    assert Types(own).has_constant("SIGTERM")
    assert not Types(own).has_constant("NR_CPUS")
