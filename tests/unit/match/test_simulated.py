"""Whole aspects on a simulated machine: by whatever mechanisms they are woven, advice runs where the pointcut says.

A fake kernel's functions call each other at random, on a stack in memory; at every place that the plan probes the
program for it runs, in the order in which the kernel would run it. What was logged is compared with what happened.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from support.backend import Runner, registers, trampoline_context
from support.fakekernel import FakeKernel
from support.matching import plan

from klasy import backend
from klasy.bpf import interp
from klasy.compiler import compile_plan
from klasy.errors import InputError
from klasy.kernel.model import CallKind
from klasy.lang.ast import AdviceKind
from klasy.match import Features
from klasy.match.mechanism import Context
from klasy.match.shadow import JoinPointKind

if TYPE_CHECKING:
    from klasy.kernel.model import CallSite, Function
    from klasy.match.plan import Plan, Probe

NAMES = ("alpha", "beta", "gamma", "delta")
DECLARATIONS = "struct thing { int x; };\n" + "".join(f"long {name}(struct thing *t, int n);\n" for name in NAMES)
STACK = 0xFFFF_C900_0010_0000
UNKNOWN = 0xFFFF_FFFF_A000_0000  # code that is no function of the kernel's: generated, or loaded later
TRAMPOLINE = UNKNOWN + 0x1000
KRETPROBE = UNKNOWN + 0x2000
ZERO_FLAG = 1 << 6
FRAME = 0x40  # bytes that each function takes of the stack
WORDS = 2  # argument words of each function

Event = tuple[int, str, int, int]  # advice, kind, address of the join point (0: unknown), argument


class Machine:
    """Runs functions of a fake kernel, and the programs of a plan beside them."""

    def __init__(self, kernel: FakeKernel, made: Plan, seed: int) -> None:
        self.kernel = kernel
        self.plan = made
        compiled = compile_plan(made, kernel)
        artifact = backend.generate(made, compiled, backend.Options())
        self.runner = Runner(artifact)
        self.runner.machine.kernel = self
        self.programs = {spec.probe: i for i, spec in enumerate(artifact.programs)}
        self.random = random.Random(seed)
        self.memory: dict[int, int] = {}
        self.logged: list[Event] = []
        self.happened: list[Event] = []
        self.at: dict[int, list[Probe]] = {}
        for probe in made.probes:  # the kernel runs what was registered last first
            for point in probe.points:
                self.at.setdefault(point.address, []).insert(0, probe)
        self.sites: dict[int, list[CallSite]] = {}
        for site in kernel.all_sites():
            self.sites.setdefault(site.caller.address, []).append(site)
        self.serial = 0

    # what the interpreter reads of kernel memory

    def read(self, address: int, size: int) -> bytes | None:
        words = [self.memory.get(at) for at in range(address, address + size, 8)]
        return None if None in words else b"".join(word.to_bytes(8, "little") for word in words if word is not None)

    def read_string(self, address: int, limit: int) -> bytes | None:
        return None

    # probes

    def run(self, probe: Probe, context: bytes, function_ip: int = 0) -> None:
        self.runner.machine.function_ip = function_ip
        done = self.runner.run(context, self.programs[probe.index], trampoline=WORDS)
        for record in done.logged:
            joinpoint = self.plan.joinpoints[record.joinpoint]
            shadow = joinpoint.shadow
            value = int.from_bytes(record.data[-8:], "little")
            self.logged.append((joinpoint.advice, shadow.kind.value, shadow.address, value))

    def kprobes(self, address: int, contexts: set[Context], **values: int) -> None:
        for probe in self.at.get(address, ()):
            if probe.context in contexts:
                self.run(probe, registers(ip=address + 1, **values), address)

    def happens(self, kind: AdviceKind, joinpoint: JoinPointKind, address: int, callee: Function, value: int) -> None:
        """Note what the advice of a kind should log: at its join point there, else at that of unknown places."""
        for advice in self.plan.aspect.advice:
            if advice.kind is not kind:
                continue
            own = [
                j.shadow
                for j in self.plan.joinpoints
                if j.advice == advice.index and j.shadow.kind is joinpoint and j.shadow.callee in (callee, None)
            ]
            there = [shadow for shadow in own if shadow.address == address]
            for shadow in there or [shadow for shadow in own if shadow.function is None]:
                self.happened.append((advice.index, joinpoint.value, shadow.address, value))

    # functions

    def enter(self, function: Function, sp: int, value: int, depth: int) -> None:
        """Run a function whose return address is at ``sp``."""
        self.happens(AdviceKind.BEFORE, JoinPointKind.EXECUTION, function.address, function, value)
        returns: list[Probe] = []
        real = self.memory[sp]
        for probe in self.at.get(function.address, ()):
            if probe.context is Context.ENTRY:
                self.run(probe, registers(ip=function.address + 1, sp=sp, di=value), function.address)
            elif probe.context is Context.RETURN:
                returns.append(probe)
                self.memory[sp] = KRETPROBE
        for probe in self.at.get(function.address, ()):
            if probe.context is Context.FENTRY:
                self.run(probe, trampoline_context([value, 0]))
        fexits = [probe for probe in self.at.get(function.address, ()) if probe.context is Context.FEXIT]
        body = sp
        if fexits:
            body = sp - 0x80
            self.memory[body] = TRAMPOLINE
        self.body(function, body, value, depth)
        for probe in fexits:
            # The trampoline's frame: arguments, result, rbp, the address behind the function's hook; then the caller.
            context = sp - 8 * (WORDS + 3)
            self.memory[sp - 8] = function.address + 5
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(interp, "_CONTEXT", context)
                self.run(probe, trampoline_context([value, 0], 7))
        for probe in reversed(returns):  # the last put on is the first to be run
            self.run(probe, registers(ip=self.real(sp, real), sp=sp + 8, ax=7), function.address)
        self.memory[sp] = real
        self.happens(AdviceKind.AFTER, JoinPointKind.EXECUTION, function.address, function, value)

    def real(self, sp: int, address: int) -> int:
        """What the kernel says of a return address that kretprobes replaced, one on the other."""
        return self.originals[sp] if address == KRETPROBE else address

    def body(self, function: Function, sp: int, value: int, depth: int) -> None:
        for site in self.sites.get(function.address, ()):
            inner = sp - FRAME
            if self.random.random() < 0.3:
                continue
            if site.kind is CallKind.TAIL:
                if self.jump(site, sp, value, depth):
                    return
                continue
            callee = site.callee or self.kernel.function(self.random.choice(NAMES))
            if depth == 0:
                continue
            argument = self.fresh()
            self.kprobes(site.address, {Context.SITE}, sp=inner, di=argument)
            self.called(site.address, callee, argument)
            self.memory[inner - 8] = self.originals[inner - 8] = site.return_address
            self.enter(callee, inner - 8, argument, depth - 1)
            self.kprobes(site.return_address, {Context.BEHIND}, sp=inner, ax=7)
            self.returned(site.address, callee, argument)
            if self.random.random() < 0.2:  # another way to the place behind the call
                self.kprobes(site.return_address, {Context.BEHIND}, sp=inner, ax=8)

    def jump(self, site: CallSite, sp: int, value: int, depth: int) -> bool:
        """A tail call, perhaps conditional; whether it was made."""
        taken = depth > 0 and (site.length == 5 or self.random.random() < 0.5)
        if site.length == 5 and not taken:
            return False
        flags = ZERO_FLAG if taken else 0
        argument = self.fresh()
        self.kprobes(site.address, {Context.TAIL}, sp=sp, di=argument, flags=flags)
        if not taken:
            return False
        callee = site.callee
        assert callee is not None
        self.called(site.address, callee, argument)
        self.enter(callee, sp, argument, depth - 1)
        self.returned(site.address, callee, argument)
        return True

    def called(self, address: int, callee: Function, value: int) -> None:
        self.happens(AdviceKind.BEFORE, JoinPointKind.CALL, address, callee, value)

    def returned(self, address: int, callee: Function, value: int) -> None:
        self.happens(AdviceKind.AFTER, JoinPointKind.CALL, address, callee, value)

    def fresh(self) -> int:
        self.serial += 1
        return self.serial << 12

    originals: dict[int, int]

    def go(self, times: int) -> None:
        """Calls from outside."""
        self.originals = {}
        for _ in range(times):
            function = self.kernel.function(self.random.choice(NAMES))
            value = self.fresh()
            self.memory[STACK] = self.originals[STACK] = UNKNOWN + 0x10
            self.called(UNKNOWN, function, value)
            self.enter(function, STACK, value, 4)
            self.returned(UNKNOWN, function, value)


@st.composite
def call_tables(draw: st.DrawFn) -> str:
    """Who calls whom. Jumps lead to functions further down only: a function that gets into itself by tail calls alone
    has one return for two executions, and a kretprobe one place to keep the arguments of both."""
    lines = []
    for number, caller in enumerate(NAMES):
        calls = st.sampled_from(NAMES) | st.just("*")
        if number + 1 < len(NAMES):
            calls |= st.tuples(st.sampled_from(["jmp:", "je:"]), st.sampled_from(NAMES[number + 1 :])).map("".join)
        lines.append(f"{caller}: " + " ".join(draw(st.lists(calls, max_size=4))))
    return "\n".join(lines)


ADVICE = st.sampled_from(
    [
        "before(struct thing *t): {pc} {{ log((unsigned long)t); }}",
        "after(struct thing *t): {pc} {{ log((unsigned long)t); }}",
    ]
)
POINTCUTS = st.sampled_from(
    [
        "call(alpha(struct thing *t, ..))",
        "call(%(struct thing *t, ..))",
        "call(alpha(struct thing *t, ..)) && within(beta)",
        "call(%a(struct thing *t, ..)) && within(*a) && !within(delta)",
        "execution(alpha(struct thing *t, ..))",
        "execution(%(struct thing *t, ..))",
        "(execution(beta(struct thing *t, ..)) || call(gamma(struct thing *t, ..)))",
        "(call(beta(struct thing *t, ..)) && if(pid == 0) || call(beta(struct thing *t, ..)) && within(alpha))",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    calls=call_tables(),
    parts=st.lists(st.tuples(ADVICE, POINTCUTS), min_size=1, max_size=3),
    force=st.sampled_from([None, None, "sites", "dispatch", "kprobe"]),
    fentry=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_advice_runs_where_the_pointcut_says(
    calls: str, parts: list[tuple[str, str]], force: str | None, fentry: bool, seed: int
) -> None:
    """Each join point of the plan runs its advice once each time it is passed, with its argument, and never else."""
    if any(advice.startswith("after") and "call" in pointcut for advice, pointcut in parts):
        # A kretprobe hides the return address. Where to look for it is the running kernel's affair.
        fentry, force = True, None if force == "kprobe" else force
    kernel = FakeKernel(DECLARATIONS, calls)
    body = " ".join(advice.format(pc=pointcut) for advice, pointcut in parts)
    try:
        made = plan(kernel, body, force=force, features=Features(fentry=fentry))
    except InputError:
        reject()  # the pointcut matches nothing here
    machine = Machine(kernel, made, seed)
    machine.go(6)
    excluded = {each.advice for each in made.unreached}
    logged = sorted(e for e in machine.logged if e[0] not in excluded)
    happened = sorted(e for e in machine.happened if e[0] not in excluded)
    # Where there is a condition it never holds: that advice runs for the calls made in alpha alone.
    guarded = {a.index for a in made.aspect.advice if "pid == 0" in a.pointcut.span.text}
    alpha = kernel.function("alpha")
    assert logged == [e for e in happened if e[0] not in guarded or alpha.address < e[2] < alpha.end]


def test_the_simulation_is_not_empty() -> None:
    """On a fixed kernel every kind of event happens, and is logged: the property above proves something."""
    kernel = FakeKernel(DECLARATIONS, "alpha: beta * je:delta\nbeta: gamma delta\ngamma: delta jmp:delta\ndelta: alpha")
    body = """
        pointcut calls(struct thing *t): call(delta(struct thing *t, ..));
        before(struct thing *t): calls(t) { log((unsigned long)t); }
        after(struct thing *t): calls(t) && within(gamma) { log((unsigned long)t); }
        after(struct thing *t): execution(%a(struct thing *t, ..)) { log((unsigned long)t); }
    """
    machine = Machine(kernel, plan(kernel, body), 7)
    machine.go(20)
    assert sorted(machine.logged) == sorted(machine.happened)
    passed = {(advice, place) for advice, _, place, _ in machine.logged}
    assert passed == {(j.advice, j.shadow.address) for j in machine.plan.joinpoints}
