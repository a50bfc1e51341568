"""``limit`` and ``stop``: a bucket of tokens in one word, and the switch of the aspect.

A bucket is the time when it will be full again (the theoretical arrival time of GCRA, ITU-T I.371): in the past it is
full, and each token that is taken puts it off by one interval. One compare-and-exchange takes a token, so that no two
CPUs take the same one. Where that fails, another has taken one meanwhile; after some tries in vain it is given up, as
if there were none: a limit is never exceeded.
"""

from __future__ import annotations

from klasy.backend.artifact import CONTROL_ACTIVE, CONTROL_STOPPED, MAP_CONTROL, MAP_LIMITS
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    add,
    atomic_cmpxchg,
    call,
    jump_if,
    load,
    load_imm,
    load_map_value,
    mov,
    store_imm,
    sub,
)
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.compiler import ir

TRIES = 4


def limit(e: Emitter, op: ir.Limit) -> None:
    """Take a token, or find none."""
    taken, none = (e.asm.fresh_label(name) for name in ("token", "none"))
    e.asm.emit(call("ktime_get_ns"), mov(R2, R0), load_map_value(R1, MAP_LIMITS, 8 * op.slot))
    for _ in range(TRIES):
        ahead = e.asm.fresh_label("ahead")
        e.asm.emit(load(R0, R1, 0), mov(R3, R0), jump_if(R3, ">=", R2, ahead), mov(R3, R2))
        e.asm.label(ahead)
        e.asm.emit(mov(R4, R3), sub(R4, R2), load_imm(R5, op.interval * (op.size - 1)), jump_if(R4, ">", R5, none))
        e.asm.emit(load_imm(R5, op.interval), add(R3, R5), mov(R5, R0), atomic_cmpxchg(R1, 0, R3))
        e.asm.emit(jump_if(R0, "==", R5, taken))
    e.asm.label(none)
    e.truth(op.dst, 0, taken)


def stop(e: Emitter) -> None:
    """From now on every program of the aspect returns at once."""
    e.asm.emit(
        load_map_value(R1, MAP_CONTROL, 0),
        store_imm(R1, CONTROL_STOPPED, 1, 4),
        store_imm(R1, CONTROL_ACTIVE, 0, 4),
    )
