"""The typed tree to IR: one program for each probe, its arms one after another.

Expressions are ``lowerexpr``'s.
"""

from __future__ import annotations

from klasy.compiler import ir, tree
from klasy.compiler.builder import Builder
from klasy.compiler.lowerexpr import ExpressionLowering, to_signed
from klasy.compiler.lowerloop import Loops
from klasy.compiler.spaces import of_process
from klasy.compiler.types import Bool, CType, Integer, Pointer
from klasy.match.plan import READS, WRITES, Kept, Located, Locator, MarkUse, Object, Result, UserRegister, WatchedObject
from klasy.plain import TYPE_CHECKING, NamedTuple
from klasy.record import MOST_TEXTS, TEXT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.compiler.ir import Block, Operand, Var
    from klasy.match.plan import Arm, JoinPoint, Probe, Watch


class Called(NamedTuple):
    """The join points of the aspect, and which of them are called the same, as far as anybody has asked (placekeys)."""

    joinpoints: Sequence[JoinPoint]
    numbers: dict[str, list[int]]


def lower_probe(
    probe: Probe,
    advice: Mapping[int, tree.Advice],
    guards: Mapping[int, tree.Expr | None],
    called: Called,
) -> ir.Program:
    """The program of a probe. ``advice`` by its index, ``guards`` by the place of the arm in the probe."""
    program = ir.Program(probe.name, probe.index)
    build = Builder(program)
    build.begin(build.block())
    if probe.mark is not MarkUse.NONE:
        build.add(ir.Mark(probe.mark.value))
    noted: Mapping[int, dict[str, Var]] = {}
    if probe.notes:
        from klasy.compiler.lowernote import keep

        noted = keep(build, probe)
    for place, arm in enumerate(probe.arms):
        behind = build.block()
        joinpoint = _locate(build, probe, arm, place, behind)
        body = Body(build, arm, advice[arm.advice], joinpoint, behind, called=called)
        body.watch = probe.watch
        body.found = noted.get(place, {})
        body.run(guards[place])
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


class Body(ExpressionLowering):
    """Lowers one advice at its arm. ``behind``: where control goes when the advice has ended."""

    def __init__(
        self, build: Builder, arm: Arm, advice: tree.Advice, joinpoint: Operand, behind: Block, *, called: Called
    ) -> None:
        super().__init__(build)
        self.arm = arm
        self.advice = advice
        self.joinpoint = joinpoint
        self.behind = behind
        self.called = called
        self.loops = Loops(self)
        self.returns: tuple[tree.Variable | None, Block] | None = None  # in a function: its result, and where it ends

    def run(self, guard: tree.Expr | None) -> None:
        """The whole of it."""
        members = self.arm.members
        if self.arm.note is not None:
            from klasy.compiler.lowernote import take

            self.found = take(self.build, self.arm.note, self.joinpoint, self.behind)
        elif members is not None and members.wants and not self.found:
            from klasy.compiler.lowermember import find, variables

            self.found = variables(self.build, members.wants)
            find(self.build, members, self.arm.by_address, self.joinpoint, self.found)
        self.bind()
        if self.watch is not None:
            self.select(self.watch)
        if guard is not None:
            body = self.build.block()
            self.branch(guard, body, self.behind)
            self.build.begin(body)
        self.build.span = self.advice.body.span
        self.build.add(ir.CountHit(self.joinpoint))
        if isinstance(self.advice.body, tree.Sequence):
            self.statement(self.advice.body)
        else:
            self.call_code()
        if not self.build.ended:
            self.build.jump(self.behind)
        self.build.span = None

    def select(self, watch: Watch) -> None:
        """Of the accesses to watched data go on at those that the arm is for, or may be for."""
        build = self.build
        if self.arm.does and not watch.writes_only:
            kind = build.value()
            build.add(ir.Observe(kind, "kind"))
            body = build.block()
            other = READS if self.arm.does == WRITES else WRITES
            build.branch("eq", kind, other, self.behind, body)
            build.begin(body)
        if self.arm.ranges is not None:
            ip = build.value()
            build.add(ir.Observe(ip, "ip"))
            body = build.block()
            for low, high in self.arm.ranges:  # the instruction lies before the ip
                above, beyond = build.block(), build.block()
                build.branch("ugt", ip, to_signed(low), above, beyond)
                build.begin(above)
                build.branch("ule", ip, to_signed(min(high, ir.MASK64)), body, beyond)
                build.begin(beyond)
            build.jump(self.behind)
            build.begin(body)

    def bind(self) -> None:
        """The parameters of the advice get their values."""
        for binding in self.arm.bindings:
            variable = self.advice.parameters[binding.name]
            self.build.span = variable.span
            self.prepare(variable)
            if isinstance(binding.source, Object):
                self.begin(variable, self.build.get(self.found["object"]))
                continue
            if isinstance(binding.source, Located):
                self.begin(variable, self.narrow(self.located(binding.source), variable.type))
                continue
            raw = self.build.value()
            if isinstance(binding.source, WatchedObject):
                self.build.add(ir.Observe(raw, "address"))
                self.begin(variable, self.build.binary("sub", raw, binding.source.offset))
                continue
            if isinstance(binding.source, Kept):
                from klasy.compiler import flows

                flows.lower_kept(self, raw, binding.source)
            elif isinstance(binding.source, Result):
                self.build.add(ir.Result(raw))
            elif isinstance(binding.source, UserRegister):
                registers = self.build.value()
                self.build.add(ir.Argument(registers, binding.source.registers))
                self.build.add(ir.Load(raw, registers, binding.source.offset, 8))
            else:
                self.build.add(ir.Argument(raw, binding.source))
            # Of a register only the low bits of a narrow type are defined.
            self.begin(variable, self.narrow(raw, variable.type))

    def located(self, where: Located) -> Operand:
        """A value that debug information says where to find."""
        build = self.build
        value: Operand = 0
        if where.register is not None:
            value = build.value()
            build.add(ir.Register(value, where.register))
        for number, offset in enumerate(where.offsets):
            if number:
                value = build.load(value, 0, 8)
            value = build.binary("add", value, to_signed(offset & ir.MASK64)) if offset else value
        if where.load:
            value = build.load(value, 0, where.load)
        return value

    def narrow(self, raw: Operand, kind: CType) -> Operand:
        """The value of a type that the low bits of a word hold."""
        if not isinstance(kind, Integer):
            return raw
        value = self.build.extend(raw, kind.bits, kind.signed)
        return self.build.compare("ne", value, 0) if isinstance(kind, Bool) else value

    def call_code(self) -> None:
        """Run a body in C, which gets the parameters as they are."""
        from klasy.compiler.ircode import CallCode

        bound = {binding.name for binding in self.arm.bindings}
        values = tuple(
            self.fixed[variable] if name in bound else 0  # nothing assigns to it here: C has a copy
            for name, variable in self.advice.parameters.items()
        )
        self.build.add(CallCode(self.advice.index, self.joinpoint, values))

    # --- statements

    def statement(self, node: tree.Stmt) -> None:
        """A statement; nothing where it stands behind the end of its block."""
        if self.build.ended:
            return  # behind a return
        self.build.span = node.span
        match node:
            case tree.Sequence():
                for part in node.body:
                    self.statement(part)
            case tree.Evaluate():
                self.discard(node.expr)
            case tree.Declare():
                self.declare(node)
            case tree.If():
                self.if_(node)
            case tree.Loop():
                self.loops.loop(node)
            case tree.Break() | tree.Continue():
                self.loops.leave(node)
            case tree.Return() if self.returns is not None:
                from klasy.compiler import lowercall

                lowercall.leave(self, node)
            case tree.Return():
                self.build.jump(self.behind)
            case tree.Log():
                self.log(node)
            case tree.Sample():
                self.go_on_if("ult", self.build.context("random"), node.threshold)
            case tree.Limit():
                taken = self.build.value()
                self.build.add(ir.Limit(taken, node.slot, node.interval, node.size))
                self.go_on_if("ne", taken, 0)
            case tree.Stop():
                self.build.add(ir.Stop())
            case tree.WatchObject():
                address = self.value(node.address)
                bounds = node.size, node.hits, node.duration
                self.build.add(ir.WatchObject(address, self.joinpoint, node.member, *bounds))
            case tree.UnwatchObject():
                self.build.add(ir.UnwatchObject(self.value(node.address), node.member))
            case tree.Deny():
                self.build.add(ir.Count(self.joinpoint, "denied"))
                self.build.add(ir.Deny(node.errno))
            case tree.FlowStep():
                from klasy.compiler import flows

                flows.lower_step(self, node)
            case _:
                from klasy.compiler import lowerstate

                lowerstate.statement(self, node)

    def call(self, node: tree.Call) -> Operand:
        """A function of the user's."""
        from klasy.compiler import lowercall

        return lowercall.call(self, node)

    def go_on_if(self, op: str, left: Operand, right: Operand) -> None:
        """Go on if a comparison holds, else end the advice, counted as left out."""
        build = self.build
        further, left_out = build.block(), build.block()
        build.branch(op, left, right, further, left_out)
        build.begin(left_out)
        build.add(ir.Count(self.joinpoint, "left_out"))
        build.jump(self.behind)
        build.begin(further)

    def discard(self, node: tree.Expr) -> None:
        """Evaluate for the effect alone."""
        match node:
            case tree.StringAt() | tree.Memory():
                self.value(node.pointer)
                length = node.length if isinstance(node, tree.Memory) else None
                if length is not None:
                    self.value(length)
            case tree.Formatted():
                self.value(node.value)
            case tree.Place():
                self.value(node.base)
            case tree.Call():
                self.value(node)
            case tree.Expr() if isinstance(node.type, Integer | Pointer):
                self.value(node)

    def declare(self, node: tree.Declare) -> None:
        """A local begins."""
        variable = node.variable
        self.prepare(variable)
        self.begin(variable, self.keep(variable, node.value) if node.value is not None else 0)

    def if_(self, node: tree.If) -> None:
        """``if``."""
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
        """``log``."""
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
        size = node.format.size
        if self.arm.contents is not None and any(isinstance(part, ir.CallField) for part in parts):
            size -= MOST_TEXTS * TEXT_BYTES - sum(content.room for content in self.arm.contents)
        build.add(ir.Emit(node.format.index, size, self.joinpoint, tuple(parts), faults))

    def part(self, item: tree.Item, known: dict[tree.Expr, Operand]) -> ir.Part | None:
        """How a value gets into the record. ``known``: what was evaluated for a field before, an address for one."""
        field, value = item.field, item.value
        if isinstance(value, tree.JoinPointAttribute):
            if not value.is_whole:
                return None
            from klasy.compiler.wholecalls import call_field

            return call_field(self, field, value)
        if isinstance(value, tree.Comm):
            return ir.CommField(field.offset)
        if isinstance(value, tree.StringAt):
            address, at = self.address(value.pointer)
            if value.whole:
                return ir.CopyField(field.offset, field.size, address, at, item.bit, value.user)
            return ir.StringField(field.offset, field.size, address, at, item.bit, value.user, field.kind == "ustring")
        if isinstance(value, tree.Memory):
            length = self.value(value.length) if value.length is not None else None
            address, at = self.address(value.pointer)
            user = of_process(value.pointer)
            if length is not None:
                return ir.BufferField(field.offset, field.size, address, at, item.bit, length, user)
            return ir.CopyField(field.offset, field.size, address, at, item.bit, user)
        if isinstance(value, tree.Stack):
            return ir.StackField(field.offset, field.size, item.bit, value.user)
        if isinstance(value, tree.Formatted):
            return ir.StoreField(field.offset, field.size, self.value(value.value))
        if field.kind in ("object", "bytes"):
            user = of_process(value)
            if value in known:
                return ir.CopyField(field.offset, field.size, known[value], 0, item.bit, user)
            address, at = self.address(value)
            return ir.CopyField(field.offset, field.size, address, at, item.bit, user)
        known[value] = self.value(value)
        return ir.StoreField(field.offset, field.size, known[value])
