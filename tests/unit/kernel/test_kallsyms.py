"""Symbols from listings such as /proc/kallsyms gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.kernel.kallsyms import (
    Symbols,
    SymbolsHidden,
    clone_of,
    data_symbols,
    kernel_symbols,
    lookup,
    module_symbols,
    note_traceable,
    places,
    text_start,
)
from klasy.kernel.model import Clone, DataSymbol

TEXT = 0xFFFF_FFFF_9000_0000
MODULE = 0xFFFF_FFFF_C040_0000

LISTING = b"""\
0000000000000000 A fixed_percpu_data
0000000000000000 A __per_cpu_start
0000000000000040 A runqueues
0000000000000c40 A __per_cpu_end
ffffffff90000000 T _stext
ffffffff90000000 T _text
ffffffff90000000 T startup_64
ffffffff90000030 t helper
ffffffff90000050 t __pfx_kfree
ffffffff90000060 T kfree
ffffffff900000a0 t helper
ffffffff900000c0 t free_it.part.0
ffffffff900000c0 W free_alias
ffffffff900000d0 t kfree.cold
ffffffff900000e0 T __noinstr_text_start
ffffffff900000f0 T last
ffffffff90000100 T _etext
ffffffff90200000 D jiffies
ffffffff90200000 D jiffies_64
ffffffff90200040 b count
ffffffff90200048 B end
ffffffff90300000 T _sinittext
ffffffff90300010 T start_kernel
ffffffffc0400010 t mod_b\t[mod]
ffffffffc0402000 d mod_data\t[mod]
ffffffffc0400000 t mod_a\t[mod]
ffffffffc0402010 b mod_bss\t[mod]
ffffffffc0400010 t cleanup_module\t[mod]
ffffffffc0300000 t kfree\t[other]
ffffffffc0600000 t bpf_prog_1\t[bpf]
"""


@pytest.fixture
def symbols():
    return kernel_symbols(LISTING)


def test_functions_are_those_of_the_kernels_text(symbols):
    """What lies between _text and _etext counts, without padding and the linker script's own places."""
    assert symbols.all_names() == [
        "startup_64", "helper", "kfree", "helper", "free_it.part.0", "free_alias", "kfree.cold", "last"
    ]  # fmt: skip
    assert symbols.base == TEXT
    assert symbols.address(2) == TEXT + 0x60


def test_sizes_run_to_the_next_symbol_of_any_kind(symbols):
    """Padding and places end a function; other names of one address do not; the last one ends with the text."""
    assert list(symbols.sizes) == [0x30, 0x20, 0x40, 0x20, 0x10, 0x10, 0x10, 0x10]
    assert symbols.end == TEXT + 0x100


def test_names_are_counted(symbols):
    """Each function knows how many carry its name."""
    assert list(symbols.shares) == [1, 2, 1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0x60, "kfree"),
        (0x9F, "kfree"),
        (0x58, None),  # padding
        (0xC5, "free_it.part.0"),  # the first of two names
        (0xFF, "last"),
        (0x100, None),
        (-1, None),
    ],
)
def test_at(symbols, address, name):
    """An address belongs to the function around it, not to padding."""
    found = symbols.at(TEXT + address)
    assert (None if found is None else symbols.name(found)) == name


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("kfree", ["kfree", "kfree.cold"]),
        ("kfree.cold", ["kfree.cold"]),
        ("free_it", ["free_it.part.0"]),
        ("free_*", ["free_it.part.0", "free_alias"]),
        ("*ree*", ["kfree", "free_it.part.0", "free_alias", "kfree.cold"]),
        ("*er", ["helper", "helper"]),
        ("h*p*r", ["helper", "helper"]),
        ("kfre", []),
        ("free", []),
        ("k.ree", []),
        ("", []),
    ],
)
def test_matching(symbols, pattern, names):
    """A glob covers the whole name, or the whole name without a clone's suffix; only the star is special."""
    assert [symbols.name(i) for i in symbols.matching(pattern)] == names


@pytest.mark.parametrize(
    ("start", "end", "names"),
    [
        (TEXT, TEXT + 0x31, ["startup_64", "helper"]),
        (TEXT + 1, TEXT + 0x30, []),
        (TEXT + 0xC0, TEXT + 0xC1, ["free_it.part.0", "free_alias"]),
        (0, TEXT, []),
        (TEXT + 0xF0, 2**64, ["last"]),
    ],
)
def test_names_between(symbols, start, end, names):
    """The names of functions that begin in a range, its end not included, all names of a place among them."""
    assert symbols.names_between(start, end) == names


def test_matching_everything(symbols):
    """A lone star matches every function."""
    assert symbols.matching("*") == list(range(8))


def test_named_is_exact(symbols):
    """named takes no suffix."""
    assert symbols.named("kfree") == [2]
    assert symbols.named("helper") == [1, 3]
    assert symbols.named("elper") == []


def test_saved_and_loaded_elsewhere(symbols):
    """Symbols survive their bytes and move with the object."""
    again = Symbols.load(memoryview(symbols.dump()), TEXT + 0x1000)
    assert again.all_names() == symbols.all_names()
    assert again.address(2) == symbols.address(2) + 0x1000
    assert [again.name(i) for i in again.matching("kfree")] == ["kfree", "kfree.cold"]
    for wrong in (symbols.dump()[:-1], b"", symbols.dump() + b"\0"):
        with pytest.raises(ValueError, match=r"short|agree"):
            Symbols.load(memoryview(wrong), 0)


def test_modules():
    """A module's functions are found in any order; what is no loaded module is left out."""
    found = module_symbols(LISTING, {"mod": MODULE, "empty": 0xFFFF_FFFF_C050_0000})
    assert list(found) == ["mod", "empty"]
    assert found["mod"].all_names() == ["mod_a", "mod_b", "cleanup_module"]
    assert list(found["mod"].starts) == [0, 0x10, 0x10]
    assert list(found["mod"].sizes) == [0x10, 0xFF0, 0xFF0]
    assert len(found["empty"]) == 0
    assert found["empty"].at(0xFFFF_FFFF_C050_0000) is None


def test_modules_that_initialised_under_ftrace():
    """What ftrace remembers of a module's freed initialisation, behind all modules, is none of its functions."""
    freed = b"ffffffffc0999000 t mod_init\t[mod]\n"
    assert b"mod_a" in LISTING
    found = module_symbols(LISTING + freed, {"mod": MODULE})
    assert found["mod"].all_names() == module_symbols(LISTING, {"mod": MODULE})["mod"].all_names()


@pytest.mark.parametrize(
    ("available", "own", "inside"),
    [
        (b"", None, None),
        (b"kfree\nlast\n", {"kfree", "last"}, set()),
        (b"kfree\nrun [m]\n", {"kfree"}, {"run"}),
        (b"run [m]\nkfree [m]\nstop [other]\nlast\n", {"last"}, {"run"}),
    ],
)
def test_what_ftrace_lists(available, own, inside):
    """A name stands for a function of the object that is named with it, wherever in the list it is."""
    module = Symbols.build(MODULE, [MODULE, MODULE + 16], [MODULE + 16, MODULE + 32], [b"run", b"stop"])
    tables = {None: kernel_symbols(LISTING), "m": module}
    note_traceable(tables, available)
    for names, table in ((own, tables[None]), (inside, module)):
        if names is None:
            assert table.listed is None
        else:
            listed = {table.name(i) for i in range(len(table)) if table.listed[i]}
            assert listed == names


def test_places_of_symbols():
    """Symbols of the kernel proper by name, whatever their type; not of modules, nor ends of other names."""
    more = b"ffffffffc0400000 d count\t[m]\nffffffff90300000 d discount\n"
    wanted = ("count", "jiffies", "end", "absent", "t_start", "runqueues")
    assert places(LISTING + more, wanted) == {
        "count": 0xFFFF_FFFF_9020_0040,
        "jiffies": 0xFFFF_FFFF_9020_0000,
        "end": 0xFFFF_FFFF_9020_0048,
        "runqueues": 0x40,
    }


def test_hidden_addresses():
    """Zero addresses, which others than root see, are an error and not an empty kernel."""
    hidden = b"".join(b"0" * 16 + line[16:] + b"\n" for line in LISTING.splitlines())
    with pytest.raises(SymbolsHidden):
        kernel_symbols(hidden)
    with pytest.raises(SymbolsHidden):
        kernel_symbols(b"")


def test_text_start():
    """The base is known from the beginning of a listing alone, and unknown before its line is whole."""
    head = LISTING[: LISTING.index(b"T startup")]
    assert text_start(head) == TEXT
    assert text_start(LISTING[: LISTING.index(b" _text") + 4]) is None


@pytest.mark.parametrize(
    ("name", "base", "clone"),
    [
        ("kfree", "kfree", Clone.NONE),
        ("f.constprop.0", "f", Clone.CONSTPROP),
        ("f.isra.0", "f", Clone.ISRA),
        ("f.part.12", "f", Clone.PART),
        ("f.cold", "f", Clone.COLD),
        ("f.isra.0.cold", "f", Clone.COLD),
        ("f.part.0.constprop.0", "f", Clone.PART),
        ("f.llvm.123", "f", Clone.OTHER),
        (".odd", ".odd", Clone.NONE),
    ],
)
def test_clone_of(name, base, clone):
    """The suffix tells what the compiler made of a function; a cold piece is one whatever else it is."""
    assert clone_of(name) == (base, clone)


def test_lookup_finds_any_symbol():
    """Variables, boot code and modules' symbols are found by name or glob."""
    assert [symbol.name for symbol, _ in lookup(LISTING, "jiffies*")] == ["jiffies", "jiffies_64"]
    assert [(s.name, s.module) for s, _ in lookup(LISTING, "mod_d*")] == [("mod_data", "mod")]
    assert lookup(LISTING, "jiff") == []
    assert [s.name for s, _ in lookup(LISTING, "j**********************************s")] == ["jiffies"]
    assert [(s.name, s.module) for s, _ in lookup(LISTING, "kfree")] == [("kfree", None), ("kfree", "other")]
    assert [s.name for s, _ in lookup(LISTING, "*fre*")] == [
        "__pfx_kfree", "kfree", "free_it.part.0", "free_alias", "kfree.cold", "kfree",
    ]  # fmt: skip
    assert len(lookup(LISTING, "*")) == len(LISTING.splitlines())


def test_data_symbols():
    """A variable's size runs to the next address; a per-CPU one is marked; functions are none."""
    assert data_symbols(LISTING, "jiffies") == [DataSymbol("jiffies", 0xFFFF_FFFF_9020_0000, 0x40, None, False)]
    assert data_symbols(LISTING, "count") == [DataSymbol("count", 0xFFFF_FFFF_9020_0040, 8, None, False)]
    assert data_symbols(LISTING, "runqueues") == [DataSymbol("runqueues", 0x40, 0xC00, None, True)]
    assert data_symbols(LISTING, "mod_data") == [DataSymbol("mod_data", MODULE + 0x2000, 0x10, "mod", False)]
    assert data_symbols(LISTING, "kfree") == []


names = st.lists(st.text("abc_", min_size=1, max_size=4), min_size=1, max_size=20)


@given(names, st.text("abc_*", min_size=1, max_size=5))
def test_globs_agree_with_an_obvious_matcher(found, pattern):
    """matching gives what testing each name by hand gives."""
    table = Symbols.build(
        0, [16 * i for i in range(len(found))], [16 * i + 16 for i in range(len(found))], [n.encode() for n in found]
    )

    def obvious(text: str, glob: str) -> bool:
        if not glob:
            return not text
        if glob[0] == "*":
            return any(obvious(text[i:], glob[1:]) for i in range(len(text) + 1))
        return bool(text) and text[0] == glob[0] and obvious(text[1:], glob[1:])

    assert table.matching(pattern) == [i for i, name in enumerate(found) if obvious(name, pattern)]
    assert [table.name(i) for i in range(len(found))] == found
