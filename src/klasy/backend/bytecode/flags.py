"""Whether a conditional jump will be taken, from the flags that a kprobe on it finds."""

from __future__ import annotations

from klasy.backend.bytecode.emitter import OUT
from klasy.bpf.insn import R1, R2, R3, and_, jump_if, load, mov, rsh, xor
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.compiler.ir import Var

_CARRY, _PARITY, _ZERO, _SIGN, _OVERFLOW = 0x001, 0x004, 0x040, 0x080, 0x800
# By the upper three bits of the condition code; an odd code is the opposite of the even one before it. Intel SDM
# volume 1, appendix B. For the last two the sign stands for "sign differs from overflow".
_MASKS = (_OVERFLOW, _CARRY, _ZERO, _CARRY | _ZERO, _SIGN, _PARITY, _SIGN, _SIGN | _ZERO)


def unless_taken(e: Emitter, ctx: Var, condition: int) -> None:
    """End the program where the jump of a condition code will not be taken. Uses r1 to r3."""
    e.asm.emit(load(R2, e.register(ctx, R1), PT_REGS["flags"]))
    if condition >= 12:  # signed comparisons: overflow, bit 11, is brought to the sign, bit 7
        e.asm.emit(mov(R3, R2), rsh(R3, 4), and_(R3, _SIGN), xor(R2, R3))
    mask = _MASKS[condition >> 1]
    if condition & 1:
        e.asm.emit(jump_if(R2, "&", mask, OUT))
        return
    taken = e.asm.fresh_label("taken")
    e.asm.emit(jump_if(R2, "&", mask, taken))
    e.go(OUT)
    e.asm.label(taken)
