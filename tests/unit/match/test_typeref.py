"""Written types against BTF."""

from __future__ import annotations

import pytest
from support.fakekernel import CTypes

from klasy.lang.ast import TagKind, TypeRef
from klasy.match.typeref import TypeRefError, canonical_basic, find_base, same_type, spelled
from klasy.source import SourceFile, Span

SPAN = Span(SourceFile("t", "t"), 0, 1)

TYPES = CTypes(
    """
    typedef unsigned int u32;
    typedef u32 __be32;
    typedef struct { int counter; } atomic_t;
    struct sock { u32 family; };
    typedef struct sock sock;
    struct pte { int low; };
    typedef unsigned long pte;
    struct both { int a; };
    union both { int b; };
    union only { int b; };
    struct sk_buff { struct sock *sk; };
    struct sk_buff_head { struct sk_buff *next; };
    enum colour { RED, GREEN };
    struct later;
    typedef int (*handler_t)(struct sock *sk);
    void f(const struct sock *a, u32 *b, const char *c, atomic_t *d, struct sk_buff **e, enum colour g,
           unsigned long h, void *i, handler_t j, volatile int *k, struct later *l, char m[4], const char *const n);
    """
)
BTF = TYPES.btf
PARAMS = {param.name: param.type_id for param in BTF.proto(TYPES.functions["f"]).params}


def ref(text: str) -> TypeRef:
    """A written type from its text: qualifiers, keyword, name, then a blank and stars."""
    words = text.split()
    pointers = len(words.pop()) if not words[-1].strip("*") else 0
    const, volatile = "const" in words, "volatile" in words
    words = [w for w in words if w not in ("const", "volatile")]
    tag = TagKind(words.pop(0)) if words[0] in ("struct", "union", "enum") else TagKind.NONE
    return TypeRef(SPAN, tag, " ".join(words), pointers, (), const, volatile)


def fault(text: str) -> TypeRefError:
    with pytest.raises(TypeRefError) as caught:
        find_base(BTF, ref(text))
    return caught.value


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("unsigned long", "long unsigned int"),
        ("long unsigned int", "long unsigned int"),
        ("unsigned", "unsigned int"),
        ("short", "short int"),
        ("unsigned long long int", "long long unsigned int"),
        ("signed char", "signed char"),
        ("char", "char"),
        ("_Bool", "_Bool"),
        ("u32", None),
        ("long char", None),
        ("", None),
    ],
)
def test_basic_types_in_any_order(written: str, spelt: str | None) -> None:
    """The keywords of a basic type may stand in any order; BTF has one spelling."""
    assert canonical_basic(written) == spelt


def test_struct_may_be_left_out() -> None:
    """A bare name is a typedef, a struct's or a union's tag, or an enum's if nothing else has it."""
    assert BTF.c_name(find_base(BTF, ref("sk_buff *"))) == "struct sk_buff"
    assert BTF.c_name(find_base(BTF, ref("only"))) == "union only"
    assert BTF.c_name(find_base(BTF, ref("u32"))) == "u32"
    assert BTF.c_name(find_base(BTF, ref("colour"))) == "enum colour"
    assert find_base(BTF, ref("void *")) == 0
    assert BTF.c_name(find_base(BTF, ref("unsigned long"))) == "long unsigned int"


def test_typedef_of_its_own_struct_is_not_ambiguous() -> None:
    """``typedef struct sock sock`` gives one type two names."""
    assert BTF.c_name(find_base(BTF, ref("sock"))) == "sock"


def test_ambiguous_names_both() -> None:
    """A bare name of two different types is an error that names both and says how to choose."""
    two = fault("both *").diagnostic
    assert two.code == "ambiguous-type"
    assert "struct both" in two.message
    assert "union both" in two.message
    assert any("write 'union both'" in hint for hint in two.hints)
    typedef = fault("pte").diagnostic
    assert typedef.code == "ambiguous-type"
    assert "typedef pte" in typedef.message
    assert "struct pte" in typedef.message
    assert BTF.c_name(find_base(BTF, ref("struct pte"))) == "struct pte"


def test_unknown_type_suggests() -> None:
    """A type that the kernel lacks is an error with the nearest names, as they are to be written."""
    bare = fault("sk_bufff *").diagnostic
    assert bare.code == "unknown-type"
    assert "'struct sk_buff'" in bare.hints[0]
    assert fault("struct mbuf *").diagnostic.message == "the kernel has no type 'struct mbuf'"


def test_wrong_tag() -> None:
    """``struct`` before a union's tag, or before a typedef's name, is said to be that."""
    assert "'only' is a union" in fault("struct only").diagnostic.message
    assert "'u32' is a typedef of 'unsigned int'" in fault("struct u32").diagnostic.message


@pytest.mark.parametrize(
    ("param", "text"),
    [
        ("a", "struct sock *"),
        ("a", "sock *"),
        ("a", "const struct sock *"),
        ("b", "unsigned int *"),
        ("b", "u32 *"),
        ("b", "__be32 *"),
        ("c", "char *"),
        ("c", "const char *"),
        ("d", "atomic_t *"),
        ("e", "struct sk_buff **"),
        ("g", "enum colour"),
        ("h", "long unsigned int"),
        ("i", "void *"),
        ("j", "handler_t"),
        ("k", "int *"),
        ("k", "volatile int *"),
        ("l", "struct later *"),
        ("m", "char *"),
        ("n", "char *"),
        ("a", "struct so* *"),
        ("b", "u* *"),
        ("b", "%int *"),
        ("e", "struct sk_* **"),
        ("i", "v* *"),
        ("g", "enum col*"),
    ],
)
def test_same(param: str, text: str) -> None:
    """Types compare after typedefs and const are stripped; wildcards match any name that a type has on the way."""
    assert same_type(BTF, PARAMS[param], ref(text))


@pytest.mark.parametrize(
    ("param", "text"),
    [
        ("a", "struct sk_buff *"),
        ("a", "struct sock"),
        ("a", "struct sock **"),
        ("a", "void *"),
        ("b", "const u32 *"),
        ("b", "int *"),
        ("h", "unsigned long long"),
        ("g", "unsigned int"),
        ("k", "const int *"),
        ("e", "struct sk_* *"),
        ("a", "union so* *"),
        ("d", "struct atomic* *"),
        ("i", "struct * *"),
    ],
)
def test_different(param: str, text: str) -> None:
    """Another type, depth or sign is another type; a written qualifier must be there."""
    assert not same_type(BTF, PARAMS[param], ref(text))


def test_a_module_shares_the_kernels_types() -> None:
    """In a module's BTF the kernel's types are found too, and those of the module besides."""
    module = CTypes("struct own { int x; }; int g(struct sock *sk, struct own *o);", TYPES)
    first, second = module.btf.proto(module.functions["g"]).params
    assert same_type(module.btf, first.type_id, ref("struct sock *"))
    assert same_type(module.btf, second.type_id, ref("own *"))
    assert fault("own *").diagnostic.code == "unknown-type"


def test_spelled_as_c() -> None:
    """A written type is shown as C writes it."""
    assert spelled(ref("const struct sock **")) == "const struct sock **"
    assert spelled(ref("unsigned long")) == "unsigned long"
