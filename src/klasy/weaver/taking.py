"""Emptying a state without keys, so that nothing is lost that advice adds meanwhile.

The kernel has no call that reads an array's element and empties it in one step. A small program does: it exchanges each
word for a zero, which no addition on another processor can come between.
"""

from __future__ import annotations

from klasy.bpf import maps, program
from klasy.bpf import uapi as u
from klasy.bpf.asm import Assembler
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R10,
    add,
    atomic_xchg,
    call,
    exit_,
    jump_if,
    load,
    load_map,
    load_map_value,
    mov,
    store,
    store_imm,
)
from klasy.plain import TYPE_CHECKING
from klasy.state import WORD

if TYPE_CHECKING:
    from klasy.bpf.assembled import Assembled
    from klasy.bpf.maps import Map

_ZERO_KEY = bytes(4)


def take_words(held: Map, words: int) -> list[bytes]:
    """What the one element of an array holds, in words, which are 0 from then on; of each CPU if it is per CPU.

    Each word is taken in one step, not all of them together. Raises KernelRefused.
    """
    size = WORD * (1 + words)
    rows = []
    with maps.create("array", name="taken", key_size=4, value_size=size, max_entries=1) as taken:
        called = {"held": held, "taken": taken}
        code = _code(words, per_cpu=held.per_cpu)
        with program.load(u.BPF_PROG_TYPE_RAW_TRACEPOINT, code, name="take_words", maps=called) as taker:
            for cpu in range(maps.cpu_numbers()) if held.per_cpu else [0]:
                taken.update(_ZERO_KEY, cpu.to_bytes(WORD, "little") + bytes(WORD * words))
                taker.test_run(context=b"")
                rows.append((taken.lookup(_ZERO_KEY) or bytes(size))[WORD:])
    return rows


def _code(words: int, *, per_cpu: bool) -> Assembled:
    """The first word of ``taken`` is the CPU whose words are to follow."""
    code = Assembler()
    code.emit(load_map_value(R7, "taken"))
    if per_cpu:
        code.emit(load(R3, R7, 0), store_imm(R10, -4, 0, 4), load_map(R1, "held"), mov(R2, R10), add(R2, -4))
        code.emit(call("map_lookup_percpu_elem"), jump_if(R0, "==", 0, "out"), mov(R6, R0))
    else:
        code.emit(load_map_value(R6, "held"))
    for word in range(words):
        code.emit(mov(R1, 0), atomic_xchg(R6, WORD * word, R1), store(R7, WORD * (1 + word), R1))
    code.label("out")
    code.emit(mov(R0, 0), exit_())
    return code.assemble()
