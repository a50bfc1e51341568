"""The typed tree to IR: one program for each probe, its arms one after another.

Every integer is kept *canonical*: extended to 64 bits as its type says, signed or not. So a comparison or a widening
conversion is one operation on 64 bits, and only what can leave the type's range is extended anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from klasy.compiler import ir, tree
from klasy.compiler.builder import Builder
from klasy.compiler.types import Bool, CType, Integer, Pointer
from klasy.match.plan import Argument, Locator, MarkUse

if TYPE_CHECKING:
    from klasy.compiler.ir import Block, Operand, Var
    from klasy.match.plan import Arm, Probe

_UNSIGNED = {"<": "ult", "<=": "ule", ">": "ugt", ">=": "uge", "==": "eq", "!=": "ne"}
_SIGNED = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}
_ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}
_LARGEST_PIECE = 8


def lower_probe(probe: Probe, advice: Mapping[int, tree.Advice], guards: Mapping[int, tree.Expr | None]) -> ir.Program:
    """The program of a probe. ``advice`` by its index, ``guards`` by the place of the arm in the probe."""
    program = ir.Program(probe.name, probe.index)
    build = Builder(program)
    build.begin(build.block())
    if probe.mark is not MarkUse.NONE:
        build.add(ir.Mark(probe.mark.value))
    for place, arm in enumerate(probe.arms):
        behind = build.block()
        joinpoint = _locate(build, probe, arm, place, behind)
        _Body(build, arm, advice[arm.advice], joinpoint, behind).run(guards[place])
        build.begin(behind)
    build.add(ir.Return())
    program.formats.sort(key=lambda form: form.index)
    return program


def _locate(build: Builder, probe: Probe, arm: Arm, place: int, behind: Block) -> Operand:
    """The id of the join point that an arm is at; where it is at none, control goes ``behind``."""
    if probe.locator is Locator.FIXED:
        (joinpoint,) = arm.by_address.values()
        return joinpoint
    found = build.block()
    dst = build.value()
    build.add(ir.Locate(dst, place, found, behind))
    build.begin(found)
    return dst


class _Body:
    """Lowers one advice at its arm.

    A load that faults gives 0. Where its value is logged, or kept in a variable, the fault is remembered in a *fault
    word*: the variable ``faults`` and the bit ``bit`` of it that loads set at present.
    """

    def __init__(self, build: Builder, arm: Arm, advice: tree.Advice, joinpoint: Operand, behind: Block) -> None:
        self.build = build
        self.arm = arm
        self.advice = advice
        self.joinpoint = joinpoint
        self.behind = behind
        self.faults: Var | None = None
        self.bit = 0
        self.variables: dict[tree.Variable, Var] = {}
        self.tainted: dict[tree.Variable, Var] = {}  # 1 where the variable's value came of a load that failed
        self.fixed: dict[tree.Variable, Operand] = {}  # variables that are never assigned to

    def run(self, guard: tree.Expr | None) -> None:
        self.bind()
        if guard is not None:
            body = self.build.block()
            self.branch(guard, body, self.behind)
            self.build.begin(body)
        self.build.span = self.advice.body.span
        self.build.add(ir.CountHit(self.joinpoint))
        self.statement(self.advice.body)
        if not self.build.ended:
            self.build.jump(self.behind)
        self.build.span = None

    def bind(self) -> None:
        """The parameters of the advice get their values."""
        for binding in self.arm.bindings:
            variable = self.advice.parameters[binding.name]
            self.build.span = variable.span
            self.prepare(variable)
            raw = self.build.value()
            if isinstance(binding.source, Argument):
                self.build.add(ir.Argument(raw, binding.source))
            else:
                self.build.add(ir.Result(raw))
            # Of a register only the low bits of a narrow type are defined.
            self.begin(variable, self.narrow(raw, variable.type))

    def narrow(self, raw: Operand, kind: CType) -> Operand:
        """The value of a type that the low bits of a word hold."""
        if not isinstance(kind, Integer):
            return raw
        value = self.build.extend(raw, kind.bits, kind.signed)
        return self.build.compare("ne", value, 0) if isinstance(kind, Bool) else value

    # --- variables

    def prepare(self, variable: tree.Variable) -> None:
        """Before a variable begins: whatever path assigns it, the word of its fault must be there."""
        if variable.assigned:
            self.tainted[variable] = self.build.var(f"{variable.name}.fault")
            self.build.set(self.tainted[variable], 0)

    def begin(self, variable: tree.Variable, value: Operand) -> None:
        if variable.assigned:
            self.variables[variable] = self.build.var(variable.name)
            self.build.set(self.variables[variable], value)
        else:
            self.fixed[variable] = value

    def local(self, expr: tree.Local) -> Operand:
        variable = expr.variable
        self.inherit(variable)
        if variable in self.fixed:
            return self.fixed[variable]
        return self.build.get(self.variables[variable])

    def inherit(self, variable: tree.Variable) -> None:
        """If the value of a variable came of a load that failed, what is made of it does too."""
        taint = self.tainted.get(variable)
        if taint is not None and self.faults is not None:
            bit = self.build.get(taint)
            shifted = self.build.binary("shl", bit, self.bit) if self.bit else bit
            self.build.set(self.faults, self.build.binary("or", self.build.get(self.faults), shifted))

    def keep(self, variable: tree.Variable, value: tree.Expr) -> Operand:
        """Evaluate what a variable is to hold, noting whether a load failed on the way."""
        if not self.may_fault(value):
            taint = self.tainted.get(variable)
            result = self.value(value)
            if taint is not None:
                self.build.set(taint, 0)
            return result
        # Collected apart, for the old value may be part of the new one.
        fresh = self.build.var(f"{variable.name}.faults")
        self.build.set(fresh, 0)
        outer = self.faults, self.bit
        self.faults, self.bit = fresh, 0
        result = self.value(value)
        self.faults, self.bit = outer
        if variable not in self.tainted:
            self.tainted[variable] = self.build.var(f"{variable.name}.fault")
        self.build.set(self.tainted[variable], self.build.get(fresh))
        return result

    def may_fault(self, node: object) -> bool:
        """Whether a load in an expression may fail, or have failed."""
        match node:
            case tree.Read() | tree.StringAt() | tree.StringComparison():
                return True
            case tree.Local():
                return node.variable in self.tainted
            case tree.AddressOf():
                return self.may_fault(node.place.base)
            case tree.Assign():
                return node.variable in self.tainted or self.may_fault(node.value)
            case tree.Comma():
                return self.may_fault(node.value)
            case tree.Expr():
                return any(self.may_fault(part) for part in vars(node).values())
            case _:
                return False

    # --- statements

    def statement(self, node: tree.Stmt) -> None:
        if self.build.ended:
            return  # behind a return
        self.build.span = node.span
        match node:
            case tree.Sequence():
                for part in node.body:
                    self.statement(part)
            case tree.Evaluate():
                self.value(node.expr)
            case tree.Declare():
                self.declare(node)
            case tree.If():
                self.if_(node)
            case tree.Return():
                self.build.jump(self.behind)
            case tree.Log():
                self.log(node)
            case _:
                raise AssertionError(f"no lowering of {node!r}")

    def declare(self, node: tree.Declare) -> None:
        variable = node.variable
        self.prepare(variable)
        self.begin(variable, self.keep(variable, node.value) if node.value is not None else 0)

    def if_(self, node: tree.If) -> None:
        build = self.build
        then, behind = build.block(), build.block()
        otherwise = build.block() if node.otherwise else behind
        self.branch(node.condition, then, otherwise)
        for block, part in ((then, node.then), (otherwise, node.otherwise)):
            if part is not None:
                build.begin(block)
                self.statement(part)
                if not build.ended:
                    build.jump(behind)
        build.begin(behind)

    def log(self, node: tree.Log) -> None:
        build = self.build
        if node.format not in build.program.formats:
            build.program.formats.append(node.format)
        faults = build.var("faults") if any(self.may_fault(item.value) for item in node.items) else None
        if faults is not None:
            build.set(faults, 0)
        parts: list[ir.Part] = []
        known: dict[tree.Expr, Operand] = {}
        for item in node.items:
            self.faults, self.bit = faults, item.bit
            part = self.part(item, known)
            if part is not None:
                parts.append(part)
        self.faults = None
        build.span = node.span
        build.add(ir.Emit(node.format.index, node.format.size, self.joinpoint, tuple(parts), faults))

    def part(self, item: tree.Item, known: dict[tree.Expr, Operand]) -> ir.Part | None:
        """How a value gets into the record. ``known``: what was evaluated for a field before, an address for one."""
        field, value = item.field, item.value
        if isinstance(value, tree.JoinPointAttribute):
            return None
        if isinstance(value, tree.Comm):
            return ir.CommField(field.offset)
        if isinstance(value, tree.StringAt):
            address, at = self.address(value.pointer)
            if value.whole:
                return ir.CopyField(field.offset, field.size, address, at, item.bit)
            return ir.StringField(field.offset, field.size, address, at, item.bit)
        if field.kind == "object":
            if value in known:
                return ir.CopyField(field.offset, field.size, known[value], 0, item.bit)
            address, at = self.address(value)
            return ir.CopyField(field.offset, field.size, address, at, item.bit)
        known[value] = self.value(value)
        return ir.StoreField(field.offset, field.size, known[value])

    # --- conditions

    def branch(self, node: tree.Expr, then: Block, otherwise: Block) -> None:
        """Go on in one of two blocks, as the condition says."""
        build = self.build
        build.span = node.span
        match node:
            case tree.Logical():
                middle = build.block()
                if node.op == "&&":
                    self.branch(node.left, middle, otherwise)
                else:
                    self.branch(node.left, then, middle)
                build.begin(middle)
                self.branch(node.right, then, otherwise)
            case tree.LogicalNot():
                self.branch(node.operand, otherwise, then)
            case tree.Comparison():
                build.branch(self.comparison(node), self.value(node.left), self.value(node.right), then, otherwise)
            case _:
                build.branch("ne", self.value(node), 0, then, otherwise)

    @staticmethod
    def comparison(node: tree.Comparison) -> str:
        kind = node.left.type
        return (_SIGNED if isinstance(kind, Integer) and kind.signed else _UNSIGNED)[node.op]

    @property
    def mask(self) -> int:
        """What a load that fails sets in the word of faults."""
        return 1 << self.bit if self.faults is not None else 0

    # --- expressions

    def value(self, node: tree.Expr) -> Operand:
        """The value of an integer or pointer expression, canonical."""
        self.build.span = node.span
        match node:
            case tree.Constant():
                return to_signed(node.value)
            case tree.Local():
                return self.local(node)
            case tree.ContextValue():
                return self.context(node)
            case tree.Read():
                return self.read(node.place)
            case tree.AddressOf():
                address, offset = self.address(node)
                return self.build.binary("add", address, offset) if offset else address
            case tree.Convert():
                return self.convert(self.value(node.operand), node.operand.type, node.type)
            case tree.Negate():
                return self.wrapped("sub", 0, self.value(node.operand), tree.integer(node))
            case tree.Complement():
                return self.wrapped("xor", self.value(node.operand), -1, tree.integer(node))
            case tree.Arithmetic():
                return self.arithmetic(node)
            case tree.Shift():
                return self.shift(node)
            case tree.PointerAdd():
                step = self.value(node.index)
                base = self.value(node.pointer)
                self.build.span = node.span
                scaled = self.build.binary("mul", step, node.scale) if node.scale != 1 else step
                return self.build.binary("sub" if node.minus else "add", base, scaled)
            case tree.PointerDifference():
                bytes_between = self.build.binary("sub", self.value(node.left), self.value(node.right))
                return self.build.binary("sdiv", bytes_between, node.scale) if node.scale != 1 else bytes_between
            case tree.Comparison():
                left, right = self.value(node.left), self.value(node.right)
                self.build.span = node.span
                return self.build.compare(self.comparison(node), left, right)
            case tree.LogicalNot() if not isinstance(node.operand, tree.Logical):
                operand = self.value(node.operand)
                return self.build.compare("eq", operand, 0)
            case tree.StringComparison():
                return self.string_comparison(node)
            case tree.Logical() | tree.LogicalNot():
                return self.choose(node, 1, 0)
            case tree.Conditional():
                return self.choose(node.condition, node.then, node.otherwise)
            case tree.Assign():
                return self.assign(node)
            case tree.Comma():
                self.aside(node.first)
                return self.value(node.value)
            case _:
                raise AssertionError(f"no lowering of {node!r}")

    def aside(self, node: tree.Stmt) -> None:
        """A statement within an expression, whose faults are no concern of the value that is being computed."""
        outer = self.faults, self.bit
        self.faults = None
        self.statement(node)
        self.faults, self.bit = outer

    def context(self, node: tree.ContextValue) -> Operand:
        fact: Operand = self.build.context(node.what)
        if node.shift:
            fact = self.build.binary("lshr", fact, node.shift)
        return self.build.extend(fact, node.bits, tree.integer(node).signed)

    def wrapped(self, op: str, left: Operand, right: Operand, kind: Integer) -> Operand:
        """An operation whose 32-bit result depends on the low 32 bits of its operands only."""
        if kind.size == 8:
            return self.build.binary(op, left, right)
        if not kind.signed:
            return self.build.binary(op, left, right, 32)
        result = self.build.binary(op, left, right)
        # Sign-extended operands give a sign-extended result, bit by bit.
        return result if op in ("and", "or", "xor") else self.build.extend(result, 32, True)

    def arithmetic(self, node: tree.Arithmetic) -> Operand:
        kind = tree.integer(node)
        left, right = self.value(node.left), self.value(node.right)
        self.build.span = node.span
        if node.op in _ARITHMETIC:
            return self.wrapped(_ARITHMETIC[node.op], left, right, kind)
        op = ("s" if kind.signed else "u") + ("div" if node.op == "/" else "mod")
        result = self.build.binary(op, left, right)
        # Canonical operands give canonical results; but INT_MIN / -1 leaves the type.
        return self.build.extend(result, 32, True) if op == "sdiv" and kind.size == 4 else result

    def shift(self, node: tree.Shift) -> Operand:
        kind = tree.integer(node)
        left, right = self.value(node.left), self.value(node.right)
        self.build.span = node.span
        op = "shl" if node.op == "<<" else "ashr" if kind.signed else "lshr"
        result = self.build.binary(op, left, right, kind.bits)
        return self.build.extend(result, 32, True) if kind.size == 4 and kind.signed else result

    def convert(self, value: Operand, source: CType, to: CType) -> Operand:
        if isinstance(to, Bool):
            return value if isinstance(source, Bool) else self.build.compare("ne", value, 0)
        if not isinstance(to, Integer) or to.size == 8:
            return value  # canonical already: widening is what canonical means
        if isinstance(source, Integer):
            wider = to.size > source.size and (to.signed or not source.signed)
            if wider or (to.size == source.size and to.signed == source.signed):
                return value
        return self.build.extend(value, to.bits, to.signed)

    def string_comparison(self, node: tree.StringComparison) -> Operand:
        build = self.build
        string = node.string
        if isinstance(string, tree.Comm):
            equal = build.value()
            build.add(ir.CommEqual(equal, node.literal))
        else:
            assert isinstance(string, tree.StringAt)
            address, offset = self.address(string.pointer)
            build.span = node.span
            equal = build.value()
            build.add(ir.StringEqual(equal, address, offset, string.limit, node.literal, self.faults, self.mask))
        return build.compare("eq", equal, 0) if node.negated else equal

    def choose(self, condition: tree.Expr, then: tree.Expr | int, otherwise: tree.Expr | int) -> Operand:
        """One of two values, as the condition says; only that one is evaluated."""
        build = self.build
        result = build.var("choice")
        blocks = build.block(), build.block()
        behind = build.block()
        self.branch(condition, *blocks)
        for block, chosen in zip(blocks, (then, otherwise), strict=True):
            build.begin(block)
            build.set(result, chosen if isinstance(chosen, int) else self.value(chosen))
            build.jump(behind)
        build.begin(behind)
        return build.get(result)

    def assign(self, node: tree.Assign) -> Operand:
        variable = node.variable
        old = self.build.get(self.variables[variable]) if node.old else None
        value = self.keep(variable, node.value)
        self.build.span = node.span
        self.build.set(self.variables[variable], value)
        self.inherit(variable)
        return value if old is None else old

    # --- kernel memory

    def address(self, node: tree.Expr) -> tuple[Operand, int]:
        """An address as an operand and a constant offset from it."""
        if isinstance(node, tree.AddressOf):
            base, offset = self.address(node.place.base)
            return base, offset + node.place.offset
        if isinstance(node, tree.PointerAdd) and isinstance(node.index, tree.Constant):
            base, offset = self.address(node.pointer)
            step = node.index.value * node.scale
            return base, offset - step if node.minus else offset + step
        if isinstance(node, tree.Convert) and isinstance(node.operand.type, Pointer):
            return self.address(node.operand)
        return self.value(node), 0

    def read(self, place: tree.Place) -> Operand:
        base, offset = self.address(place.base)
        self.build.span = place.span
        offset += place.offset
        if place.bits:
            return self.bitfield(place, base, offset)
        raw = self.build.load(base, offset, place.type.size, self.faults, self.mask)
        if isinstance(place.type, Bool):
            return self.build.compare("ne", raw, 0)
        if isinstance(place.type, Integer) and place.type.signed:
            return self.build.extend(raw, place.type.bits, True)
        return raw

    def bitfield(self, place: tree.Place, base: Operand, offset: int) -> Operand:
        """The bits of a bit-field, from the loads that hold them and nothing outside the struct."""
        build = self.build
        assert place.struct is not None
        # Both in bytes from the start of the struct, which is ``offset - first`` from the base.
        struct_offset, struct_size = place.struct
        first = place.offset - struct_offset
        end = first + (place.shift + place.bits + 7) // 8
        start, size = _window(first, end, struct_size)
        kind = tree.integer(place)
        if size:
            raw: Operand = build.load(base, offset - first + start, size, self.faults, self.mask)
            low = place.shift + 8 * (first - start)
        else:
            raw, low = self.pieces(base, offset, end - first, place.shift, place.bits)
        if low:
            raw = build.binary("lshr", raw, low)
        value = build.extend(raw, place.bits, kind.signed)
        return build.compare("ne", value, 0) if isinstance(kind, Bool) else value

    def pieces(self, base: Operand, offset: int, count: int, shift: int, bits: int) -> tuple[Operand, int]:
        """``count`` (up to 9) bytes put together of several loads; the word, and the lowest bit of the field in it."""
        build = self.build
        word: Operand = 0
        at = 0
        while at < count:
            size = next(s for s in (8, 4, 2, 1) if s <= count - at)
            piece: Operand = build.load(base, offset + at, size, self.faults, self.mask)
            place = 8 * at - shift  # of its lowest bit in the word, the field's lowest being bit 0
            if place < 0:
                piece = build.binary("lshr", piece, -place)
            elif place > 0:
                piece = build.binary("shl", piece, place)
            word = build.binary("or", word, piece) if at else piece
            at += size
        return word, 0


def _window(first: int, end: int, struct_size: int) -> tuple[int, int]:
    """The smallest aligned load inside a struct that covers bytes ``first`` to ``end``: start and size, or size 0."""
    for size in ir.LOAD_SIZES:
        start = first // size * size
        if end <= start + size <= struct_size:
            return start, size
    return 0, 0


def to_signed(value: int) -> int:
    """A number's 64 bits as an immediate operand."""
    value &= ir.MASK64
    return value - (1 << 64) if value >> 63 else value
