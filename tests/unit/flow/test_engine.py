"""The engine over functions of a few instructions, each as GNU as encodes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.minikernel import BASE, STEP, MiniKernel, lines

from klasy.btf.btf import Btf
from klasy.btf.types import Int, Member, Ptr, Struct
from klasy.btf.write import write
from klasy.flow import candidates, sites
from klasy.flow.cfg import Unit
from klasy.flow.decode import SP, decode
from klasy.flow.engine import find_callers
from klasy.flow.enlarge import enlarge
from klasy.flow.index import Index
from klasy.flow.members import Types
from klasy.flow.reach import Reach

ITEM = """
struct part { int x; int y; int z; };
struct item { int a; int b; int c; int pad; struct item *next; struct part part; };
int f(struct item *it);
"""


def test_kinds_of_access():
    """Loads read, stores write, a locked increment does both, cmp reads, prefetch does nothing."""
    kernel = MiniKernel(
        ITEM,
        {
            "f": [
                "48 8b 47 10",  # mov 0x10(%rdi),%rax
                "c7 47 08 05 00 00 00",  # movl $5,0x8(%rdi)
                "48 89 77 10",  # mov %rsi,0x10(%rdi)
                "f0 ff 47 08",  # lock incl 0x8(%rdi)
                "83 7f 08 01",  # cmpl $1,0x8(%rdi)
                "0f 18 4f 08",  # prefetcht0 0x8(%rdi)
                "c3",
            ]
        },
    )
    found = kernel.ask("item.c", "item.next")
    assert lines(found) == [
        "f+0x0 read next",
        "f+0x4 write c",
        "f+0xb write next",
        "f+0xf both c",
        "f+0x13 read c",
    ]
    assert [site.source for site in found.accesses] == [None, ("immediate", 5), 6, None, None]
    assert {site.base_register for site in found.accesses} == {"di"}
    assert {site.base_offset for site in found.accesses} == {0}
    assert {site.confidence for site in found.accesses} == {sites.PROVED}
    assert found.accesses[0].derivation == "argument 1 of f (struct item *)"
    assert found.accesses[0].width == 8
    assert found.accesses[1].length == 7
    assert found.accesses[0].disassembly == "mov rax, qword ptr [rdi + 0x10]"


def test_exchanges():
    """cmpxchg and xchg with memory both read and write."""
    kernel = MiniKernel(ITEM, {"f": ["89 f0", "f0 0f b1 57 08", "48 87 77 10", "c3"]})
    assert lines(kernel.ask("item.c", "item.next")) == ["f+0x2 both c", "f+0x7 both next"]


def test_spill_and_call():
    """A pointer survives a call in a saved register and in a stack slot; in a scratch register it does not."""
    kernel = MiniKernel(
        ITEM,
        {
            "f": [
                "53",  # push %rbx
                "48 83 ec 10",  # sub $0x10,%rsp
                "48 89 7c 24 08",  # mov %rdi,0x8(%rsp)
                "48 89 fb",  # mov %rdi,%rbx
                "call f",
                "8b 43 08",  # mov 0x8(%rbx),%eax
                "48 8b 4c 24 08",  # mov 0x8(%rsp),%rcx
                "8b 41 08",  # mov 0x8(%rcx),%eax
                "8b 47 08",  # mov 0x8(%rdi),%eax
                "48 83 c4 10 5b c3",
            ]
        },
    )
    found = kernel.ask("item.c")
    assert lines(found) == ["f+0x12 read c", "f+0x1a read c"]
    assert found.untyped == 1


def test_embedded_struct():
    """An access through the address of an embedded struct is one of the outer struct's member too."""
    kernel = MiniKernel(ITEM, {"f": ["48 8d 5f 18", "8b 43 08", "c3"]})  # lea 0x18(%rdi),%rbx; mov 0x8(%rbx),%eax
    (site,) = kernel.ask("item.part.z").accesses
    assert (site.base_register, site.base_offset) == ("bx", 0x18)
    (inner,) = kernel.ask("part.z").accesses
    assert (inner.base_register, inner.base_offset) == ("bx", 0)


def test_container_of():
    """What lies before a part that only one struct has is a member of that struct."""
    kernel = MiniKernel(
        "struct part { int x; int y; }; struct item { int a; int b; int c; int d; struct part part; };"
        "int f(struct part *p);",
        {"f": ["8b 47 f8", "c3"]},  # mov -0x8(%rdi),%eax
    )
    (site,) = kernel.ask("item.c").accesses
    assert (site.base_offset, site.confidence) == (0x10, sites.AROUND)
    assert site.derivation == "argument 1 of f (struct part *), a part of struct item"


def test_no_container_of_many():
    """A part that several structs have says nothing of what lies before it: no site, one untyped access."""
    other = "".join(f"struct item{n} {{ int a; int b; int c; int d; struct part part; }};" for n in range(8))
    kernel = MiniKernel("struct part { int x; int y; };" + other + "int f(struct part *p);", {"f": ["8b 47 f8", "c3"]})
    found = kernel.ask("item3.c")
    assert not found.accesses


def test_name_decides_container():
    """Of several structs that begin with the same part, a function's name may name the one it handles."""
    kernel = MiniKernel(
        "struct base { int x; int y; };"
        + "".join(f"struct {n}_base {{ struct base base; int a; int b; }};" for n in ("red", "tan", "sky", "ash"))
        + "int tan_get(struct base *p);",
        {"tan_get": ["8b 47 08", "c3"]},
    )
    assert lines(kernel.ask("tan_base.a")) == ["tan_get+0x0 read a"]
    assert not kernel.ask("red_base.a").accesses


def test_chain_and_bits():
    """A loaded pointer is followed; an instruction's mask says which bit-field of a byte it touches."""
    kernel = MiniKernel(
        "struct sub { int m; int n; int o; };"
        "struct top { short s; char one:1; char two:1; char three:1; char rest:5; char c; int i; long l;"
        " struct sub *sub; }; int f(struct top *t);",
        {
            "f": [
                "48 8b 47 10",  # mov 0x10(%rdi),%rax
                "8b 50 08",  # mov 0x8(%rax),%edx
                "f6 47 02 04",  # testb $0x4,0x2(%rdi)
                "80 67 02 fd",  # andb $0xfd,0x2(%rdi)
                "8b 07",  # mov (%rdi),%eax
                "c3",
            ]
        },
    )
    assert lines(kernel.ask("sub.o")) == ["f+0x4 read o"]
    assert lines(kernel.ask("top.three")) == ["f+0x7 read three", "f+0xf read three"]
    assert lines(kernel.ask("top.two")) == ["f+0xb both two", "f+0xf read two"]
    assert lines(kernel.ask("top.one")) == ["f+0xf read one"]
    assert lines(kernel.ask("top.s", "top.c")) == ["f+0xf read s,c"]
    assert kernel.ask("sub.o").accesses[0].derivation == "argument 1 of f (struct top *) -> sub"


def test_join_with_null():
    """A pointer that is null on one path keeps its type at the join."""
    kernel = MiniKernel(
        ITEM, {"f": ["31 c0", "48 85 f6", "74 03", "48 89 f8", "8b 48 08", "c3"]}
    )  # xor %eax,%eax; test %rsi,%rsi; je; mov %rdi,%rax; mov 0x8(%rax),%ecx
    assert lines(kernel.ask("item.c")) == ["f+0xa read c"]


@pytest.mark.parametrize(("second", "expected"), [("struct item *b", ["f+0xa read c"]), ("struct part *b", [])])
def test_join_of_types(second, expected):
    """A join of two pointers is typed only where they agree."""
    kernel = MiniKernel(
        ITEM.replace("int f(struct item *it)", f"int f(struct item *a, {second})"),
        {"f": ["48 89 f8", "85 c9", "74 03", "48 89 f0", "8b 48 08", "c3"]},
    )  # mov %rdi,%rax; test %ecx,%ecx; je; mov %rsi,%rax; mov 0x8(%rax),%ecx
    found = kernel.ask("item.c")
    assert lines(found) == expected
    assert found.untyped == (0 if expected else 1)


def test_null_pointer_is_no_object():
    """A register that was found null and is returned as such does not take the type of what else is returned."""
    kernel = MiniKernel(
        "struct node { struct node *next; }; struct head { long a; long b; struct node *first; };"
        "struct item { long a; long b; long c; struct node node; }; struct item *f(struct head *h);",
        {
            "f": [
                "48 8b 7f 10",  # mov 0x10(%rdi),%rdi
                "48 8b 0f",  # mov (%rdi),%rcx
                "48 85 ff",  # test %rdi,%rdi
                "74 04",  # je
                "48 83 c7 e8",  # add $-0x18,%rdi
                "48 89 f8",  # mov %rdi,%rax
                "c3",
            ]
        },
    )
    found = kernel.ask("node.next", "item.a", "item.node")
    assert lines(found) == ["f+0x4 read next,node"]
    assert found.accesses[0].base_offset in (0, 0x18)


def test_repeated_store_from_the_first_aligned_word():
    """What gcc makes of memset(it, 0, 36): the words between the first and the last are written by rep stos, too."""
    code = ["48 89 fb", "48 8d 7b 08", "48 89 d9", "48 83 e7 f8", "48 c7 03 00 00 00 00", "48 29 f9"]
    code += ["48 c7 43 1c 00 00 00 00", "83 c1 24", "31 c0", "c1 e9 03", "f3 48 ab", "c3"]
    found = MiniKernel(ITEM, {"f": code}).ask("item.a", "item.next", "item.part.x", "item.part.z")
    assert lines(found) == ["f+0xe write a", "f+0x18 write part.z", "f+0x28 write next,part.x"]
    string = found.accesses[-1]
    assert (string.base_register, string.base_offset, string.width) == ("di", 8, 24)


def test_repeated_store():
    """rep stos with a constant count writes all that it covers, and no more."""
    kernel = MiniKernel(ITEM, {"f": ["31 c0", "b9 03 00 00 00", "f3 48 ab", "c3"]})  # 24 bytes from %rdi
    (site,) = kernel.ask("item.a").accesses
    assert (site.kind, site.width, site.base_register) == ("write", 24, "di")
    assert lines(kernel.ask("item.next")) == ["f+0x7 write next"]
    assert not kernel.ask("item.part").accesses


def test_given_type():
    """A void pointer has the type of the parameter that it is given to."""
    kernel = MiniKernel(
        ITEM + "int g(void *data);",
        {"f": ["c3"], "g": ["48 89 fb", "8b 43 08", "48 89 df", "call f", "c3"]},
    )
    (site,) = kernel.ask("item.c").accesses
    assert (site.function.name, site.confidence, site.derivation) == ("g", sites.GIVEN, "given to f")


def test_arrays():
    """An index of unknown size makes the place unknown; one that is a multiple of the object's size does not."""
    kernel = MiniKernel(
        "struct item { long a; int b; int c; long d; long e; }; int f(struct item *it, long i);",
        {"f": ["8b 44 37 08", "48 c1 e6 05", "8b 44 37 08", "c3"]},
    )  # mov 0x8(%rdi,%rsi,1),%eax; shl $5,%rsi; mov 0x8(%rdi,%rsi,1),%eax
    found = kernel.ask("item.b")
    assert lines(found) == ["f+0x8 read b"]
    assert found.untyped == 1
    (site,) = found.accesses
    assert (site.base, site.index, site.scale) == (7, 6, 1)


def test_clone_takes_callers_arguments():
    """A clone has no prototype: its arguments are what all its callers give."""
    functions = {
        "f": ["call part.isra.0", "c3"],
        "g": ["48 89 f7", "call part.isra.0", "c3"],  # mov %rsi,%rdi
        "part.isra.0": ["8b 47 08", "c3"],
    }
    both = MiniKernel(ITEM + "int g(int n, struct item *it);", functions)
    assert lines(both.ask("item.c")) == ["part.isra.0+0x0 read c"]
    differ = MiniKernel(ITEM + "int g(int n, struct part *p);", functions)
    assert not differ.ask("item.c").accesses


def test_tail_call_and_cold_piece():
    """Types go on into the unlikely piece of a function, and arguments of a tail call are arguments."""
    kernel = MiniKernel(
        ITEM + "int g(void *data);",
        {"f": ["85 c0", "0f 85 f8 00 00 00", "c3"], "f.cold": ["8b 47 08", "c3"], "g": ["8b 47 08", "jmp f"]},
    )
    assert lines(kernel.ask("item.c")) == ["f.cold+0x0 read c", "g+0x0 read c"]


def test_only_candidates():
    """Without ``whole`` only functions with a fitting displacement are looked at, and the sites are the same."""
    kernel = MiniKernel(
        ITEM, {"f": ["8b 47 08", "c3"], "g": ["8b 47 0c", "c3"], "h": ["8b 87 08 00 00 00", "c3"], "i": ["c3"]}
    )
    some, every = kernel.ask("item.c", whole=False), kernel.ask("item.c")
    assert lines(some) == lines(every) == ["f+0x0 read c"]
    assert (some.functions, some.of, every.functions) == (2, 4, 4)


LINKED = ITEM + "struct other { int a; int b; int c; int d; }; struct top { long l; struct item *item; };"


def reached(kernel, name, *functions):
    """Which of some functions are thought to lead to objects of a struct."""
    engine = Index(kernel, use_cache=False, processes=1).engine
    found = Reach(engine, [sites.kernel_member(kernel, *name.split("."))])
    indices = {function: kernel.symbols[None].named(function)[0] for function in functions}
    for index in indices.values():
        engine.callers.update(find_callers(engine, None, [index]))
    return [function for function, index in indices.items() if found.may(None, Unit(engine.text(None), index))]


def test_reach_by_members():
    """A function leads to an object if it is given one, calls what takes one, or has the displacement of a pointer."""
    kernel = MiniKernel(
        LINKED
        + "int f(struct item *it); int g(struct top *t); int h(struct top *t); int i(struct other *o); int j(int n);"
        " int k(int n);",
        {
            "f": ["c3"],
            "g": ["48 8b 47 08", "8b 40 08", "c3"],  # mov 0x8(%rdi),%rax; mov 0x8(%rax),%eax
            "h": ["48 8b 47 00", "8b 40 0c", "c3"],
            "i": ["8b 47 08", "c3"],
            "j": ["8b 47 08", "call f", "c3"],
            "k": ["8b 47 08", "call i", "c3"],
        },
    )
    assert reached(kernel, "item.c", *"fghijk") == ["f", "g", "j"]


def test_reach_of_parts_and_clones():
    """It leads there from a part that few structs have, and where a function without prototype has such a caller."""
    kernel = MiniKernel(
        LINKED + "int p(struct part *p); int g(struct item *it); int h(struct other *o);",
        {
            "p": ["8b 47 f0", "c3"],
            "g": ["call g.isra.0", "c3"],
            "g.isra.0": ["8b 47 08", "c3"],
            "h": ["call h.isra.0", "c3"],
            "h.isra.0": ["8b 47 08", "c3"],
        },
    )
    assert reached(kernel, "item.c", "p", "g", "g.isra.0", "h", "h.isra.0") == ["p", "g", "g.isra.0"]


def test_reach_by_several_parts_that_are_everywhere():
    """Parts that are in many structs lead to one where two kinds of them are given away; one kind says nothing."""
    kernel = MiniKernel(
        "struct mutex { int owner; }; struct wait_queue_head { int lock; };"
        "struct pipe { int a; struct mutex mutex; struct wait_queue_head wait; int head; };"
        "int lock(struct mutex *m); int wake(struct wait_queue_head *w); int f(void *data); int g(void *data);",
        {
            "lock": ["c3"],
            "wake": ["c3"],
            "f": ["8b 47 0c", "call lock", "call wake", "c3"],
            "g": ["8b 47 0c", "call lock", "c3"],
        },
    )
    assert reached(kernel, "pipe.head", "f", "g") == ["f"]


def test_what_cannot_reach_is_not_analysed():
    """Without ``whole`` an access in a function that has no such object in hand is not counted as untyped either."""
    kernel = MiniKernel(LINKED + "int g(int n);", {"f": ["8b 47 08", "c3"], "g": ["8b 47 08", "c3"]})
    some, every = kernel.ask("item.c", whole=False), kernel.ask("item.c")
    assert lines(some) == lines(every) == ["f+0x0 read c"]
    assert (some.untyped, every.untyped) == (0, 1)


def test_candidates_of_wide_accesses():
    """A store of 8 bytes that begins at the member before is looked at without ``whole``."""
    kernel = MiniKernel(ITEM, {"f": ["48 c7 47 04 00 00 00 00", "c3"]})  # movq $0,0x4(%rdi)
    assert lines(kernel.ask("item.c", whole=False)) == ["f+0x0 write c"]


def test_candidates_are_no_stack_slots():
    """A displacement from sp is no candidate, one from r12, which has the same bits in its SIB byte, is."""
    kernel = MiniKernel(
        ITEM, {"f": ["8b 47 08", "c3"], "g": ["8b 44 24 08", "c3"], "h": ["41 8b 44 24 08", "c3"], "i": ["90", "c3"]}
    )
    assert kernel.ask("item.c", whole=False).functions == 2


def test_candidates_by_width():
    """An operand that ends before the member is no candidate: 4 bytes at the member before; 8 bytes there are one."""
    kernel = MiniKernel(ITEM, {"f": ["89 47 04", "c3"], "g": ["48 89 47 04", "c3"], "h": ["8a 47 09", "c3"]})
    assert kernel.ask("item.c", whole=False).functions == 2


def test_candidates_with_string_instructions():
    """A function that clears an object as a whole names no displacement, but a length."""
    fill = ["b9 05 00 00 00", "31 c0", "f3 48 ab", "c3"]
    other = ["b9 00 10 00 00", "31 c0", "f3 48 ab", "c3"]
    found = MiniKernel(ITEM, {"f": fill, "g": other}).ask("item.c", whole=False)
    assert lines(found) == ["f+0x7 write c"]
    assert found.functions == 1


def test_candidates_with_an_aligned_fill():
    """So does one whose clearing goes from the first aligned word on."""
    fill = ["48 8d 7b 08", "48 83 e7 f8", "48 29 f9", "83 c1 24", "31 c0", "c1 e9 03", "f3 48 ab", "c3"]
    assert MiniKernel(ITEM, {"f": fill, "g": ["c3"]}).ask("item.part.z", whole=False).functions == 1


def test_candidates_by_nodes():
    """Back from a list's node in the object, but not from one that is of a timer or of what waits for a lock in it."""
    kernel = MiniKernel(
        "struct list_head { void *next; void *prev; }; struct timer_list { struct list_head entry; long more; };"
        "struct mutex { long owner; struct list_head wait; };"
        "struct item { long first; int a; int b; struct list_head list; struct timer_list timer; struct mutex mutex;"
        " long pad[32]; struct timer_list far; };",
        {"f": ["c3"]},
    )
    types = Index(kernel, use_cache=False).engine.seeds.types_of(None)
    found = candidates.displacements(types, kernel.member("item.b"))
    assert {shift for shift in found if shift < -3} == {-4, -324, -323, -322, -321}


def test_candidates_are_decoded():
    """What has the bytes of an operand only in the middle of an instruction is not analysed; what adds to an address
    is."""
    lines_of = {"f": ["b8 8b 47 08 00", "c3"], "g": ["8b 47 08", "c3"], "h": ["48 83 c7 08", "8b 07", "c3"]}
    kernel = MiniKernel(ITEM, lines_of)
    engine = Index(kernel, use_cache=False).engine
    text, members = engine.text(None), [kernel.member("item.c")]
    sought = candidates.sought(engine, None, members)
    found = candidates.units(engine, None, text.units(), members, sought)
    assert len(found) == 3
    assert [candidates.has_operand(Unit(text, unit), sought) for unit in found] == [False, True, True]


_OPCODES = ["8b", "89", "88", "8a", "c7", "83", "f6", "ff", "63", "0f b6", "0f b7", "0f af", "0f b1", "39", "03", "8d"]


@given(
    st.tuples(st.sampled_from(_OPCODES), st.binary(max_size=3)),
    st.sampled_from([b"", b"\x48", b"\x41", b"\x49", b"\x4d", b"\x44", b"\x4c", b"\x42"]),
    st.tuples(st.integers(0, 7), st.integers(0, 7)),
    st.sampled_from([None, 0x20, 0x24, 0x63, 0xC6]),
    st.integers(-200, 5000).filter(bool),
)
def test_candidates_miss_no_operand(opcode_after, rex, modrm, sib, shift):
    """Whatever instruction has an operand at a displacement from a register but sp is found by the displacement."""
    (opcode, noise), (reg, rm), small = opcode_after, modrm, -128 <= shift < 128
    code = rex + bytes.fromhex(opcode) + bytes(((0x40 if small else 0x80) | reg << 3 | (4 if sib is not None else rm),))
    if sib is None and rm == 4:
        return
    code += bytes((sib,)) if sib is not None else b""
    code += shift.to_bytes(1 if small else 4, "little", signed=True)
    code += {"c7": bytes(4), "83": b"\1", "f6": b"\1" if reg < 2 else b""}.get(opcode, b"")
    _, width, _, _, memory, _, touched = decode(code)
    if not touched or memory is None or memory[0] == SP:
        return
    assert memory[3] == shift
    assert list(candidates._places(noise + code + bytes(8), {shift: width})), code.hex()


def test_filled_by_a_callee():
    """What a variable on the stack holds behind a call that may have filled it: the pointers that its type has."""
    path = "struct path { long mnt; struct item *item; };"
    code = ["48 83 ec 18", "48 8d 7c 24 08", "48 89 7c 24 10", "call g", "48 8b 44 24 10", "8b 40 08", "c3"]
    kernel = MiniKernel(ITEM + path + "int g(struct path *path);", {"f": code, "g": ["c3"]})
    assert lines(kernel.ask("item.c")) == ["f+0x18 read c"]
    reading = MiniKernel(ITEM + path + "int g(const struct path *path);", {"f": code, "g": ["c3"]})
    assert not reading.ask("item.c").accesses


def test_a_slot_that_one_way_does_not_fill():
    """A slot that is read where two ways meet has what one of them left there, if nothing is known of the other."""
    code = ["48 83 ec 18", "85 f6", "74 05", "48 89 7c 24 08", "48 8b 44 24 08", "8b 40 08", "c3"]
    assert lines(MiniKernel(ITEM, {"f": code}).ask("item.c")) == ["f+0x12 read c"]


def test_folio_before_page():
    """A folio's own member counts, not what struct page, which it overlays, has in the same place besides."""
    types = "struct pool { int x; }; struct page { union { struct item *mapping; struct pool *pp; }; };"
    types += (
        "struct folio { union { struct { struct item *mapping; }; struct page page; }; }; int g(struct folio *folio);"
    )
    kernel = MiniKernel(ITEM + types, {"g": ["48 8b 07", "8b 40 08", "c3"]})
    assert lines(kernel.ask("item.c")) == ["g+0x3 read c"]


def test_answers_are_kept(tmp_path, monkeypatch):
    """The second time a question is answered from the cache: the same sites, and nothing is analysed."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    kernel = MiniKernel(ITEM, {"f": ["8b 47 08", "c3"]})
    first = kernel.ask("item.c", use_cache=True)
    monkeypatch.setattr("klasy.flow.index.Index._answer", None)
    second = kernel.ask("item.c", use_cache=True)
    assert first == second
    assert len(first.accesses) == 1


def test_kept_answer_of_another_build(tmp_path, monkeypatch):
    """What was kept for one build says nothing of another."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    MiniKernel(ITEM, {"f": ["8b 47 08", "c3"]}).ask("item.c", use_cache=True)
    other = MiniKernel(ITEM, {"f": ["90", "8b 47 08", "c3"]}, build_id="cd" * 20)
    assert lines(other.ask("item.c", use_cache=True)) == ["f+0x1 read c"]


def test_kept_answer_of_other_text(tmp_path, monkeypatch):
    """A snapshot of a build may hold a part of its text: what was found there is not taken for the whole."""
    monkeypatch.setenv("KLASY_CACHE", str(tmp_path))
    assert lines(MiniKernel(ITEM, {"f": ["c3"]}).ask("item.c", use_cache=True)) == []
    assert lines(MiniKernel(ITEM, {"f": ["8b 47 08", "c3"]}).ask("item.c", use_cache=True)) == ["f+0x0 read c"]


def test_where():
    """Only the functions of interest are looked at, though others were before, and only theirs are given."""
    kernel = MiniKernel(
        ITEM + "int g(struct item *it);", {"f": ["8b 47 08", "c3"], "g": ["8b 47 08", "8b 40 08", "c3"]}
    )
    g = kernel.function_at(BASE + STEP).address
    index = Index(kernel, use_cache=False, processes=1)
    member = [kernel.member("item.c")]
    some = index.accesses(member, whole=True, where=lambda module, address: address == g)
    assert (lines(some), some.functions, some.untyped) == (["g+0x0 read c"], 1, 1)
    assert lines(index.accesses(member, whole=True)) == ["f+0x0 read c", "g+0x0 read c"]
    assert index.accesses(member, whole=True, where=lambda module, address: address == g) == some


def test_processes_agree():
    """Several processes find what one finds."""
    functions = {f"f{n}": ["8b 47 08", "48 8b 47 10", "c3"] for n in range(300)}
    declarations = ITEM + "".join(f"int f{n}(struct item *it);" for n in range(0, 300, 2))
    kernel = MiniKernel(declarations, functions)
    heard = []
    alone = kernel.ask("item.c", "item.next")
    together = Index(kernel, use_cache=False, processes=3).accesses(
        [kernel.member("item.c"), kernel.member("item.next")], lambda done, of: heard.append((done, of)), whole=True
    )
    assert together == alone
    assert len(alone.accesses) == 300
    assert heard[-1] == (300, 300)


def test_types_of_another_module():
    """What a function of another module gives is of the caller's own copy of the type, whatever its number there; of
    no type, where the caller has none laid out alike."""
    base = Btf(write([Int("int", 4, True), Struct("node", 4, (Member("n", 1, 0),))]))

    def module(*more):
        return Types(Btf(write(more, base), base), kernels)

    kernels = Types(base)
    own = Struct("own", 8, (Member("n", 1, 0),))
    one = module(Struct("other", 4, (Member("n", 1, 0),)), own)
    two = module(own, Struct("other", 4, (Member("m", 1, 0),)), Struct("node", 4, (Member("x", 1, 0),)))
    assert [one.of_other(two, 2), one.of_other(two, 3), one.of_other(two, 4)] == [2, 4, 0]
    assert [two.of_other(one, 4), two.of_other(one, 3)] == [3, 0]
    assert kernels.of_other(one, 4) == 0
    assert two.canonical(5) == 5  # not the kernel's, though of its name and size


@pytest.mark.parametrize("first", [-32, 0])
def test_what_lies_deep_around_one_part(first):
    """A struct that holds one of two links in a part of its own counts, from whichever link the search sets out: it
    ends early around a link of many holders (rps_trigger_softirq's struct softnet_data with its backlog)."""
    link = Struct("list_head", 16, (Member("next", 2, 0), Member("prev", 2, 64)))
    inner = Struct("inner", 24, (Member("link", 3, 0), Member("n", 1, 128)))
    right = Struct("right", 64, (Member("link", 3, 0), Member("inner", 4, 256)))
    wrong = Struct("wrong", 96, (Member("a", 3, 256), Member("b", 3, 512)))
    many = [Struct(f"h{number}", 16, (Member("link", 3, 0),)) for number in range(401)]
    types = Types(Btf(write([Int("int", 4, True), Ptr(3), link, inner, right, wrong, *many])))
    parts = sorted([(3, -32), (3, 0)], key=lambda part: part[1] != first)
    uses = {(0, 8), (8, 8), (32, 8), (40, 8)}
    assert enlarge(types, parts, uses, "f") is None
    assert enlarge(types, parts, uses, "right_f") == (5, 0)
    assert enlarge(types, parts, {*uses, (48, 4)}, "f") == (5, 0)  # which has a member there


def test_what_leaves_a_function():
    """Calls and jumps out of a piece are known before its blocks are made; jumps within it are none of them."""
    kernel = MiniKernel(
        ITEM,
        {
            "f": ["85 c0", "74 02", "31 c0", "0f 85 f4 00 00 00", "call g", "jmp h"],  # to f.cold, which lies STEP on
            "f.cold": ["8b 47 08", "c3"],
            "g": ["c3"],
            "h": ["c3"],
        },
    )
    engine = Index(kernel, use_cache=False, processes=1).engine
    symbols = kernel.symbols[None]
    starts = {name: symbols.starts[symbols.named(name)[0]] for name in ("f", "f.cold", "g", "h")}
    unit = Unit(engine.text(None), symbols.named("f")[0])
    assert unit.leaves == {starts["f.cold"], starts["g"], starts["h"]}
    assert {starts["f"], starts["f"] + 6, starts["f.cold"]} <= unit.blocks.keys()
    assert unit.order[0].start == starts["f"]
