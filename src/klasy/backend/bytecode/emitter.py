"""What every part of instruction selection needs: operands in registers, results to their places, code out of line.

r0 and r1 are free for use within one operation, as are r2 to r5 in an operation that calls (nothing that lives on
is in them there), once its operands are read.
"""

from __future__ import annotations

from klasy.backend.artifact import CONTROL_ACTIVE, MAP_CONTROL
from klasy.backend.bytecode.frame import Slot
from klasy.bpf.asm import Assembler
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R10,
    Reg,
    add,
    atomic_add,
    call,
    jump,
    jump_if,
    load,
    load_imm,
    load_map,
    load_map_value,
    mov,
    store,
    store_imm,
)
from klasy.bpf.uapi import BPF_NOEXIST
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.backend.bytecode.callers import Callers
    from klasy.backend.bytecode.code import Local
    from klasy.backend.bytecode.regs import Allocation, Place
    from klasy.backend.bytecode.task import Task
    from klasy.compiler.ir import Operand

OUT = "out"  # the label of the program's end
OFF = "off"  # the same, where nothing has been begun
DONE = "done"  # the same, for who has set r0, which is else 0


def fits_immediate(value: int) -> bool:
    """Whether a signed number can be the constant of a 64-bit instruction."""
    return -(1 << 31) <= value < 1 << 31


class Emitter:
    """Writes instructions into ``asm``."""

    def __init__(
        self,
        allocation: Allocation,
        *,
        space: str = "kernel",
        task: Task | None = None,
        callers: Callers | None = None,
    ) -> None:
        """``space``: whose memory pointers lead to, "kernel" or "user"; "" where an address tells. ``task``: where the
        kernel keeps what records say of the task, if that is known. ``callers``: the same of who called a program's
        function; there where the program asks for it.
        """
        self.asm = Assembler()
        self.allocation = allocation
        self.space = space
        self.ends_calls = False  # of system calls that are over: the program has the account of it
        self.names = False  # and strings that were noted for it
        self.task = task
        self.callers = callers
        self._cold: list[tuple[object, Callable[[], None]]] = []

    # --- operands and results

    def place(self, local: Local) -> Place | None:
        """Where a local lives; None if nothing ever reads or writes it."""
        return self.allocation.places.get(local)

    def into(self, register: Reg, operand: Operand | Local) -> None:
        """Put an operand into ``register``."""
        if isinstance(operand, int):
            self.asm.emit(load_imm(register, operand))
            return
        place = self.place(operand)
        assert place is not None, f"{operand} is read but lives nowhere"
        if isinstance(place, Slot):
            self.asm.emit(load(register, R10, place.offset, place.size))
        elif place != register:
            self.asm.emit(mov(register, place))

    def register(self, operand: Operand | Local, spare: Reg) -> Reg:
        """A register that holds an operand: its own, or ``spare``. Not to be written unless it is ``spare``."""
        if not isinstance(operand, int):
            place = self.place(operand)
            if isinstance(place, Reg):
                return place
        self.into(spare, operand)
        return spare

    def source(self, operand: Operand, spare: Reg) -> Reg | int:
        """An operand as the second one of an instruction: a constant if it fits, else a register."""
        if isinstance(operand, int) and fits_immediate(operand):
            return operand
        return self.register(operand, spare)

    def result(self, local: Local, spare: Reg = R0) -> Reg:
        """The register to make a result in, to be followed by :meth:`keep`."""
        place = self.place(local)
        return place if isinstance(place, Reg) else spare

    def keep(self, local: Local, register: Reg) -> None:
        """Put what ``register`` holds to the place of a result."""
        place = self.place(local)
        if isinstance(place, Slot):
            assert place.size == 8, "only reads of memory make short values, and they write the slot themselves"
            self.asm.emit(store(R10, place.offset, register))
        elif place is not None and place != register:
            self.asm.emit(mov(place, register))

    # --- calls

    def stack_address(self, register: Reg, offset: int) -> None:
        """``register`` = r10 + ``offset``."""
        self.asm.emit(mov(register, R10), add(register, offset))

    def read_memory(self, *, user: bool = False, string: bool = False) -> None:
        """Call the helper that reads memory, or a ``string``: that of the task's process where ``user``."""
        space = "user" if user else self.space
        self.asm.emit(call("_".join(word for word in ("probe_read", space, "str" if string else "") if word)))

    def lookup(self, map_name: str, key_offset: int) -> None:
        """r0 = address of the value in a map, or 0, for the key on the stack."""
        self.stack_address(R2, key_offset)
        self.asm.emit(load_map(R1, map_name), call("map_lookup_elem"))

    def count(self, map_name: str, key_offset: int, value_offset: int) -> None:
        """Add 1 to what a hash, shared by all CPUs, has for the key on the stack; begin with 1 where it has nothing.

        ``value_offset``: 8 bytes of the stack to be used.
        """
        new, done = self.asm.fresh_label("new"), self.asm.fresh_label("noted")
        self.lookup(map_name, key_offset)
        self.asm.emit(jump_if(R0, "==", 0, new), mov(R1, 1), atomic_add(R0, 0, R1))
        self.go(done)
        self.asm.label(new)
        self.asm.emit(store_imm(R10, value_offset, 1))
        self.stack_address(R2, key_offset)
        self.stack_address(R3, value_offset)
        self.asm.emit(load_map(R1, map_name), mov(R4, BPF_NOEXIST), call("map_update_elem"))
        self.asm.label(done)

    # --- control

    def go(self, label: str) -> None:
        """Jump."""
        self.asm.emit(jump(label))

    def out_unless_active(self, out: str = OUT) -> None:
        """Leave the program if the aspect is switched off. Uses r2."""
        active = load_map_value(R2, MAP_CONTROL, CONTROL_ACTIVE)
        self.asm.emit(active, load(R2, R2, 0, 4), jump_if(R2, "==", 0, out))

    def truth(self, dst: Local, value: int, otherwise: str) -> None:
        """``dst`` = ``value``, 0 or 1; who jumps to ``otherwise`` has the other one. Uses r2."""
        end = self.asm.fresh_label("told")
        register = self.result(dst, R2)
        self.asm.emit(mov(register, value))
        self.go(end)
        self.asm.label(otherwise)
        self.asm.emit(mov(register, 1 - value))
        self.asm.label(end)
        self.keep(dst, register)

    def out_of_line(self, code: Callable[[], None], source: object) -> str:
        """Have ``code`` emitted behind the program proper, for what rarely happens; gives its label.

        It must end with a jump.
        """
        label = self.asm.fresh_label("rare")

        def emit() -> None:
            self.asm.label(label)
            code()

        self._cold.append((source, emit))
        return label

    def emit_rare(self) -> None:
        """Emit what was put out of line."""
        while self._cold:
            source, code = self._cold.pop(0)
            with self.asm.source(source):
                code()
