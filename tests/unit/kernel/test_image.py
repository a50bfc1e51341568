"""What all kernel models share, on a small image made by hand."""

from __future__ import annotations

import struct

import pytest

from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.write import write
from klasy.errors import KernelLacks
from klasy.kernel import callsites
from klasy.kernel.image import KernelImage
from klasy.kernel.kallsyms import Symbols
from klasy.kernel.kprobes import Covered, Probes
from klasy.kernel.livetext import LiveText
from klasy.kernel.model import CallKind, Way

BASE = 0xFFFF_FFFF_8100_0000
MODULE = 0xFFFF_FFFF_C000_0000
NOP5 = bytes.fromhex("0f1f440000")
RET = b"\xc3"


def call(at: int, target: int, opcode: bytes = b"\xe8") -> bytes:
    return opcode + struct.pack("<i", target - at - len(opcode) - 4)


class Image(KernelImage):
    """Functions of 0x40 bytes each: their code by name; ``module`` ones lie in the module "mod"."""

    def __init__(self, code: dict[str, bytes], module: dict[str, bytes] | None = None, probes=None, btf=None) -> None:
        super().__init__("1.0", "00")
        self.memory = {}
        self.tables = {}
        self.probes = probes or {}
        self.types = btf
        for name, base, functions in ((None, BASE, code), ("mod", MODULE, module or {})):
            if functions:
                starts = [base + 0x40 * i for i in range(len(functions))]
                names = [function.encode() for function in functions]
                self.tables[name] = Symbols.build(base, starts, [start + 0x40 for start in starts], names)
                self.memory[base] = bytearray(b"".join(text.ljust(0x40, b"\x90") for text in functions.values()))

    @property
    def symbols(self):
        return self.tables

    def read(self, address, size):
        base = MODULE if address >= MODULE else BASE
        return bytes(self.memory[base][address - base : address - base + size])

    def unprobed(self, address, size):
        return LiveText(self).healed(address, self.read(address, size), Probes(self.probes, {}))

    def blacklist(self):
        return b""

    def place(self, name):
        return None

    def module_sections(self, module):
        return {}

    def load_btf(self, module, base):
        return None if module else self.types


def only(kernel, name):
    (found,) = kernel.functions(name)
    return found


def test_calls_and_tail_calls():
    """Calls and jumps to an entry are found in the kernel and its modules, with their callers."""
    kernel = Image(
        {
            "target": NOP5 + RET,
            "caller": NOP5 + call(BASE + 0x45, BASE),
            "jumper": NOP5 + call(BASE + 0x85, BASE, b"\xe9") + call(BASE + 0x8A, BASE, b"\x0f\x84"),
            "middle": NOP5 + call(BASE + 0xC5, BASE + 5),
        },
        {"inside": NOP5 + call(MODULE + 5, BASE)},
    )
    sites = kernel.callers([only(kernel, "target")])
    assert [(str(s.caller), s.offset, s.kind, s.length) for s in sites] == [
        ("caller", 5, CallKind.DIRECT, 5),
        ("jumper", 5, CallKind.TAIL, 5),
        ("jumper", 10, CallKind.TAIL, 6),
        ("inside [mod]", 5, CallKind.DIRECT, 5),
    ]
    assert all(site.callee == only(kernel, "target") for site in sites)
    for module in (None, "mod"):
        within = callsites.callers_within(kernel, module, [only(kernel, "target")])
        assert within == [site for site in sites if site.caller.module == module]


def test_what_stays_within_one_function_is_no_call():
    """Jumps between a function and its cold piece, around a whole function, and returns through thunks are no calls."""
    kernel = Image(
        {
            "f": NOP5
            + call(BASE + 5, BASE + 0x40, b"\xe9")
            + call(BASE + 10, BASE, b"\xe9")
            + call(BASE + 15, BASE + 0x80, b"\xe9"),
            "f.cold": call(BASE + 0x40, BASE, b"\xe9"),
            "__x86_return_thunk": RET,
        }
    )
    assert kernel.callers(kernel.functions("*")) == []
    assert kernel.calls_in(kernel.functions("f")) == []


def test_a_tracers_call_is_no_call_of_the_functions():
    """The call that ftrace puts at a traced function's entry goes to ftrace and is not listed; a first call is."""
    code = {
        "ftrace_caller": RET,
        "traced": call(BASE + 0x40, BASE) + b"\xff\xd0",
        "trampoline": call(BASE + 0x80, MODULE + 0x10_0000),
        "plain": call(BASE + 0xC0, BASE + 0x40),
    }
    kernel = Image(code)
    assert [site.kind for site in kernel.calls_in([only(kernel, "traced")])] == [CallKind.INDIRECT]
    assert kernel.calls_in([only(kernel, "trampoline")]) == []
    assert [site.callee.name for site in kernel.calls_in([only(kernel, "plain")])] == ["traced"]
    assert [kernel.has_ftrace_site(only(kernel, name).address) for name in ("traced", "trampoline", "plain")] == [
        True,
        True,
        False,
    ]


def test_indirect_thunks():
    """A call of a retpoline thunk is an indirect call."""
    kernel = Image({"__x86_indirect_thunk_rax": RET, "f": NOP5 + call(BASE + 0x45, BASE)})
    (site,) = kernel.calls_in([only(kernel, "f")])
    assert (site.kind, site.callee, site.return_address) == (CallKind.INDIRECT, None, BASE + 0x4A)


@pytest.mark.parametrize("known", [b"\xe8", None])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_text_under_a_probe(known, size):
    """The byte under a probe is put back, or guessed from where the rest leads, however little is asked for."""
    kernel = Image({"target": NOP5 + RET, "f": NOP5 + call(BASE + 0x45, BASE)}, probes={BASE + 0x45: Covered(known)})
    whole = kernel.read(BASE + 0x45, 5)
    kernel.memory[BASE][0x45] = 0xCC
    assert kernel.text(BASE + 0x45, size) == whole[:size]
    assert [site.address for site in kernel.callers([only(kernel, "target")])] == [BASE + 0x45]


def test_a_tail_call_under_a_probe():
    """A probed jump is a jump still, and its function ends the call chain as without the probe."""
    code = {"target": NOP5 + RET, "f": NOP5 + call(BASE + 0x45, BASE, b"\xe9")}
    kernel = Image(code, probes={BASE + 0x45: Covered(b"\xe9")})
    kernel.memory[BASE][0x45] = 0xCC
    assert [site.kind for site in kernel.callers([only(kernel, "target")])] == [CallKind.TAIL]


LEA = bytes.fromhex("488d642408")
JUMP = bytes.fromhex("e911223344")


@pytest.mark.parametrize(
    "live",
    [JUMP, b"\xcc" + JUMP[1:], b"\xcc" + LEA[1:], LEA],
    ids=["optimised", "half-way", "breakpoint", "not yet there"],
)
@pytest.mark.parametrize(("start", "size"), [(0, 16), (5, 5), (5, 2), (6, 4), (7, 1), (9, 3), (10, 4)])
def test_text_under_an_optimised_probe(live, start, size):
    """All five bytes that an optimised probe replaced are put back, in whatever state the text is caught."""
    code = NOP5 + LEA + RET * 11
    kernel = Image({"f": code}, probes={BASE + 5: Covered(LEA[:1], JUMP[1:], LEA[1:])})
    kernel.memory[BASE][5:10] = live
    assert kernel.text(BASE + start, size) == code[start : start + size]
    assert kernel.object_text(None)[:16] == code[:16]


def test_a_breakpoint_without_a_probe_stays():
    """An int3 that no probe is known for is left as it is."""
    kernel = Image({"f": NOP5 + b"\xcc\xcc"})
    assert kernel.text(BASE + 5, 2) == b"\xcc\xcc"


def test_instruction_length():
    """The length is told where an instruction begins, and nothing inside one or outside of all functions."""
    kernel = Image({"f": NOP5 + b"\x48\x89\xe5" + RET})
    assert [kernel.instruction_length(BASE + at) for at in (0, 1, 5, 6, 8)] == [5, None, 3, None, 1]
    assert kernel.instruction_length(BASE - 1) is None


def test_prototypes():
    """A function knows its prototype; a clone has none; without BTF, none has, and asking for the types says why."""
    btf = Btf(write([t.FuncProto(0, ()), t.Func("f", 1)]))
    kernel = Image({"f": RET, "f.isra.0": RET, "g": RET}, btf=btf)
    assert [(f.name, f.proto) for f in kernel.functions("*")] == [("f", 2), ("f.isra.0", None), ("g", None)]
    bare = Image({"f": RET})
    assert only(bare, "f").proto is None
    with pytest.raises(KernelLacks, match="BTF"):
        _ = bare.btf


def test_functions_of_one_name_with_different_types():
    """Where BTF has two prototypes for a name, none is taken; equal ones are one."""
    types = [t.Int("int", 4, True), t.FuncProto(0, ()), t.FuncProto(1, ()), t.FuncProto(0, ())]
    different = Image({"f": NOP5}, btf=Btf(write([*types, t.Func("f", 2), t.Func("f", 3)])))
    assert only(different, "f").proto is None
    assert different.refusal(BASE, only(different, "f"), Way.FENTRY).code == "duplicate-name"
    equal = Image({"f": NOP5}, btf=Btf(write([*types, t.Func("f", 2), t.Func("f", 4)])))
    assert only(equal, "f").proto == 5


def test_functions_of_one_name_with_different_names_of_parameters():
    """They are one; where one of them stands for a system call that was not built, the other is taken."""
    int_ = t.Int("int", 4, True)
    protos = [t.FuncProto(0, (t.Param(name, 1),)) for name in ("__unused", "m", "seq")]
    found = Image({"f": NOP5}, btf=Btf(write([int_, *protos, t.Func("f", 3), t.Func("f", 4)])))
    assert only(found, "f").proto == 5
    assert found.refusal(BASE, only(found, "f"), Way.FENTRY) is None
    found = Image({"f": NOP5}, btf=Btf(write([int_, *protos, t.Func("f", 2), t.Func("f", 3)])))
    assert only(found, "f").proto == 6
    other = t.FuncProto(0, (t.Param("m", 0),))
    found = Image({"f": NOP5}, btf=Btf(write([int_, *protos, other, t.Func("f", 2), t.Func("f", 5)])))
    assert only(found, "f").proto is None
