"""Where a program finds what its probe offers: arguments, result, return address, the stack slot that ties marks.

In kprobe programs the context is ``struct pt_regs``. Measured on Debian's 6.1 and 6.12 (x86-64):

- at an instruction the ip is that of the probe plus 1; at a function's entry the probe lies behind ``endbr64``, if
  there is one: entry + 1 on 6.1, entry + 5 on 6.12. bpf_get_func_ip gives the entry on both, also through a tracefs
  event that was defined by ``_text+OFFSET``;
- in a kretprobe program the ip is the return address itself, the sp the entry's plus 8, and bpf_get_func_ip gives the
  function;
- where another kretprobe was registered *after* a kprobe on the same function, it runs first, and the kprobe program
  finds ``arch_rethook_trampoline`` in the place of the return address. The same word is then in the frame of a fexit.

In raw tracepoint programs the context is a word for each argument of the tracepoint, as numbers: nothing is typed.
In tracepoint programs it is the record of the trace event.

In fentry and fexit programs the context is a row of words on the frame of the BPF trampoline:

    ctx       argument words
    ctx + 8n  the result, only where a fexit (or fmod_ret) program is attached to the function, of whomsoever
              saved rbp
              return address into the function: its entry + 5, or + 9 behind endbr64
              return address of the function's caller

Arguments there are typed. The verifier lets a pointer be followed and stored but no arithmetic be done with it, and
for some types (pointers to pointers, to typedefs of integers) it refuses the load; and a pointer it believes to be
valid it also believes to be not NULL, and then it removes the branch for NULL. bpf_get_func_arg (5.17; the verifier
makes plain loads of it) gives the bare number; it is used for all but the plain cases.
"""

from __future__ import annotations

from klasy.backend.bytecode.frame import Slot
from klasy.bpf.insn import R1, R2, R3, R10, add, call, load, mov
from klasy.btf.types import Const, Enum, Int, Ptr, Struct, Void
from klasy.compiler import ir
from klasy.compiler.ir import Var
from klasy.kernel.arch_x86_64 import ARGUMENT_REGISTERS, PT_REGS, RESULT_REGISTER
from klasy.match.mechanism import ANY_SYSCALL, Context
from klasy.match.plan import Argument, Probe, RecordField
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from klasy.backend.bytecode.emitter import Emitter
    from klasy.btf.btf import Btf
    from klasy.btf.types import FuncProto

TRAMPOLINE = frozenset({Context.FENTRY, Context.FEXIT})
OF_TRACEPOINTS = frozenset({Context.RAW, *ANY_SYSCALL})
FROM_MARK = frozenset({Context.BEHIND, Context.RETURN})

WORD = -8  # the scratch word that helpers write a value to


class Origin:
    """Access to what a probe offers. ``ctx`` is the local that holds the program's context."""

    def __init__(self, probe: Probe, ops: Collection[ir.Op]) -> None:
        self.probe = probe
        self.context = probe.context
        self.ctx = Var("ctx")
        self.is_marked = self.context in FROM_MARK  # arguments come from the mark
        self._pointers_only = pointers_only(ops) if self.context in TRAMPOLINE else set()
        sources = [op.source for op in ops if isinstance(op, ir.Argument)] if self.is_marked else []
        places = {source.abi_place for source in sources if isinstance(source, Argument)}
        assert all(place < len(ARGUMENT_REGISTERS) for place in places), "marks hold the argument registers only"
        self.marked = {place: Var(f"marked{place}") for place in sorted(places)}
        self._btf: Btf | None = None
        self._proto: FuncProto | None = None
        if self.context in TRAMPOLINE:
            function = probe.points[0].function
            self._btf = function.btf
            if function.btf is not None and function.proto is not None:
                self._proto = function.btf.proto(function.proto)

    # --- arguments

    def argument_calls(self, op: ir.Argument) -> bool:
        """Whether getting the argument calls a helper."""
        if isinstance(op.source, RecordField) or self.context in OF_TRACEPOINTS:
            return False
        if self.context in TRAMPOLINE:
            return not self._plain_argument(op)
        return not self.is_marked and op.source.abi_place >= len(ARGUMENT_REGISTERS)

    def argument(self, e: Emitter, op: ir.Argument) -> None:
        """Emit ``dst`` = argument."""
        source = op.source
        if isinstance(source, RecordField):
            from klasy.backend.bytecode.recordfields import emit_field

            return emit_field(e, op.dst, source, self.ctx)
        if self.context in OF_TRACEPOINTS:
            return self._load(e, op.dst, 8 * source.trampoline_slot)
        if self.context in TRAMPOLINE:
            if self._plain_argument(op):
                return self._load(e, op.dst, 8 * source.trampoline_slot)
            e.into(R1, self.ctx)
            e.asm.emit(mov(R2, source.trampoline_slot))
            e.stack_address(R3, WORD)
            e.asm.emit(call("get_func_arg"))
            return self._from_word(e, op.dst)
        place = source.abi_place
        if self.is_marked:
            register = e.result(op.dst)
            e.into(register, self.marked[place])
            return e.keep(op.dst, register)
        if place < len(ARGUMENT_REGISTERS):
            return self._load(e, op.dst, PT_REGS[ARGUMENT_REGISTERS[place]])
        above = 8 * (place - len(ARGUMENT_REGISTERS)) + (0 if self.context is Context.SITE else 8)
        e.asm.emit(load(R3, e.register(self.ctx, R1), PT_REGS["sp"]))
        if above:
            e.asm.emit(add(R3, above))
        target = e.place(op.dst)
        offset = target.offset if isinstance(target, Slot) else WORD
        e.asm.emit(mov(R2, 8))
        e.stack_address(R1, offset)
        e.read_memory()
        return None if isinstance(target, Slot) else self._from_word(e, op.dst)

    def _plain_argument(self, op: ir.Argument) -> bool:
        """Whether a load from the context will do; see the module's text."""
        assert isinstance(op.source, Argument)
        if self._proto is None or op.source.index >= len(self._proto.params):
            return False
        return self._plain(self._proto.params[op.source.index].type_id, op.dst)

    def _plain(self, type_id: int, value: ir.Value) -> bool:
        assert self._btf is not None
        kind = self._btf.resolved(type_id)
        if isinstance(kind, Int | Enum):
            return True
        if not isinstance(kind, Ptr):
            return False
        if isinstance(self._btf.type(kind.type_id), Void):
            return True
        target = self._btf.type(kind.type_id)
        if isinstance(target, Const):
            target = self._btf.type(target.type_id)
        if isinstance(target, Int):  # is_int_ptr() of kernel/bpf/btf.c: looks through const alone
            return True
        return isinstance(self._btf.resolved(kind.type_id), Struct) and value in self._pointers_only

    def interrupted(self, e: Emitter, op: ir.Register) -> None:
        """Emit ``dst`` = a register as the probed instruction finds it."""
        self._load(e, op.dst, PT_REGS[op.name])

    # --- the result

    def result_calls(self, op: ir.Result) -> bool:
        """Whether getting the result calls a helper."""
        return self.context is Context.FEXIT and not self._plain_result(op)

    def result(self, e: Emitter, op: ir.Result) -> None:
        """Emit ``dst`` = result."""
        if self.context is Context.SYS_EXIT:
            return self._load(e, op.dst, 8)
        if self.context is not Context.FEXIT:
            return self._load(e, op.dst, PT_REGS[RESULT_REGISTER])
        if self._plain_result(op):
            return self._load(e, op.dst, 8 * self.argument_words)
        e.into(R1, self.ctx)
        e.stack_address(R2, WORD)
        e.asm.emit(call("get_func_ret"))
        return self._from_word(e, op.dst)

    def _plain_result(self, op: ir.Result) -> bool:
        return self._proto is not None and self._plain(self._proto.ret, op.dst)

    @property
    def argument_words(self) -> int:
        """Words of the trampoline's context that hold arguments."""
        assert self._proto is not None, "a function without BTF has no trampoline"
        assert self._btf is not None
        return sum(max(1, (self._btf.size_of(p.type_id) + 7) // 8) for p in self._proto.params)

    def _load(self, e: Emitter, dst: ir.Value, offset: int) -> None:
        register = e.result(dst)
        e.asm.emit(load(register, e.register(self.ctx, R1), offset))
        e.keep(dst, register)

    @staticmethod
    def _from_word(e: Emitter, dst: ir.Value) -> None:
        register = e.result(dst)
        e.asm.emit(load(register, R10, WORD))
        e.keep(dst, register)


def pointers_only(ops: Collection[ir.Op]) -> set[ir.Value]:
    """Values used only as addresses to read from and as 8-byte fields of records: what the verifier allows pointers.

    Comparisons are left out: the verifier may believe that a typed pointer is never NULL, and remove a branch.
    """
    arguments = {op.dst for op in ops if isinstance(op, ir.Argument | ir.Result)}
    for op in ops:
        if isinstance(op, ir.Load | ir.StringEqual):
            continue
        if isinstance(op, ir.Emit):
            fine = {
                part.value if isinstance(part, ir.StoreField) else part.address
                for part in op.parts
                if isinstance(part, ir.CopyField | ir.StringField | ir.BufferField)
                or (isinstance(part, ir.StoreField) and part.size == 8)
            }
            narrow = {p.value for p in op.parts if isinstance(p, ir.StoreField) and p.size != 8}
            narrow |= {p.length for p in op.parts if isinstance(p, ir.BufferField)}
            arguments -= ({o for o in op.operands() if isinstance(o, ir.Value)} - fine) | narrow
            continue
        arguments.difference_update(o for o in op.operands() if isinstance(o, ir.Value))
    return arguments
