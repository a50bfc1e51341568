"""The printed form of the IR: stable, one operation a line, for golden tests and ``klasy`` debugging output.

Values are numbered anew in the order of their definition, so a pass that removes an operation changes only the lines
it must. Not meant to be read back.
"""

from __future__ import annotations

from klasy.compiler import ir, irstate
from klasy.compiler.ir import Block, Op, Operand, Part, Program, Value, Var
from klasy.compiler.irstate import StateOp
from klasy.match.plan import Argument
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "udiv": "udiv", "umod": "umod", "sdiv": "sdiv", "smod": "smod", "and": "&",
    "or": "|", "xor": "^", "shl": "<<", "lshr": ">>", "ashr": "s>>",
    "eq": "==", "ne": "!=", "ult": "u<", "ule": "u<=", "ugt": "u>", "uge": "u>=", "slt": "s<", "sle": "s<=",
    "sgt": "s>", "sge": "s>=",
}  # fmt: skip


def render(program: Program, notes: Mapping[Op, list[str]] | None = None) -> str:
    """The whole program as text, without a final newline. ``notes`` are printed beside their operations."""
    printer = _Printer(program)
    lines = [f"program {program.name} (probe {program.probe})"]
    for form in program.formats:
        shown = ", ".join(f"{f.offset}:{f.kind}{f.size} {f.name}" for f in form.fields)
        template = f" {form.template!r}" if form.template is not None else ""
        lines.append(f"  format {form.index}{template}, {form.size} bytes: {shown}")
    for block in program.blocks:
        lines.append(f"b{block.label}:")
        for op in block.ops:
            lines.append(f"    {printer.op(op)}")
            lines += [f"      ^ {note}" for note in (notes or {}).get(op, ())]
    return "\n".join(lines)


class _Printer:
    def __init__(self, program: Program) -> None:
        self.numbers: dict[Value, int] = {}
        for op in program.ops():
            if op.result is not None:
                self.numbers.setdefault(op.result, len(self.numbers))

    def operand(self, operand: Operand) -> str:
        if isinstance(operand, Value):
            number = self.numbers.get(operand)
            return f"%{number}" if number is not None else f"%?{operand.id}"
        return str(operand) if -0x10000 < operand < 0x10000 else hex(operand)

    def place(self, address: Operand, offset: int) -> str:
        return f"[{self.operand(address)} + {offset}]" if offset >= 0 else f"[{self.operand(address)} - {-offset}]"

    def op(self, op: Op) -> str:
        text = self.body(op)
        return f"{self.operand(op.result)} = {text}" if op.result is not None else text

    def body(self, op: Op) -> str:  # one line of text for each class of operation
        show = self.operand
        match op:
            case ir.Copy():
                return show(op.source)
            case ir.Binary():
                width = ".32" if op.width == 32 else ""
                return f"{show(op.left)} {_SYMBOLS.get(op.op, op.op)}{width} {show(op.right)}"
            case ir.Extend():
                return f"{'s' if op.signed else 'u'}{op.bits} {show(op.source)}"
            case ir.Swap():
                return f"swap{op.bits} {show(op.source)}"
            case ir.Compare():
                return f"{show(op.left)} {_SYMBOLS.get(op.op, op.op)} {show(op.right)}"
            case ir.Get():
                return repr(op.var)
            case ir.Set():
                return f"{op.var!r} = {show(op.source)}"
            case ir.Context():
                return op.what
            case ir.Observe():
                return f"observed {op.what}"
            case ir.Register():
                return f"register {op.name}"
            case ir.Lookup():
                return f"number {show(op.index)} of {len(op.table)}"
            case ir.Argument():
                return f"argument {op.source.index}" if isinstance(op.source, Argument) else f"field {op.source.name}"
            case ir.Mark():
                return f"mark {op.use}"
            case ir.CountHit():
                return f"count hit of {show(op.joinpoint)}"
            case ir.Count():
                return f"count {op.what} of {show(op.joinpoint)}"
            case ir.WatchObject():
                bounds = f", {op.hits} accesses, {op.duration} ns, join point {show(op.joinpoint)}"
                return f"watch {show(op.address)} as member {op.member} of {op.size} bytes{bounds}"
            case ir.UnwatchObject():
                return f"unwatch {show(op.address)} as member {op.member}"
            case ir.Deny():
                return f"deny with {op.errno}"
            case ir.Limit():
                return f"limit by bucket {op.slot}, {op.size} tokens, one each {op.interval} ns"
            case ir.Load():
                return f"{_user(op.user)}load{op.size} {self.place(op.address, op.offset)}{_fault(op.faults, op.mask)}"
            case ir.StringEqual():
                place = f"{_user(op.user)}string {self.place(op.address, op.offset)}"
                return f"{place} up to {op.limit} == {_bytes(op.literal)}{_fault(op.faults, op.mask)}"
            case ir.CommEqual():
                return f"comm == {_bytes(op.literal)}"
            case ir.Emit():
                parts = "".join(f"\n        {self.part(part)}" for part in op.parts)
                faults = f", faults {op.faults!r}" if op.faults is not None else ""
                return f"emit format {op.format}, {op.size} bytes, join point {show(op.joinpoint)}{faults}{parts}"
            case ir.Jump():
                return f"jump {_label(op.target)}"
            case ir.Branch():
                test = f"{show(op.left)} {_SYMBOLS.get(op.op, op.op)} {show(op.right)}"
                return f"if {test} then {_label(op.then)} else {_label(op.otherwise)}"
            case ir.Locate():
                return f"locate arm {op.arm} then {_label(op.found)} else {_label(op.missing)}"
            case StateOp():
                return self.state(op)
            case ir.NoteOp():
                text = f"{op.mnemonic.replace('_', ' ')} {op.number}"
                if op.mnemonic == "noted":
                    word = op.word  # type: ignore[attr-defined]
                    return f"{text}, {'failed' if word < 0 else f'word {word}'}"
                return f"{text} of {show(op.operands()[0])}" + "".join(f", {show(o)}" for o in op.operands()[1:])
            case ir.FlowOp():
                return op.text + "".join(f", {show(operand)}" for operand in op.operands())
            case _:  # Result, Stop, Return; CallCode
                return " ".join([op.mnemonic.replace("_", " "), *(show(operand) for operand in op.operands())])

    def state(self, op: StateOp) -> str:
        show = self.operand
        text = f"{op.mnemonic.replace('_', ' ')} {op.state.name}"
        match op:
            case irstate.ReadState():
                text += f", word {op.word}"
            case irstate.WriteState():
                text += f" = {show(op.value)}"
            case irstate.ChangeState():
                steps = (f"word {show(s.word)} {_SYMBOLS.get(s.op, s.op)}= {show(s.value)}" for s in op.steps)
                text += ": " + ", ".join(steps)
            case irstate.CountState():
                text += f" {op.what}"
        return text + _fault(op.faults, op.mask) + "".join(f"\n        {self.part(part)}" for part in op.key)

    def part(self, part: Part) -> str:
        match part:
            case ir.StoreField():
                return f"{part.offset}: store{part.size} {self.operand(part.value)}"
            case ir.CopyField():
                what = f"{_user(part.user)}copy {part.size}"
                return f"{part.offset}: {what} of {self.place(part.address, part.at)} else bit {part.bit}"
            case ir.StringField():
                what = f"{_user(part.user)}string {part.size}"
                return f"{part.offset}: {what} of {self.place(part.address, part.at)} else bit {part.bit}"
            case ir.CallField():
                led = "".join(f", {content.kind} at +{content.register}" for content in part.contents)
                values = f"{self.operand(part.registers)}, result {self.operand(part.result)}"
                return f"{part.offset}: call {part.size} with registers at {values}{led}"
            case ir.StackField():
                return f"{part.offset}: {_user(part.user)}stack {part.size} else bit {part.bit}"
            case ir.StackKey():
                return f"{part.offset}: {_user(part.user)}stack, place {self.operand(part.place)}"
            case ir.BufferField():
                what = f"{_user(part.user)}buffer {part.size}, {self.operand(part.length)} bytes"
                return f"{part.offset}: {what} of {self.place(part.address, part.at)} else bit {part.bit}"
            case _:
                return f"{part.offset}: {part.mnemonic}"


def _label(block: Block) -> str:
    return f"b{block.label}"


def _user(user: bool) -> str:
    return "user " if user else ""


def _fault(faults: Var | None, mask: int) -> str:
    return f" else {faults!r} |= {mask:#x}" if faults is not None else ""


def _bytes(literal: bytes) -> str:
    return repr(literal)[1:]
