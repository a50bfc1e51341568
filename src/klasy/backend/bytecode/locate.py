"""How a program learns at which join point it runs: the prologue and Locate.

The prologue runs once, before the first arm. It leaves, for the Locate of each arm,

- ``key``: the address that decides (of the probe, of a mark's site, or the return address), or
- ``entry``: what the lookup of that address in the map of join points gave, where there are many;
- ``site``: of a dispatched program that found the mark of a tail call, the site of it, else 0.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_UNKNOWN
from klasy.backend.bytecode.addresses import AT_FUNCTIONS, KEY, MARK, NODE, SITE, WORD, Addresses
from klasy.backend.bytecode.emitter import OUT
from klasy.backend.bytecode.flags import unless_taken
from klasy.backend.bytecode.liveness import Effects
from klasy.backend.bytecode.marks import Marks
from klasy.backend.bytecode.tables import Goal, Table
from klasy.bpf.insn import (
    R0,
    R10,
    jump_if,
    load,
    load_imm,
    mov,
    store,
    store_imm,
)
from klasy.compiler.ir import Var
from klasy.match.mechanism import ANY_SYSCALL
from klasy.match.plan import Locator
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.artifact import MapSpec
    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.backend.bytecode.origin import Origin
    from klasy.backend.bytecode.rethook import Rethook
    from klasy.compiler import ir
    from klasy.match.plan import Plan, Probe


class Locating:
    """The prologue and the Locate operations of one program."""

    def __init__(
        self,
        plan: Plan,
        probe: Probe,
        locates: list[ir.Locate],
        *,
        origin: Origin,
        counters: Counters,
        rethook: Rethook | None,
    ) -> None:
        self.probe = probe
        self.origin = origin
        self.addresses = Addresses(probe, origin, rethook)
        self.marks = Marks(plan, probe, self.addresses, counters)
        self.key = Var("key")
        self.site = Var("site")
        self.entry = Var("entry")
        self.static = self._static_address()
        self.locates = bool(locates) and self.static is None  # else they are resolved beforehand
        self.dispatches = self.locates and probe.locator is Locator.DISPATCH
        self._counts_unknown = (
            next((op for op in locates if probe.arms[op.arm].otherwise is not None), None) if self.dispatches else None
        )
        self.sites = Table(f"sites{probe.index}", probe.places)
        self.returns = Table(f"returns{probe.index}", [arm.by_return_address for arm in probe.arms])
        self.small = all(table.is_small for table in self._tables())

    def _static_address(self) -> int | None:
        """The address that decides, where it is known beforehand."""
        probe = self.probe
        alone = len(probe.points) == 1 and probe.locator in {Locator.FIXED, Locator.ADDRESS}
        return probe.points[0].address if alone else None

    def known(self, op: ir.Locate) -> int | None:
        """The join point that a Locate finds, where ``static`` is known."""
        assert self.static is not None
        return self.probe.places[op.arm].get(self.static)

    def _tables(self) -> list[Table]:
        """Those that are searched."""
        if not self.dispatches:
            return [self.sites]
        return [self.returns, self.sites] if self.marks.reads else [self.returns]

    def maps(self) -> list[MapSpec]:
        """The maps that the program's tables are in."""
        searched = [table.spec() for table in self._tables()] if self.locates and not self.small else []
        return searched + self.marks.maps()

    @property
    def uses_unknown(self) -> bool:
        """Whether calls from unknown places are counted."""
        return self.dispatches and self._counts_unknown is not None

    # --- what registers must expect

    def prologue_effects(self) -> Effects:
        """Of the prologue: what it reads, leaves and destroys."""
        marks = self.marks.reads or self.marks.writes
        conditional = self.probe.condition is not None  # that calls nothing, but takes registers as if it did
        if not marks and not self.locates:
            return Effects(late=(self.origin.ctx,), calls=True) if conditional else Effects()
        results: list[Var] = []
        if self.locates:
            if self.small or self.uses_unknown:
                results.append(self.key)
            if not self.small:
                results.append(self.entry)
            if self.dispatches and self.marks.reads:
                results.append(self.site)
        at_function = self.probe.context in AT_FUNCTIONS | ANY_SYSCALL  # which function it is, is asked for
        return Effects(
            late=(self.origin.ctx,),
            early=tuple(self.origin.marked.values()) if self.marks.reads else (),
            results=tuple(results),
            calls=marks or conditional or at_function or self.dispatches or not self.small,
        )

    def locate_effects(self, op: ir.Locate) -> Effects:
        """Of a Locate."""
        reads = [self.key] if self.small else [self.entry]
        if self.dispatches and self.marks.reads:
            reads.append(self.site)
        counts = op is self._counts_unknown and self.uses_unknown
        return Effects(tuple(reads), (self.key,) if counts else (), (op.dst,), calls=counts)

    def scratch(self) -> int:
        """Bytes of scratch that all this takes."""
        marks = self.marks.reads or self.marks.writes
        if self.addresses.rethook is not None and (self.dispatches or marks):
            return -NODE
        if self.marks.writes:
            return -MARK
        if self.marks.reads or self.dispatches:
            return -SITE
        return -WORD if self.locates and not self.small else 0

    # --- the prologue

    def prologue(self, e: Emitter) -> None:
        """Emit it; the context is in its place."""
        if self.probe.condition is not None:
            unless_taken(e, self.origin.ctx, self.probe.condition)
        if self.marks.writes:
            self.marks.write(e)
        if self.dispatches:
            self._dispatch(e)
        elif self.marks.reads:
            self.marks.read(e, OUT)
            if self.locates:
                self._leave_place(e, SITE)
        elif self.locates:
            self._leave_own_address(e)

    def _dispatch(self, e: Emitter) -> None:
        """By the mark's site, if one is found, else by the return address."""
        if not self.marks.reads:
            self.addresses.returning(e)
            return self._leave_place(e, WORD)
        none, joined = e.asm.fresh_label("none"), e.asm.fresh_label("joined")
        self.marks.read(e, none)
        if not self.small:
            self._leave_entry(e, self.sites, SITE)
        e.go(joined)
        e.asm.label(none)
        for local in self.origin.marked.values():
            e.asm.emit(mov(R0, 0))
            e.keep(local, R0)
        e.asm.emit(store_imm(R10, SITE, 0))
        if not self.small:
            self._leave_entry(e, self.returns, WORD)
        e.asm.label(joined)
        self._leave(e, self.site, SITE)
        return self._leave_key(e, WORD)

    def _leave_own_address(self, e: Emitter) -> None:
        register = e.result(self.key)
        self.addresses.own(e, register)
        if self.small:
            return e.keep(self.key, register)
        e.asm.emit(store(R10, WORD, register))
        return self._leave_place(e, WORD)

    def _leave_place(self, e: Emitter, offset: int) -> None:
        """Leave what is to be known of an address on the stack."""
        if not self.small:
            self._leave_entry(e, self.returns if self.dispatches else self.sites, offset)
        self._leave_key(e, offset)

    def _leave_entry(self, e: Emitter, table: Table, offset: int) -> None:
        """Leave what the map of a table has for an address on the stack."""
        e.lookup(table.name, offset)
        e.keep(self.entry, R0)

    def _leave_key(self, e: Emitter, offset: int) -> None:
        """Leave an address on the stack as the key, if that is wanted."""
        if self.small or self.uses_unknown:
            self._leave(e, self.key, offset)

    @staticmethod
    def _leave(e: Emitter, local: Var, offset: int) -> None:
        """Leave a word of the stack in a local."""
        register = e.result(local)
        e.asm.emit(load(register, R10, offset))
        e.keep(local, register)

    # --- Locate

    def locate(self, e: Emitter, op: ir.Locate, found: str, missing: str) -> None:
        """Emit a Locate."""
        goal = Goal(op.dst, found, missing)
        if not self.dispatches:
            return self._find(e, self.sites, self.key, op.arm, goal)
        arm = self.probe.arms[op.arm]
        if self.marks.reads:
            direct = e.asm.fresh_label("direct")
            e.asm.emit(jump_if(e.register(self.site, R0), "==", 0, direct))
            self._find(e, self.sites, self.site, op.arm, goal)
            e.asm.label(direct)
        if arm.otherwise is None:
            return self._find(e, self.returns, self.key, op.arm, goal)
        elsewhere = e.asm.fresh_label("elsewhere")
        self._find(e, self.returns, self.key, op.arm, Goal(op.dst, found, elsewhere))
        e.asm.label(elsewhere)
        # What another arm of the same advice knows is not unknown: there the advice runs by that arm, if it does.
        for sibling, other in enumerate(self.probe.arms):
            if sibling != op.arm and other.advice == arm.advice and other.by_return_address:
                beyond = e.asm.fresh_label("beyond")
                self._find(e, self.returns, self.key, sibling, Goal(op.dst, missing, beyond))
                e.asm.label(beyond)
        if op is self._counts_unknown:
            self._count_unknown(e)
        register = e.result(op.dst)
        e.asm.emit(load_imm(register, arm.otherwise))
        e.keep(op.dst, register)
        return e.go(found)

    def _find(self, e: Emitter, table: Table, key: Var, arm: int, goal: Goal) -> None:
        if self.small:
            table.search(e, e.register(key, R0), arm, goal)
        else:
            table.fetch(e, e.register(self.entry, R0), arm, goal)

    def _count_unknown(self, e: Emitter) -> None:
        """Count a return address behind no known call. Shared by all CPUs, hence atomic."""
        e.asm.emit(store(R10, KEY, e.register(self.key, R0)))
        e.count(MAP_UNKNOWN, KEY, WORD)
