"""x86-64's calling convention and entry bytes."""

from __future__ import annotations

import pytest

from klasy.kernel import arch_x86_64 as arch


def test_pt_regs():
    """Offsets of registers in pt_regs, as arch/x86/include/asm/ptrace.h lays it out."""
    assert (arch.PT_REGS["r15"], arch.PT_REGS["ax"], arch.PT_REGS["di"], arch.PT_REGS["ip"]) == (0, 80, 112, 128)
    assert (arch.PT_REGS["flags"], arch.PT_REGS["sp"], arch.PT_REGS_BYTES) == (144, 152, 168)
    assert all(name in arch.PT_REGS for name in (*arch.ARGUMENT_REGISTERS, arch.RESULT_REGISTER))


@pytest.mark.parametrize(
    ("code", "site"),
    [
        ("0f1f44000055", (0, None)),
        ("f30f1efa0f1f440000", (4, None)),
        ("660f1f000f1f440000", (4, None)),
        ("e80b000000", (0, 0x10)),
        ("f30f1efae8f7ffffff", (4, 0)),
        ("554889e5", None),
        ("f30f1efa55", None),
        ("0f1f40", None),
        ("", None),
    ],
)
def test_ftrace_site(code, site):
    """The site is the nop at the entry, or behind the landing mark; or the call in its place, with where it goes."""
    assert arch.ftrace_offset(bytes.fromhex(code)) == site


def test_untraced_entry():
    """A traced function's entry is given back its nop."""
    assert arch.untraced_entry(bytes.fromhex("f30f1efae811223344")) == bytes.fromhex("f30f1efa0f1f440000")
    assert arch.untraced_entry(bytes.fromhex("e81122334455565758")) == bytes.fromhex("0f1f440000")
