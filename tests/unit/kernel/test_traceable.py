"""What can be probed, on the snapshots of the lab's kernels and on a small image made by hand.

tests/kernel/test_kernel_traceable.py compares the same answers with the kernel's own.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import pytest

from klasy.errors import KernelRefused
from klasy.kernel.image import KernelImage
from klasy.kernel.kallsyms import Symbols
from klasy.kernel.model import CallKind, Clone, Way
from klasy.kernel.patchsites import PatchSites, jump_labels, static_calls
from klasy.kernel.snapshot import SnapshotError, SnapshotKernel

SNAPSHOTS = Path(__file__).parents[2] / "data" / "kernels"


@functools.cache
def load(name):
    return SnapshotKernel.load(str(SNAPSHOTS / f"{name}.snapshot"))


@pytest.fixture(params=["6.1", "6.12"])
def kernel(request):
    return load(request.param)


def whole(kernel, name):
    (found,) = (f for f in kernel.functions(name) if f.clone is Clone.NONE)
    return found


def code(kernel, name, way, offset=0):
    function = whole(kernel, name)
    refusal = kernel.refusal(function.address + offset, function, way)
    return refusal and refusal.code


@pytest.mark.parametrize("way", list(Way))
def test_an_ordinary_function(kernel, way):
    """A function with nothing special to it can be probed in every way."""
    assert code(kernel, "tcp_sendmsg", way) is None
    assert code(kernel, "skb_dequeue", way) is None


@pytest.mark.parametrize(
    ("name", "way", "expected"),
    [
        ("_printk", Way.FENTRY, "variadic"),
        ("_printk", Way.KPROBE, None),
        ("do_exit", Way.FEXIT, "noreturn"),
        ("do_exit", Way.FENTRY, None),
        ("do_exit", Way.KRETPROBE, "noreturn"),
        ("asm_exc_page_fault", Way.KPROBE, "blacklist"),
        ("migrate_disable", Way.FENTRY, "trace-internal"),
        ("rcu_read_unlock_special", Way.FEXIT, "trace-internal"),
        ("copy_from_kernel_nofault", Way.FEXIT, "run-by-programs"),
        ("pgd_none", Way.KPROBE, "notrace"),  # several of them: see below
    ],
)
def test_special_functions(kernel, name, way, expected):
    """Functions that are refused, each for its reason and only in the ways it holds for."""
    for function in (f for f in kernel.functions(name) if f.clone is Clone.NONE):
        refusal = kernel.refusal(function.address, function, way)
        assert (refusal and refusal.code) == expected


def test_too_many_arguments(kernel):
    """What takes more registers than trampolines save is refused by trampolines, and by how many they save here."""
    (wide,) = (
        f
        for f in kernel.functions("__traceiter_iocost_ioc_vrate_adj")
        if f.proto and len(f.btf.proto(f.proto).params) == 7
    )
    refusal = kernel.refusal(wide.address, wide, Way.FENTRY)
    assert (refusal.code, "7" in refusal.reason) == ("too-many-args", True)
    try:
        kernel.trampoline_registers = 12
        assert kernel.refusal(wide.address, wide, Way.FENTRY) is None
    finally:
        kernel.trampoline_registers = 6


def test_only_entries_by_trampolines_and_return_probes(kernel):
    """Ways that know a function's entry only refuse every other address; none takes what is outside of it."""
    for way in (Way.KRETPROBE, Way.FENTRY, Way.FEXIT):
        assert code(kernel, "tcp_sendmsg", way, 9) == "not-an-entry"
    function = whole(kernel, "tcp_sendmsg")
    assert kernel.refusal(function.end, function, Way.KPROBE).code == "not-in-function"


def test_boundaries(kernel):
    """Inside a function every instruction but no other byte can be probed."""
    function = whole(kernel, "skb_dequeue")
    from klasy.kernel import insn_x86_64 as insn

    text = kernel.text(function.address, function.size)
    starts = {at for at, _ in insn.instructions(text, 0, len(text))}
    for at in range(9, function.size):
        assert (code(kernel, "skb_dequeue", Way.KPROBE, at) == "not-an-instruction") == (at not in starts)


def test_call_sites(kernel):
    """Ordinary calls can be probed; those in functions without a hook cannot."""
    sites = kernel.callers([whole(kernel, "consume_skb")])
    answers = [(kernel.traceability.notrace(s.caller), kernel.refusal(s.address, s.caller, Way.KPROBE)) for s in sites]
    assert all(refusal is not None and refusal.code == "notrace" for notrace, refusal in answers if notrace)
    assert sum(refusal is None for _, refusal in answers) > len(sites) / 2


@pytest.mark.parametrize("name", ["consume_skb", "skb_dequeue", "kfree", "putname", "might_resched", "cond_resched"])
def test_a_call_found_needs_no_decoding(kernel, name):
    """Of a call that was found as one it is said as of any instruction whether it can be probed."""
    answers = set()
    for site in kernel.callers(kernel.functions(name)):
        try:
            refusal = kernel.refusal(site.address, site.caller, Way.KPROBE)
        except KernelRefused:
            continue  # the snapshot does not hold the caller's text
        assert kernel.site_refusal(site) == refusal
        answers.add(refusal and refusal.code)
    assert None in answers or name.endswith("resched")


def test_rewritten_places(kernel):
    """Static calls and jump labels in text that is held are refused, each by its name."""
    sites = PatchSites(kernel, None)
    assert set(sites.jumps) == sites.jump_labels
    seen = set()
    for code_, addresses in (("static-call", sites.static_calls), ("jump-label", sites.jump_labels)):
        for address in addresses:
            function = kernel.function_at(address)
            try:
                held = (
                    function
                    and kernel.text(function.address, function.size)
                    and kernel.has_ftrace_site(function.address)
                )
            except KernelRefused:
                continue
            if held:
                refusal = kernel.refusal(address, function, Way.KPROBE)
                assert refusal is not None, function
                assert refusal.code in (code_, "blacklist")
                seen.add(refusal.code)
    assert seen >= {"static-call", "jump-label"}


def test_clones(kernel):
    """A clone has no prototype, so no trampoline, but a kprobe takes it; a cold piece has no entry."""
    clones = [f for f in kernel.functions("tcp_*") if f.clone in (Clone.ISRA, Clone.CONSTPROP, Clone.PART)]
    assert {kernel.refusal(f.address, f, Way.FENTRY).code for f in clones} == {"clone"}
    cold = [f for f in kernel.functions("tcp_*") if f.clone is Clone.COLD]
    assert {kernel.refusal(f.address, f, Way.KRETPROBE).code for f in cold} <= {"no-entry"}


def test_tables():
    """Entries of the tables give addresses relative to their own place; boot-time static calls are left out."""
    table = struct.pack("<4i", 0x100, 0x40, -8, 0x42)
    assert static_calls(table, 0x1000) == [0x1100]
    # unaligned, as in a module: the flags are in the low bits of where the key is, not in the distance
    assert static_calls(struct.pack("<2i", 0x100, 0x43), 0x1001) == [0x1101]
    assert jump_labels(struct.pack("<2iq2iq", 0x20, 0, 0, -16, 0, 0), 0x2000) == [0x2020, 0x2000]


class LastOfModule(KernelImage):
    """A module whose only function fills its page up with zeros; ``data`` is where its next section begins."""

    def __init__(self, body: bytes, data: int) -> None:
        super().__init__("1.0", "00")
        self.code = (bytes.fromhex("0f1f440000") + body).ljust(0x1000, b"\0")
        self.data = data
        end = 0xFFFF_FFFF_8100_0100
        self.tables = {
            None: Symbols.build(end - 0x100, [end - 0x100], [end], [b"other"]),
            "mod": Symbols.build(0xFFFF_FFFF_C000_0000, [0xFFFF_FFFF_C000_0000], [0xFFFF_FFFF_C000_1000], [b"last"]),
        }

    @property
    def symbols(self):
        return self.tables

    def read(self, address, size):
        return self.code[address - 0xFFFF_FFFF_C000_0000 :][:size]

    def blacklist(self):
        return b""

    def place(self, name):
        return None

    def module_sections(self, module):
        return {".data": self.data}


@pytest.mark.parametrize(
    ("body", "data", "expected"),
    [
        (b"\x90\x90\xc3", 0, None),  # an even number of zeros: the kernel's count ends with the page
        (b"\x90\xc3", 0, "end-of-module"),  # an odd one: it goes on behind it
        (b"\x90\xc3", 0xFFFF_FFFF_C000_1000, None),  # but the module's data are there
    ],
)
def test_the_last_function_of_a_module(body, data, expected):
    """Instructions of a module's last function are refused where the kernel would read behind the module's text."""
    kernel = LastOfModule(body, data)
    (last,) = kernel.functions("last")
    refusal = kernel.refusal(last.address + 5, last, Way.KPROBE)
    assert (refusal and refusal.code) == expected
    assert kernel.refusal(last.address, last, Way.KPROBE) is None  # the entry is ftrace's


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("ffd0", None),  # call rax
        ("ff5208", "indirect-memory"),  # call [rdx+8]
        ("ff25a1b2c3d4", "indirect-memory"),  # jmp [rip+..]
        ("ff2f", "not-emulated"),  # far jump
        ("0f0b", "bug"),  # ud2
        ("cc", "not-emulated"),  # int3
        ("48cf", "not-emulated"),  # iretq
        ("0f01c1", "not-emulated"),  # vmcall
        ("0f01f8", None),  # swapgs
        ("8ed0", "not-emulated"),  # mov ss, ax
        ("fa", None),  # cli
    ],
)
def test_instructions_that_cannot_be_emulated(body, expected):
    """Instructions that the kernel executes in no probe are refused by what they are."""
    kernel = LastOfModule(bytes.fromhex(body) + b"\xc3", 0xFFFF_FFFF_C000_1000)
    (last,) = kernel.functions("last")
    refusal = kernel.refusal(last.address + 5, last, Way.KPROBE)
    assert (refusal and refusal.code) == expected


def test_snapshots_hold_what_they_say(kernel):
    """Symbols, types and callers come from a snapshot; text that it does not hold is refused and not made up."""
    assert set(kernel.modules()) == {"br_netfilter", "tun"}
    assert (
        kernel.btf.c_prototype(whole(kernel, "skb_dequeue").proto)
        == "struct sk_buff *skb_dequeue(struct sk_buff_head *list)"
    )
    sites = kernel.callers([whole(kernel, "skb_dequeue")])
    assert {site.kind for site in sites} <= {CallKind.DIRECT, CallKind.TAIL}
    assert len(sites) >= 15
    far = whole(kernel, "acpi_ut_add_reference")
    with pytest.raises(KernelRefused, match="does not hold"):
        kernel.text(far.address, far.size)


@pytest.mark.parametrize("data", [b"", b"ELF", b"klasy kernel snapshot 1\n", b"klasy kernel snapshot 1\nrubbish"])
def test_what_is_no_snapshot(data):
    """Other bytes are refused."""
    with pytest.raises(SnapshotError):
        SnapshotKernel(data)


@pytest.mark.parametrize("pattern", ["s*", "*.constprop.0", "*.part.0", "__x64_sys_*", "kprobe*", "bpf_*", "n*mi*"])
def test_entries_of_many_functions_at_once(kernel, pattern):
    """Of many entries at once the same is said as of each by itself."""
    functions = [f for f in kernel.functions(pattern) if f.clone is not Clone.COLD]
    found = kernel.entry_refusals(functions)
    assert len(found) == len({function.address for function in functions}) > 5
    for function in functions:
        assert found[function.address] == kernel.refusal(function.address, function, Way.KPROBE), function
