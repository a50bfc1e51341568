"""Reading and writing BTF."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakekernel import CTypes

from klasy.btf import read
from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.read import Blob, BtfError, Layout
from klasy.btf.walk import find_member, member_names, member_offset, members
from klasy.btf.write import BtfWriter, write

INT, CHAR, U64, LIST_PTR, LIST, FLAGS, OUTER, CONST_LIST, CONST_LIST_PTR, PROTO, FUNC = range(1, 12)

SAMPLE = [
    t.Int("int", 4, True, bits=32),
    t.Int("char", 1, True, is_char=True, bits=8),
    t.Int("long unsigned int", 8, False, bits=64),
    t.Ptr(LIST),
    t.Struct("list", 16, (t.Member("next", LIST_PTR, 0), t.Member("count", INT, 64))),
    t.Struct("", 4, (t.Member("a", INT, 0, 3), t.Member("b", INT, 3, 5), t.Member("", INT, 8, 4))),
    t.Struct(
        "outer",
        32,
        (t.Member("lead", U64, 0), t.Member("", FLAGS, 64), t.Member("list", LIST, 128)),
    ),
    t.Const(LIST),
    t.Ptr(CONST_LIST),
    t.FuncProto(INT, (t.Param("head", CONST_LIST_PTR), t.Param("", U64)), variadic=True),
    t.Func("walk", PROTO, 1),
]


@pytest.fixture
def btf():
    return Btf(write(SAMPLE))


def test_reads_what_was_written(btf):
    """Every type comes back under its id as it was written."""
    assert [btf.type(i) for i in range(1, btf.end)] == SAMPLE


def test_void(btf):
    """Id 0 is void, and the id behind the last is refused."""
    assert btf.type(0) == t.Void()
    with pytest.raises(BtfError, match="no type 12"):
        btf.type(12)


def test_find_by_name_and_kind(btf):
    """A name finds its types, and a class leaves only the types of that class."""
    assert btf.find("list") == [LIST]
    assert btf.find("list", t.Struct) == [LIST]
    assert btf.find("list", t.Union, t.Typedef) == []
    assert btf.find("lis") == []
    assert btf.find("next") == []


def test_find_func(btf):
    """find_func takes functions only."""
    assert btf.find_func("walk") == FUNC
    assert btf.find_func("list") is None
    assert [btf.find_funcs(name) for _ in range(30) for name in ("walk", "list")][-2:] == [(FUNC,), ()]
    assert btf.func_type(FUNC) == btf.type(FUNC).type_id
    assert btf.func_type(btf.type(FUNC).type_id) == btf.type(FUNC).type_id


def test_many_names_are_found_as_few_are(monkeypatch):
    """Who asks for very many names gets the same answers, from a list of all strings, as who asks for one."""
    texts = ["next", "ext", "outer", "out", "long unsigned int", "int", "", "nothing"]
    few = [Btf(write(SAMPLE)).string_offsets(text) for text in texts]
    monkeypatch.setattr(read, "_MANY_SEARCHES", 0)
    many = Btf(write(SAMPLE))
    assert [many.string_offsets(text) for text in texts] == few
    assert [bool(found) for found in few[:4]] == [True, False, True, False]
    assert many.blob.layout.strings is not None


@given(st.lists(st.text(alphabet="ab", max_size=2)), st.booleans())
def test_listed_strings_are_those_that_a_search_finds(strings, own):
    """Each string is listed wherever it stands as a whole, twice where it stands twice."""
    section = b"".join(string.encode() + b"\0" for string in ([""] if own else []) + strings)
    data = read.HEADER.pack(read.MAGIC, 1, 0, read.HEADER.size, 0, 0, 0, len(section)) + section
    searched, listed = Blob(data), Blob(data)
    listed.list_strings()
    for text in ("", "a", "b", "ab", "ba", "aa", "bb", "c"):
        assert listed.string_offsets(text) == searched.string_offsets(text)
        assert all(listed.string(offset) == text for offset in listed.string_offsets(text))
    with pytest.raises(BtfError, match="no string at"):
        listed.string(len(section))


def test_equal_checksums_are_told_apart(monkeypatch):
    """What is listed under the checksum of a string is that string only if it reads so."""
    monkeypatch.setattr(read.zlib, "crc32", lambda _: 7)
    blob = Btf(write(SAMPLE)).blob
    expected = blob.string_offsets("list")
    blob.list_strings()
    blob._found.clear()
    assert blob.string_offsets("list") == expected
    assert blob.string_offsets("nothing") == []


def test_matching_is_a_glob_over_whole_names(btf):
    """Only the star is special, and the pattern covers the whole name."""
    assert btf.matching("l*t", t.Struct) == [LIST]
    assert btf.matching("*") == [i for i in range(1, btf.end) if getattr(btf.type(i), "name", "")]
    assert btf.matching("lis?") == []


def test_members_of_anonymous_structs_count_as_the_outer_ones(btf):
    """find_member adds up the offsets through anonymous structs and keeps the width of bit-fields."""
    place = find_member(btf, OUTER, "b")
    assert (place.bit_offset, place.bitfield_size, place.byte_offset) == (64 + 3, 5, 8)
    assert member_names(btf, OUTER) == ["lead", "a", "b", "list"]
    assert [p.name for p in members(btf, OUTER, within_anonymous=False)] == ["lead", "", "list"]
    assert find_member(btf, OUTER, "next") is None
    assert find_member(btf, INT, "next") is None


def test_old_bitfields_by_integer_types():
    """Without the kind flag a bit-field's width is that of its integer type."""
    old = Btf(write([t.Int("unsigned int", 4, False, bits=3, offset=2), t.Struct("s", 4, (t.Member("f", 1, 8),))]))
    assert find_member(old, 2, "f") == find_member(old, 2, "f").__class__("f", 1, 10, 3)


def test_sizes(btf):
    """Sizes are in bytes; what has none has 0."""
    assert [btf.size_of(i) for i in (INT, LIST_PTR, LIST, CONST_LIST, PROTO, 0)] == [4, 8, 16, 16, 0, 0]


def test_pointee(btf):
    """pointee keeps the qualifiers of what is pointed to; a struct has none."""
    assert btf.pointee(CONST_LIST_PTR) == CONST_LIST
    assert btf.pointee(LIST) is None
    assert btf.strip_qualifiers(CONST_LIST) == LIST


def test_a_module_builds_upon_the_kernel(btf):
    """Ids and strings of split BTF go on where the base's end; both are found through the module's."""
    writer = BtfWriter(btf)
    ptr = writer.add(t.Ptr(OUTER))
    proto = writer.add(t.FuncProto(0, (t.Param("list", ptr),)))
    func = writer.add(t.Func("mod_walk", proto))
    inner = writer.add(t.Struct("list", 4, (t.Member("next", INT, 0), t.Member("own", INT, 0))))
    module = Btf(writer.data(), btf)
    assert ptr == btf.end
    assert module.c_prototype(func) == "void mod_walk(struct outer *list)"
    assert module.find("list") == [LIST, inner]
    assert module.find_func("walk") is None
    assert module.find_func("mod_walk") == func
    assert module.type(OUTER) is btf.type(OUTER)
    assert module.matching("*walk", t.Func) == [FUNC, func]
    assert dict(module.names(t.Func)) == {"walk": FUNC, "mod_walk": func}


def test_a_name_that_headers_define_for_another():
    """``struct rcu_head`` is the kernel's callback_head, unless something has the name itself."""
    callback = t.Struct("callback_head", 16, ())
    btf = Btf(write([callback]))
    assert btf.find("rcu_head") == btf.find("rcu_head", t.Struct) == btf.find("callback_head") == [1]
    assert btf.find("rcu_head", t.Union) == []
    assert Btf(write([callback, t.Struct("rcu_head", 8, ())])).find("rcu_head") == [2]


def test_typedef_loops_are_refused():
    """A typedef of itself, which only broken BTF has, ends in an error and not in a hang."""
    with pytest.raises(BtfError):
        Btf(write([t.Typedef("a", 2), t.Const(1)])).resolve(1)


def test_enum_constants():
    """Constants are found by name, with their sign, in narrow and wide enumerations."""
    enums = [
        t.Enum("narrow", 4, True, (("MINUS", -1), ("ONE", 1))),
        t.Enum("wide", 8, False, (("BIG", 1 << 63),)),
        t.Enum("also", 4, False, (("ALL", 0xFFFF_FFFF), ("ONE", 1))),
        t.Enum("", 4, False, (("NAMELESS", 7),)),
    ]
    btf = Btf(write(enums))
    assert [btf.type(i) for i in (1, 2, 3, 4)] == enums
    assert btf.find_constant("MINUS") == [(1, -1)]
    assert btf.find_constant("BIG") == [(2, 1 << 63)]
    assert btf.find_constant("ONE") == [(1, 1), (3, 1)]
    assert btf.find_constant("narrow") == []
    assert btf.find_constant("ONE") == [(1, 1), (3, 1)]
    assert btf.constant_names == {"MINUS", "BIG", "ONE", "ALL", "NAMELESS"}
    assert btf.constants == {name: btf.find_constant(name) for name in btf.constant_names}


@pytest.mark.parametrize("listed", [False, True])
def test_layout_saved_and_loaded(btf, listed):
    """A layout survives its bytes, with the strings if they were listed; other bytes are refused."""
    if listed:
        btf.blob.list_strings()
    data = btf.blob.layout.dump()
    again = Btf(write(SAMPLE), layout=Layout.load(data))
    assert [again.type(i) for i in range(1, again.end)] == SAMPLE
    assert again.find("list") == [LIST]
    assert (again.blob.layout.strings is not None) is listed
    for wrong in (data[:-1], data + b"\0", b"", b"x" + data[1:]):
        with pytest.raises(ValueError, match=r"short|agree"):
            Layout.load(wrong)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 24, write(SAMPLE)[:-1], write(SAMPLE)[:40], b"\xeb\x9f" + write(SAMPLE)[2:]],
    ids=["empty", "zeroes", "short strings", "short types", "other byte order"],
)
def test_broken_headers_are_refused(data):
    """Bytes that are no whole BTF blob give BtfError."""
    with pytest.raises(BtfError):
        Btf(data).type(1)


names = st.text("abcdefgh_0123456789", min_size=1, max_size=12)
maybe_names = st.one_of(st.just(""), names)
ids = st.integers(0, 0xFFFF_FFFF)
sizes = st.integers(0, 0xFFFF_FFFF)
plain_members = st.builds(t.Member, maybe_names, ids, st.integers(0, 0xFFFF_FFFF))
bit_members = st.builds(t.Member, maybe_names, ids, st.integers(0, 0xFF_FFFF), st.integers(1, 255))
member_tuples = st.one_of(
    st.lists(plain_members, max_size=6), st.lists(bit_members, min_size=1, max_size=6)
).map(tuple)  # fmt: skip


@st.composite
def enums(draw):
    size, signed = draw(st.sampled_from([1, 2, 4, 8])), draw(st.booleans())
    bits = 64 if size == 8 else 32
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    values = draw(st.lists(st.tuples(names, st.integers(low, high)), max_size=6))
    return t.Enum(draw(maybe_names), size, signed, tuple(values))


@st.composite
def protos(draw):
    params = draw(st.lists(st.builds(t.Param, maybe_names, ids), max_size=6))
    variadic = draw(st.booleans())
    while not variadic and params and params[-1] == t.Param("", 0):
        params.pop()  # would read as the "..."
    return t.FuncProto(draw(ids), tuple(params), variadic)


any_type = st.one_of(
    st.builds(
        t.Int, names, sizes, st.booleans(), st.booleans(), st.booleans(), st.integers(1, 255), st.integers(0, 255)
    ),
    st.builds(t.Float, names, sizes),
    *(st.builds(cls, ids) for cls in (t.Ptr, t.Volatile, t.Const, t.Restrict)),
    st.builds(t.Array, ids, ids, sizes),
    st.builds(t.Struct, maybe_names, sizes, member_tuples),
    st.builds(t.Union, maybe_names, sizes, member_tuples),
    enums(),
    st.builds(t.Fwd, names, st.booleans()),
    st.builds(t.Typedef, names, ids),
    st.builds(t.TypeTag, names, ids),
    st.builds(t.DeclTag, names, ids, st.integers(-1, 100)),
    protos(),
    st.builds(t.Func, names, ids, st.integers(0, 2)),
    st.builds(t.Var, names, ids, st.integers(0, 1)),
    st.builds(t.Datasec, names, sizes, st.lists(st.builds(t.SectionVar, ids, sizes, sizes), max_size=4).map(tuple)),
)


@given(st.lists(any_type, max_size=12))
def test_round_trip(written):
    """Whatever types are written are read back equal, and found under their names."""
    btf = Btf(write(written))
    assert [btf.type(i) for i in range(1, btf.end)] == written
    for i, one in enumerate(written, 1):
        name = getattr(one, "name", "")
        assert not name or i in btf.find(name, type(one))


@given(st.lists(any_type, max_size=6), st.lists(any_type, max_size=6))
def test_round_trip_of_split_btf(below, above):
    """The same for types written upon a base."""
    base = Btf(write(below))
    module = Btf(write(above, base), base)
    assert [module.type(i) for i in range(1, module.end)] == below + above


@given(st.binary(max_size=200), st.integers(0, 400))
def test_noise_in_the_types_gives_btf_errors_only(noise, at):
    """Bytes changed anywhere in a blob either read as some types or give BtfError, never another exception."""
    data = bytearray(write(SAMPLE))
    at %= len(data)
    data[at : at + len(noise)] = noise[: len(data) - at]
    try:
        btf = Btf(bytes(data))
        for i in range(1, btf.end):
            btf.type(i)
            btf.c_name(i)
            btf.c_definition(i)
            btf.size_of(i)
            member_names(btf, i)
        btf.find_constant("int")
    except BtfError:
        pass


def test_the_strings_of_a_module_begin_at_once() -> None:
    """In a module's BTF there is no zero byte before the first string (as in /sys/kernel/btf/9pnet); it is found."""
    base = Btf(write([t.Int("int", 4, True)]))
    data = write([t.Struct("first", 4, (t.Member("x", 1, 0),)), t.Struct("second", 4, ())], base)
    assert data.endswith(b"first\0x\0second\0")
    module = Btf(data, base)
    assert module.find("first") == [base.end]
    assert module.matching("fir*") == [base.end]
    assert [name for name, _ in module.names(t.Struct)] == ["first", "second"]


def test_member_of_an_unnamed_struct() -> None:
    """preempt_count is found where it lies in structs and unions without names, as in 6.12's pcpu_hot."""
    text = """
    struct hot { union { struct { unsigned long task; int count; int other; }; char room[64]; }; };
    int f(struct hot *p);
    """
    btf = CTypes(text).btf
    assert member_offset(btf, "hot", "count") == 8
    assert member_offset(btf, "hot", "missing") is None
    assert member_offset(btf, "cold", "count") is None
