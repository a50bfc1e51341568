"""Fields of a trace event's record, which is the context of a tracepoint program.

The verifier allows plain loads of aligned words there, and no arithmetic with the pointer but adding constants. Of
data that lies in the record (arrays, strings) the value is its address, to be read by a helper: that must be a number,
for it is computed with and compared. Negating a pointer twice makes a number of it, for who may see addresses of the
kernel (check_alu_op of kernel/bpf/verifier.c, with allow_ptr_leaks).
"""

from __future__ import annotations

from klasy.bpf.insn import R0, R1, add, and_, load, mov, neg
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.compiler import ir
    from klasy.compiler.ir import Var
    from klasy.match.plan import RecordField

_PLACE_BITS = 0xFFFF  # of a __data_loc word: where the data lies


def emit_field(e: Emitter, dst: ir.Value, field: RecordField, ctx: Var) -> None:
    """Emit ``dst`` = a field, or the address of what it holds."""
    context = e.register(ctx, R1)
    register = e.result(dst)
    if field.kind == "value":
        e.asm.emit(load(register, context, field.offset, field.size))
        return e.keep(dst, register)
    work = register if register != context else R0
    if field.kind == "array":
        e.asm.emit(mov(work, context), add(work, field.offset))
    else:
        e.asm.emit(load(work, context, field.offset, 4), and_(work, _PLACE_BITS))
        if field.kind == "rel_loc":
            e.asm.emit(add(work, field.offset + 4))
        e.asm.emit(add(work, context))
    e.asm.emit(neg(work), neg(work))
    return e.keep(dst, work)
