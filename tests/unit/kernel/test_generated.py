"""The names of code that the kernel makes while it runs."""

from __future__ import annotations

import pytest

from klasy.kernel import generated
from klasy.kernel.generated import GeneratedCode

LISTING = b"""\
ffffffff90000060 T kfree
ffffffff90300000 T _sinittext
ffffffff90300010 T start_kernel
ffffffff90300100 t setup
ffffffff90300200 T _einittext
ffffffffc0400010 t helper\t[veth]
ffffffffc0700000 t ftrace_trampoline\t[__builtin__ftrace]
ffffffffc0292000 t bpf_trampoline_6442510106\t[bpf]
ffffffffc0082654 t bpf_prog_6dada33efe164363_p0_fentry\t[bpf]
ffffffffc0082854 t bpf_prog_3c9319d36447cbf8_p1_fexit\t[bpf]
"""
MORE = b"ffffffffc0290000 t bpf_trampoline_6442510113\t[bpf]\n"


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (0xFFFF_FFFF_C008_2654, ("bpf_prog_6dada33efe164363_p0_fentry", 0, "bpf")),
        (0xFFFF_FFFF_C008_2853, ("bpf_prog_6dada33efe164363_p0_fentry", 0x1FF, "bpf")),
        (0xFFFF_FFFF_C008_2854, ("bpf_prog_3c9319d36447cbf8_p1_fexit", 0, "bpf")),
        (0xFFFF_FFFF_C029_203E, ("bpf_trampoline_6442510106", 0x3E, "bpf")),
        (0xFFFF_FFFF_C070_0001, ("ftrace_trampoline", 1, "__builtin__ftrace")),
        (0xFFFF_FFFF_C070_0FFF, ("ftrace_trampoline", 0xFFF, "__builtin__ftrace")),
        (0xFFFF_FFFF_C070_1000, None),  # such a trampoline has a page
        (0xFFFF_FFFF_C008_2653, None),
        (0xFFFF_FFFF_C020_0000, None),  # too far from anything
        (0xFFFF_FFFF_C040_0010, None),  # a module's function
        (0xFFFF_FFFF_9030_0014, ("start_kernel", 4, ".init.text")),
        (0xFFFF_FFFF_9030_01FF, ("setup", 0xFF, ".init.text")),
        (0xFFFF_FFFF_9030_0000, None),  # a place that the linker script names
        (0xFFFF_FFFF_9030_0200, None),
        (0xFFFF_FFFF_9000_0060, None),
        (0xFFFF_8880_0000_0000, None),
    ],
)
def test_what_is_there(address, place):
    """Code by address, with who made it; of the kernel what only started it, and nothing that modules brought along."""
    found = GeneratedCode(lambda: LISTING).function_at(address)
    assert (found and (found.name, address - found.address, found.module)) == place


def test_what_comes_later(monkeypatch):
    """The listing is read when an address is asked for, but not for each of many in a row."""
    now, read = [100.0], []
    listings = iter([LISTING, LISTING + MORE])
    monkeypatch.setattr(generated.time, "monotonic", lambda: now[0])

    def listing():
        read.append(now[0])
        return next(listings)

    code = GeneratedCode(listing)
    assert read == []
    assert code.function_at(0xFFFF_8880_0000_0000) is None  # no such code is there
    assert read == []
    assert code.function_at(0xFFFF_FFFF_C029_0010) is None
    assert code.function_at(0xFFFF_FFFF_C029_0010) is None
    now[0] += 1
    assert code.function_at(0xFFFF_FFFF_9030_0014).name == "start_kernel"  # which is there or not, for good
    assert read == [100.0]
    assert code.function_at(0xFFFF_FFFF_C029_2000).name == "bpf_trampoline_6442510106"
    assert code.function_at(0xFFFF_FFFF_C029_0010).name == "bpf_trampoline_6442510113"
    assert read == [100.0, 101.0]


def test_a_module_that_was_loaded_later():
    """Its functions, and nothing before it that would reach so far if it were not there."""
    listing = LISTING + b"ffffffffc0084000 t setup\t[late]\nffffffffc0084080 t work\t[late]\n"
    known = GeneratedCode(lambda: listing)
    assert known.function_at(0xFFFF_FFFF_C008_4090).name == "bpf_prog_3c9319d36447cbf8_p1_fexit"
    code = GeneratedCode(lambda: listing, lambda: {"late": 0xFFFF_FFFF_C008_4000})
    found = code.function_at(0xFFFF_FFFF_C008_4090)
    assert (found.name, found.address, found.module) == ("work", 0xFFFF_FFFF_C008_4080, "late")
    assert code.function_at(0xFFFF_FFFF_C040_0010) is None  # of another module, which others know


def test_a_slow_reading_is_not_made_often(monkeypatch):
    """It takes a busy reader a twentieth of its time."""
    now, read = [100.0], []
    monkeypatch.setattr(generated.time, "monotonic", lambda: now[0])

    def listing():
        read.append(now[0])
        now[0] += 0.5
        return LISTING

    code = GeneratedCode(listing)
    for _ in range(30):
        code.function_at(0xFFFF_FFFF_C029_0010)
        now[0] += 1
    assert read == [100.0, 110.5, 121.0]


def test_what_came_behind_something(monkeypatch):
    """A new trampoline near an old program, whose size nobody tells, is not taken for a part of it."""
    now = [100.0]
    listings = iter([LISTING, LISTING + b"ffffffffc0085000 t bpf_trampoline_6442510200\t[bpf]\n"])
    monkeypatch.setattr(generated.time, "monotonic", lambda: now[0])
    code = GeneratedCode(lambda: next(listings))
    assert code.function_at(0xFFFF_FFFF_C008_2654).name == "bpf_prog_6dada33efe164363_p0_fentry"
    now[0] += 1
    assert code.function_at(0xFFFF_FFFF_C008_5010).name == "bpf_trampoline_6442510200"


def test_none():
    """A kernel that has made nothing."""
    assert GeneratedCode(lambda: b"ffffffff90000060 T kfree\n").function_at(0xFFFF_FFFF_C029_0010) is None
