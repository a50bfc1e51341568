"""Expressions of the typed tree to IR: values, conditions, variables, memory.

Every integer is kept *canonical*: extended to 64 bits as its type says, signed or not. So a comparison or a widening
conversion is one operation on 64 bits, and only what can leave the type's range is extended anew.
"""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.compiler.spaces import of_process
from klasy.compiler.types import Bool, CType, Integer, Pointer
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.compiler.builder import Builder
    from klasy.compiler.ir import Block, Operand, Value, Var
    from klasy.match.datum import Datum
    from klasy.match.plan import Watch

_UNSIGNED = {"<": "ult", "<=": "ule", ">": "ugt", ">=": "uge", "==": "eq", "!=": "ne"}
_SIGNED = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}
_ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}


class ExpressionLowering:
    """Lowers the expressions of one advice at its arm.

    A load that faults gives 0. Where its value is logged, or kept in a variable, the fault is remembered in a *fault
    word*: the variable ``faults`` and the bit ``bit`` of it that loads set at present.
    """

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.faults: Var | None = None
        self.bit = 0
        self.variables: dict[tree.Variable, Var] = {}
        self.tainted: dict[tree.Variable, Var] = {}  # 1 where the variable's value came of a load that failed
        self.fixed: dict[tree.Variable, Operand] = {}  # variables that are never assigned to
        self.watch: Watch | None = None  # of a probe that watches data
        self.found: dict[str, Var] = {}  # at an access to a member: what was asked for, and whether it failed

    def statement(self, node: tree.Stmt) -> None:
        """Lower a statement: one that stands within an expression, on the left of a comma."""
        raise NotImplementedError

    def call(self, node: tree.Call) -> Operand:
        """Lower a function in place of its call."""
        raise NotImplementedError

    # --- variables

    def prepare(self, variable: tree.Variable) -> None:
        """Before a variable begins: whatever path assigns it, the word of its fault must be there."""
        if variable.assigned:
            self.tainted[variable] = self.build.var(f"{variable.name}.fault")
            self.build.set(self.tainted[variable], 0)

    def begin(self, variable: tree.Variable, value: Operand) -> None:
        """A variable gets its first value."""
        if variable.assigned:
            self.variables[variable] = self.build.var(variable.name)
            self.build.set(self.variables[variable], value)
        else:
            self.fixed[variable] = value

    def _local(self, expr: tree.Local) -> Operand:
        variable = expr.variable
        self._inherit(variable)
        if variable in self.fixed:
            return self.fixed[variable]
        return self.build.get(self.variables[variable])

    def _inherit(self, variable: tree.Variable) -> None:
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
            case tree.Read() | tree.StringAt() | tree.StringComparison() | tree.Memory() | tree.Stack():
                return True
            case tree.Observed():
                return not node.sure
            case tree.Local():
                return node.variable in self.tainted
            case tree.AddressOf():
                return self.may_fault(node.place.base)
            case tree.Assign():
                return node.variable in self.tainted or self.may_fault(node.value)
            case tree.Comma():
                return self.may_fault(node.value)
            case tree.Call():
                return True  # it is not looked into
            case tree.Expr():
                return any(self.may_fault(part) for part in vars(node).values())
            case tuple():  # the keys of a state
                return any(self.may_fault(part) for part in node)
            case _:
                return False

    def _observed(self, node: tree.Observed) -> Operand:
        """What the probe found of the data it watches; at a probe that watches none, 0."""
        if self.watch is None:
            return self._of_member(node) if self.found else 0
        if node.what == "address":
            data = self.watch.data
            assert not self.watch.per_object, "only numbers and pointers of objects are watched"
            if TYPE_CHECKING:
                assert isinstance(data, Datum)
            return to_signed(data.address)
        if not node.sure and self.faults is not None:
            failed = self.build.value()
            self.build.add(ir.Observe(failed, "failed"))
            shifted = self.build.binary("shl", failed, self.bit) if self.bit else failed
            self.build.set(self.faults, self.build.binary("or", self.build.get(self.faults), shifted))
        raw = self.build.value()
        self.build.add(ir.Observe(raw, node.what))
        if isinstance(node.type, Bool):
            return self.build.compare("ne", raw, 0)
        if isinstance(node.type, Integer) and node.type.signed:
            return self.build.extend(raw, node.type.bits, True)
        return raw

    def _of_member(self, node: tree.Observed) -> Operand:
        """What was found of the member that is accessed, canonical already."""
        if node.what != "address" and self.faults is not None:
            failed: Operand = self.build.get(self.found["failed"])
            shifted = self.build.binary("shl", failed, self.bit) if self.bit else failed
            self.build.set(self.faults, self.build.binary("or", self.build.get(self.faults), shifted))
        raw = self.build.get(self.found[node.what])
        return self.build.compare("ne", raw, 0) if isinstance(node.type, Bool) else raw

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
                build.branch(self._comparison(node), self.value(node.left), self.value(node.right), then, otherwise)
            case _:
                build.branch("ne", self.value(node), 0, then, otherwise)

    @staticmethod
    def _comparison(node: tree.Comparison) -> str:
        kind = node.left.type
        return (_SIGNED if isinstance(kind, Integer) and kind.signed else _UNSIGNED)[node.op]

    @property
    def watching(self) -> tuple[Var | None, int]:
        """The word of faults that an operation is to set, and which bits of it."""
        return self.faults, self._mask

    @property
    def _mask(self) -> int:
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
                return self._local(node)
            case tree.ContextValue():
                return self._context(node)
            case tree.Read():
                return self._read(node.place)
            case tree.AddressOf():
                address, offset = self.address(node)
                return self.build.binary("add", address, offset) if offset else address
            case tree.Convert():
                return self._convert(self.value(node.operand), node.operand.type, node.type)
            case tree.Negate():
                return self._wrapped("sub", 0, self.value(node.operand), tree.integer(node))
            case tree.Complement():
                return self._wrapped("xor", self.value(node.operand), -1, tree.integer(node))
            case tree.Observed():
                return self._observed(node)
            case tree.SwapBytes():
                swapped = self.build.value()
                source = self.value(node.operand)
                self.build.span = node.span
                self.build.add(ir.Swap(swapped, source, tree.integer(node).bits))
                return swapped
            case tree.Arithmetic():
                return self._arithmetic(node)
            case tree.Shift():
                return self._shift(node)
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
                return self.build.compare(self._comparison(node), left, right)
            case tree.LogicalNot() if not isinstance(node.operand, tree.Logical):
                operand = self.value(node.operand)
                return self.build.compare("eq", operand, 0)
            case tree.StringComparison():
                return self._string_comparison(node)
            case tree.Logical() | tree.LogicalNot():
                return self._choose(node, 1, 0)
            case tree.Conditional():
                return self._choose(node.condition, node.then, node.otherwise)
            case tree.Assign():
                return self._assign(node)
            case tree.Comma():
                self._aside(node.first)
                return self.value(node.value)
            case tree.Call():
                return self.call(node)
            case tree.InFlow():
                from klasy.compiler import flows

                return flows.lower_condition(self, node)
            case _:
                from klasy.compiler import lowerstate

                return lowerstate.value(self, node)

    def _aside(self, node: tree.Stmt) -> None:
        """A statement within an expression, whose faults are no concern of the value that is being computed."""
        outer = self.faults, self.bit
        self.faults = None
        self.statement(node)
        self.faults, self.bit = outer

    def _context(self, node: tree.ContextValue) -> Operand:
        fact: Operand = self.build.context(node.what)
        if node.shift:
            fact = self.build.binary("lshr", fact, node.shift)
        if isinstance(node.type, Pointer):
            return fact
        return self.build.extend(fact, node.bits, tree.integer(node).signed)

    def _wrapped(self, op: str, left: Operand, right: Operand, kind: Integer) -> Operand:
        """An operation whose 32-bit result depends on the low 32 bits of its operands only."""
        if kind.size == 8:
            return self.build.binary(op, left, right)
        if not kind.signed:
            return self.build.binary(op, left, right, 32)
        result = self.build.binary(op, left, right)
        # Sign-extended operands give a sign-extended result, bit by bit.
        return result if op in ("and", "or", "xor") else self.build.extend(result, 32, True)

    def _arithmetic(self, node: tree.Arithmetic) -> Operand:
        kind = tree.integer(node)
        left, right = self.value(node.left), self.value(node.right)
        self.build.span = node.span
        if node.op in _ARITHMETIC:
            return self._wrapped(_ARITHMETIC[node.op], left, right, kind)
        op = ("s" if kind.signed else "u") + ("div" if node.op == "/" else "mod")
        result = self.build.binary(op, left, right)
        # Canonical operands give canonical results; but INT_MIN / -1 leaves the type.
        return self.build.extend(result, 32, True) if op == "sdiv" and kind.size == 4 else result

    def _shift(self, node: tree.Shift) -> Operand:
        kind = tree.integer(node)
        left, right = self.value(node.left), self.value(node.right)
        self.build.span = node.span
        op = "shl" if node.op == "<<" else "ashr" if kind.signed else "lshr"
        result = self.build.binary(op, left, right, kind.bits)
        return self.build.extend(result, 32, True) if kind.size == 4 and kind.signed else result

    def _convert(self, value: Operand, source: CType, to: CType) -> Operand:
        if isinstance(to, Bool):
            return value if isinstance(source, Bool) else self.build.compare("ne", value, 0)
        if not isinstance(to, Integer) or to.size == 8:
            return value  # canonical already: widening is what canonical means
        if isinstance(source, Integer):
            wider = to.size > source.size and (to.signed or not source.signed)
            if wider or (to.size == source.size and to.signed == source.signed):
                return value
        return self.build.extend(value, to.bits, to.signed)

    def _string_comparison(self, node: tree.StringComparison) -> Operand:
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
            faults, mask = self.faults, self._mask
            build.add(ir.StringEqual(equal, address, offset, string.limit, node.literal, faults, mask, string.user))
        return build.compare("eq", equal, 0) if node.negated else equal

    def _choose(self, condition: tree.Expr, then: tree.Expr | int, otherwise: tree.Expr | int) -> Operand:
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

    def _assign(self, node: tree.Assign) -> Operand:
        variable = node.variable
        old = self.build.get(self.variables[variable]) if node.old else None
        value = self.keep(variable, node.value)
        self.build.span = node.span
        self.build.set(self.variables[variable], value)
        self._inherit(variable)
        return value if old is None else old

    # --- memory

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

    def _read(self, place: tree.Place) -> Operand:
        base, offset = self.address(place.base)
        self.build.span = place.span
        offset += place.offset
        if place.bits:
            return self._bitfield(place, base, offset)
        raw = self._load(place, base, offset, place.type.size)
        if isinstance(place.type, Bool):
            return self.build.compare("ne", raw, 0)
        if isinstance(place.type, Integer) and place.type.signed:
            return self.build.extend(raw, place.type.bits, True)
        return raw

    def _load(self, place: tree.Place, base: Operand, offset: int, size: int) -> Value:
        """Bytes of a place's memory, or around it."""
        return self.build.load(base, offset, size, self.faults, self._mask, user=of_process(place.base))

    def _bitfield(self, place: tree.Place, base: Operand, offset: int) -> Operand:
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
            raw: Operand = self._load(place, base, offset - first + start, size)
            low = place.shift + 8 * (first - start)
        else:
            raw, low = self._pieces(place, base, offset, end - first)
        if low:
            raw = build.binary("lshr", raw, low)
        value = build.extend(raw, place.bits, kind.signed)
        return build.compare("ne", value, 0) if isinstance(kind, Bool) else value

    def _pieces(self, field: tree.Place, base: Operand, offset: int, count: int) -> tuple[Operand, int]:
        """``count`` (up to 9) bytes put together of several loads; the word, and the lowest bit of the field in it."""
        build = self.build
        word: Operand = 0
        at = 0
        while at < count:
            size = next(s for s in (8, 4, 2, 1) if s <= count - at)
            piece: Operand = self._load(field, base, offset + at, size)
            place = 8 * at - field.shift  # of its lowest bit in the word, the field's lowest being bit 0
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
