"""What the instructions of a counter take, without the way to the program.

    klasy lab -- .venv/bin/python benchmarks/counter.py [RUNS]

The counter that klasy's compiler emits, with the switch before it, and the one written by hand of `klasy bench hits`,
each ten times in one program (a socket filter, which BPF_PROG_TEST_RUN can run), in turn. Taken off is what the empty
program takes: in the column of the least, of its least; in that of the medians, run by run.
"""

from __future__ import annotations

import statistics
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack

from klasy.backend.artifact import CONTROL_SIZE, MAP_CONTROL, MAP_COUNTERS, counter_rows
from klasy.backend.bytecode.counters import Counters
from klasy.backend.bytecode.emitter import Emitter
from klasy.backend.bytecode.regs import Allocation
from klasy.bench import byhand, own
from klasy.bpf import maps, program
from klasy.bpf import uapi as u
from klasy.bpf.insn import R0, exit_, mov
from klasy.record import COUNTER_HITS

TIMES = 10
REPEATED = 200


def main(runs: int) -> None:
    """Measure and print."""
    plan = own.aspect("pointcut execution(null_lseek); before() { }", force="fentry").plan
    cpus = maps.cpu_numbers()
    counters = Counters(plan, cpus)

    def switch(e: Emitter, number: int) -> None:
        e.out_unless_active(f"out{number}")

    def klasy(e: Emitter, number: int) -> None:
        switch(e, number)
        counters.bump(e, 0, COUNTER_HITS)

    def by_hand(e: Emitter, number: int) -> None:
        byhand.count(e.asm, f"out{number}")

    pieces = {"empty": lambda *_: None, "by hand": by_hand, "klasy's": klasy, "klasy's switch alone": switch}
    size = counter_rows(cpus, 1).size
    with ExitStack() as stack:
        made = {
            "hits": maps.create("percpu_array", key_size=4, value_size=8, max_entries=1),
            MAP_CONTROL: maps.create("array", key_size=4, value_size=CONTROL_SIZE, max_entries=1),
            MAP_COUNTERS: maps.create("array", key_size=4, value_size=size, max_entries=1, flags=u.BPF_F_MMAPABLE),
        }
        made[MAP_CONTROL].update(bytes(4), struct.pack("<II", 1, 0))
        for each in made.values():
            stack.enter_context(each)
        programs = {name: stack.enter_context(_load(piece, made)) for name, piece in pieces.items()}
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, loaded in programs.items():
                times[name].append(loaded.test_run(data=bytes(64), repeat=REPEATED).duration / TIMES)
    least = {name: min(found) - min(times["empty"]) for name, found in times.items()}
    median = {
        name: statistics.median(own - empty for own, empty in zip(found, times["empty"], strict=True))
        for name, found in times.items()
    }
    print(f"{'ns':22} {'least':>7} {'of by hand':>10} {'median':>7} {'of by hand':>10}")
    for name in list(pieces)[1:]:
        ratios = (found[name] / found["by hand"] for found in (least, median))
        print("{:22} {:7.1f} {:10.2f} {:7.1f} {:10.2f}".format(
            name, *(part for pair in zip((least[name], median[name]), ratios, strict=True) for part in pair)
        ))  # fmt: skip


def _load(piece: Callable[[Emitter, int], None], made: dict[str, maps.Map]) -> program.Program:
    e = Emitter(Allocation({}, 8, 0))
    for number in range(TIMES):
        piece(e, number)
        e.asm.label(f"out{number}")
    e.asm.emit(mov(R0, 0), exit_())
    return program.load(u.BPF_PROG_TYPE_SOCKET_FILTER, e.asm.assemble(), name="counter", maps=made)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
