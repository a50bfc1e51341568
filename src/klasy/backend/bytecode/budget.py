"""The budget of an aspect: its programs add up how long they run, and switch the aspect off when it is too much.

Time is taken at the program's beginning and at its end (bpf_ktime_get_ns), interrupts in between included, as the
kernel's own statistics do; what it costs to reach the program is in neither. Each CPU adds up by itself; a sixteenth of
its share of the budget at a time goes to the sum of all CPUs, so that they rarely touch the same word. The sum is of
windows of a second, each of which begins when the first such part comes in after the end of the one before.

When the sum exceeds the budget the aspect is switched off at that moment, not at the window's end, as by ``stop()``.
"""

from __future__ import annotations

from klasy.backend.artifact import (
    BUDGET_OVER,
    BUDGET_SIZE,
    BUDGET_SPAN,
    BUDGET_SPENT,
    BUDGET_WINDOW,
    CONTROL_ACTIVE,
    CONTROL_STOPPED,
    MAP_BUDGET,
    MAP_CONTROL,
    MAP_SPENT,
    STOPPED_BY_BUDGET,
    MapSpec,
)
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R8,
    R9,
    R10,
    add,
    atomic_cmpxchg,
    atomic_fetch_add,
    atomic_xchg,
    call,
    jump_if,
    load,
    load_imm,
    load_map_value,
    mov,
    store,
    store_imm,
    sub,
)
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.maps import Budget

WINDOW = 1_000_000_000  # ns
_KEY = -8


def budget_maps() -> list[MapSpec]:
    """What each CPU has spent and not handed over; the sum, see artifact.BUDGET_WINDOW."""
    return [MapSpec(MAP_SPENT, "percpu_array", 4, 8, 1), MapSpec(MAP_BUDGET, "array", 4, BUDGET_SIZE, 1)]


def begin(e: Emitter, slot: int) -> None:
    """Keep the time in the stack's word ``slot``. r1 is as before; r9 is not."""
    e.asm.emit(mov(R9, R1), call("ktime_get_ns"), store(R10, slot, R0), mov(R1, R9))


def end(e: Emitter, slot: int, budget: Budget) -> None:
    """Account for the run. r0 is as before; no other register is."""
    done, same, over = (e.asm.fresh_label(name) for name in ("accounted", "window", "within"))
    e.asm.emit(mov(R6, R0), call("ktime_get_ns"), mov(R7, R0), mov(R8, R0), load(R1, R10, slot), sub(R7, R1))
    e.asm.emit(store_imm(R10, _KEY, 0, 4))
    e.lookup(MAP_SPENT, _KEY)
    e.asm.emit(jump_if(R0, "==", 0, done), load(R1, R0, 0), add(R7, R1), store(R0, 0, R7))
    e.asm.emit(load_imm(R1, budget.part), jump_if(R7, "<", R1, done), store_imm(R0, 0, 0))
    # r7: what is handed over, r8: now
    e.asm.emit(load_map_value(R9, MAP_BUDGET), load(R0, R9, BUDGET_WINDOW), mov(R1, R8), sub(R1, R0))
    e.asm.emit(load_imm(R2, WINDOW), jump_if(R1, "s<", R2, same))
    e.asm.emit(mov(R2, R0), atomic_cmpxchg(R9, BUDGET_WINDOW, R8), jump_if(R0, "!=", R2, same))
    e.asm.emit(mov(R1, 0), atomic_xchg(R9, BUDGET_SPENT, R1))
    e.asm.label(same)
    e.asm.emit(mov(R1, R7), atomic_fetch_add(R9, BUDGET_SPENT, R1), add(R1, R7))
    e.asm.emit(load_imm(R2, budget.window), jump_if(R1, "<=", R2, over))
    e.asm.emit(load_map_value(R3, MAP_CONTROL, 0), load(R2, R3, CONTROL_STOPPED, 4), jump_if(R2, "!=", 0, over))
    e.asm.emit(load(R2, R9, BUDGET_WINDOW), sub(R8, R2), store(R9, BUDGET_OVER, R1), store(R9, BUDGET_SPAN, R8))
    e.asm.emit(store_imm(R3, CONTROL_STOPPED, STOPPED_BY_BUDGET, 4), store_imm(R3, CONTROL_ACTIVE, 0, 4))
    e.asm.label(over)
    e.asm.label(done)
    e.asm.emit(mov(R0, R6))
