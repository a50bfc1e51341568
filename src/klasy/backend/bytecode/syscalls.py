"""System calls under way: an account for each, from its entry to its end, by the task that makes it.

    calls    u64 task (its address in the kernel: an exec by a thread gives it another number)
             -> u64 begun      ktime at the entry
                u64 function   address of the kernel's function for the call
                9 x u64        the program's registers at the entry (an exec changes them), r10 to orig_ax of
                               struct pt_regs
    names    u64 task, u64 pointer of the program's
             -> u64 begun      of the call for which it was noted: another call's is none
                char[256]      the string there, as the kernel has copied it
    numbers  one value: for each number of a system call the address of its function, 0 where it is not wanted; lowest
             bit: an account is wanted

The tracepoints sys_enter and sys_exit see all system calls. Three things come out there that are no call of a 64-bit
program's: calls by int 0x80 (which TS_COMPAT of the thread's status tells, not the code segment), the child of a fork,
and what was suppressed by seccomp or a tracer. The account sorts them out, for sys_enter begins none for the first and
does not see the others. An end without an account (the call was under way when the aspect was woven, or there was no
room) and an account without an end (the task ended in the call) are counted as missed by the join points behind it.

File names are noted where the kernel gives them back, at putname: all that it used came through getname, which may be
inlined, and there the copy still is what the kernel went by. Other strings that it duplicates are noted behind
strndup_user. What is of neither kind is read from the process's memory when it is logged.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_CALLS, MAP_NAMES, MAP_NUMBERS, MapSpec
from klasy.backend.bytecode.emitter import OUT
from klasy.backend.bytecode.strings import LOOKED_UP
from klasy.backend.bytecode.tables import Goal, Table
from klasy.bpf import uapi
from klasy.bpf.insn import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R9,
    R10,
    add,
    and_,
    call,
    jump_if,
    load,
    load_imm,
    load_map,
    load_map_value,
    lsh,
    mov,
    store,
)
from klasy.bpf.uapi import BPF_ANY
from klasy.compiler.ir import Value
from klasy.kernel import syscalls
from klasy.kernel.arch_x86_64 import PT_REGS
from klasy.match.mechanism import ANY_SYSCALL, Context
from klasy.match.plan import CallUse
from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_REGISTERS, COUNTER_UNMARKED, TEXT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.backend.bytecode.counters import Counters
    from klasy.backend.bytecode.emitter import Emitter
    from klasy.bpf.insn import Reg
    from klasy.match.plan import Plan, Probe

NUMBERS = 512  # the table's room; x86-64's own numbers lie below
_AWAITED = 1
_TS_COMPAT = 2  # arch/x86/include/asm/thread_info.h
_FORKS = ("clone", "fork", "vfork", "clone3")
_ERRORS = -4095  # what is above, unsigned, is an error and no pointer (include/linux/err.h)

# The account.
_BEGUN, _FUNCTION, _REGISTERS = 0, 8, 16
REGISTERS_BYTES = 8 * len(CALL_REGISTERS)
_ACCOUNT_BYTES = _REGISTERS + REGISTERS_BYTES
FIRST_REGISTER = PT_REGS[CALL_REGISTERS[0]]
MOST_NAMES = 4096
_NAME_BYTES = 8 + TEXT_BYTES

# Scratch of begin and end; -8 is the counters'.
_KEY = -16
_VALUE = _KEY - _ACCOUNT_BYTES
_WORD = _VALUE - 8
# Scratch of what notes strings.
_STRING_WORD = -24
_STRING_VALUE = _STRING_WORD - _NAME_BYTES


def call_maps(plan: Plan, calls: int, used: frozenset[str]) -> list[MapSpec]:
    """The maps, of which ``used`` are. ``calls``: how many can be under way at once."""
    specs = []
    if MAP_CALLS in used:
        specs.append(MapSpec(MAP_CALLS, "hash", 8, _ACCOUNT_BYTES, calls))
    if MAP_NAMES in used:
        # Only tasks come here, none of them in an interrupt: its locks are met by nobody who holds them.
        specs.append(MapSpec(MAP_NAMES, "lru_hash", 16, _NAME_BYTES, MOST_NAMES))
    if MAP_NUMBERS in used:
        wanted: dict[int, int] = {}
        for probe in plan.probes:
            if probe.context in ANY_SYSCALL:
                awaited = _AWAITED if probe.context is Context.SYS_EXIT else 0
                for point in probe.points:
                    number = syscalls.number(point.function.name)
                    wanted[number] = wanted.get(number, point.address) | awaited
        value = b"".join(wanted.get(number, 0).to_bytes(8, "little") for number in range(NUMBERS))
        first = ((bytes(4), value),)
        specs.append(MapSpec(MAP_NUMBERS, "array", 4, 8 * NUMBERS, 1, uapi.BPF_F_RDONLY_PROG, first, frozen=True))
    return specs


def looks_up(plan: Plan, probe: Probe) -> bool:
    """Whether a probe's program takes strings from among those that were noted."""
    return probe.calls is CallUse.END and any(each.calls is CallUse.NAME for each in plan.probes)


def number_of(e: Emitter, register: Reg) -> None:
    """``register``, a number of a system call, becomes what the table has for it. Uses r1; r0 is no register here."""
    e.asm.emit(jump_if(register, ">=", NUMBERS, OUT), load_map_value(R1, MAP_NUMBERS, 0))
    e.asm.emit(lsh(register, 3), add(R1, register), load(register, R1, 0))


def own_address(e: Emitter, context: Context, ctx: Reg, register: Reg) -> None:
    """``register`` = address of the function of the system call."""
    if context is Context.SYS_ENTER:
        e.asm.emit(load(R2, ctx, 8))
        number_of(e, R2)
        e.asm.emit(and_(R2, ~_AWAITED), mov(register, R2))
        return
    _task(e, _KEY)
    e.lookup(MAP_CALLS, _KEY)
    e.asm.emit(jump_if(R0, "==", 0, OUT), load(register, R0, _FUNCTION))


class CallCode:
    """What one program does with accounts, besides its arms."""

    def __init__(self, plan: Plan, probe: Probe, counters: Counters) -> None:
        self.plan = plan
        self.probe = probe
        self.counters = counters
        assert plan.syscalls is not None
        self.facts = plan.syscalls
        awaiting = [arm.by_address for p in plan.probes if p.context is Context.SYS_EXIT for arm in p.arms]
        self._awaited = Table(f"awaited{probe.index}", awaiting)
        self._counts = probe.context in ANY_SYSCALL and bool(awaiting)

    @property
    def scratch(self) -> int:
        """Bytes of scratch that all this takes."""
        return -_STRING_VALUE if self.probe.calls in (CallUse.NAME, CallUse.STRING) else -_WORD

    def maps(self) -> list[MapSpec]:
        """A map by which to count those that are missed, where there are many."""
        return [self._awaited.spec()] if self._counts and not self._awaited.is_small else []

    def begin(self, e: Emitter) -> None:
        """First of all, whoever makes the call; r1, the context, is as before. Only r8 is left alone."""
        probe = self.probe
        e.asm.emit(mov(R9, R1))
        if probe.calls is CallUse.NAME:
            self._note(e, self._file_name)
        elif probe.calls is CallUse.STRING:
            self._note(e, self._duplicate)
        elif probe.context is Context.SYS_ENTER:
            e.asm.emit(load(R6, R9, 8))
            number_of(e, R6)
            e.asm.emit(jump_if(R6, "==", 0, OUT))
            _task(e, _KEY)
            self._leave_32_bit(e)
            if probe.calls is CallUse.BEGIN:
                self._begin(e)
        elif probe.calls is CallUse.BEGIN:
            self._begin_function(e)
        e.asm.emit(mov(R1, R9))

    def go_on(self, e: Emitter) -> None:
        """Behind a call, for those whose hits count: leave if it has no account. As :meth:`begin`."""
        if self.probe.context is not Context.SYS_EXIT:
            return
        e.asm.emit(mov(R9, R1))
        _task(e, _KEY)
        e.lookup(MAP_CALLS, _KEY)
        e.asm.emit(jump_if(R0, "==", 0, e.out_of_line(lambda: self._unpaired(e), None)), mov(R1, R9))

    @staticmethod
    def end(e: Emitter) -> None:
        """At last: the call is over."""
        _task(e, _KEY)
        e.stack_address(R2, _KEY)
        e.asm.emit(load_map(R1, MAP_CALLS), call("map_delete_elem"))

    # --- accounts

    def _leave_32_bit(self, e: Emitter) -> None:
        """Leave if the call that the task makes is one of 32-bit programs."""
        e.asm.emit(load(R3, R10, _KEY))
        _read(e, self.facts.status, _WORD, 4)
        e.asm.emit(load(R1, R10, _WORD, 4), and_(R1, _TS_COMPAT), jump_if(R1, "!=", 0, OUT))

    def _begin(self, e: Emitter) -> None:
        """Begin an account, if one is wanted, in the place of one that was not ended."""
        begun = e.asm.fresh_label("begun")
        e.asm.emit(mov(R7, R6), and_(R7, _AWAITED), jump_if(R7, "==", 0, begun), and_(R6, ~_AWAITED))
        e.asm.emit(store(R10, _VALUE + _FUNCTION, R6))
        e.lookup(MAP_CALLS, _KEY)
        back = e.asm.fresh_label("ended")
        e.asm.emit(jump_if(R0, "!=", 0, e.out_of_line(lambda: self._unended(e, back), None)))
        e.asm.label(back)
        e.asm.emit(load(R3, R9, 0))
        self._keep(e)
        e.asm.emit(jump_if(R0, "!=", 0, e.out_of_line(lambda: self._count(e, _VALUE + _FUNCTION, begun), None)))
        e.asm.label(begun)

    def _begin_function(self, e: Emitter) -> None:
        """The same at the function's entry."""
        _task(e, _KEY)
        e.asm.emit(load_imm(R1, self.probe.points[0].address), store(R10, _VALUE + _FUNCTION, R1))
        _argument(e, 0, _WORD)
        e.asm.emit(load(R3, R10, _WORD))
        self._keep(e)

    @staticmethod
    def _keep(e: Emitter) -> None:
        """r3 = address of the program's registers. Leaves in r0 whether it failed."""
        _read(e, FIRST_REGISTER, _VALUE + _REGISTERS, REGISTERS_BYTES)
        e.asm.emit(call("ktime_get_ns"), store(R10, _VALUE + _BEGUN, R0))
        e.stack_address(R2, _KEY)
        e.stack_address(R3, _VALUE)
        e.asm.emit(load_map(R1, MAP_CALLS), mov(R4, BPF_ANY), call("map_update_elem"))

    def _unended(self, e: Emitter, back: str) -> None:
        """r0 = the account of a call that has not ended: the task did, or the end was not seen."""
        e.asm.emit(load(R1, R0, _FUNCTION), store(R10, _WORD, R1))
        self._count(e, _WORD, back)

    def _unpaired(self, e: Emitter) -> None:
        """The end of a call without an account."""
        e.asm.emit(load(R3, R9, 0))
        _read(e, PT_REGS["orig_ax"], _WORD, 8)
        e.asm.emit(load(R6, R10, _WORD), mov(R7, R6))
        number_of(e, R6)
        e.asm.emit(mov(R1, R6), and_(R1, _AWAITED), jump_if(R1, "==", 0, OUT), and_(R6, ~_AWAITED))
        counted = e.asm.fresh_label("parent")
        e.asm.emit(load(R1, R9, 8), jump_if(R1, "!=", 0, counted))
        for name in _FORKS:  # their child comes out of a call that it has not made
            e.asm.emit(jump_if(R7, "==", syscalls.number(name), OUT))
        e.asm.label(counted)
        self._leave_32_bit(e)
        e.asm.emit(store(R10, _WORD, R6))
        self._count(e, _WORD, OUT)

    def _count(self, e: Emitter, word: int, back: str) -> None:
        """For each join point behind the call of a function, whose address is on the stack, one that is missed."""
        counted = Value(-1)
        e.allocation.places[counted] = R0  # used up at once
        for column in range(len(self._awaited.columns)):
            goal = Goal(counted, e.asm.fresh_label("missed"), e.asm.fresh_label("next"))
            if self._awaited.is_small:
                e.asm.emit(load(R2, R10, word))
                self._awaited.search(e, R2, column, goal)
            else:
                e.lookup(self._awaited.name, word)
                self._awaited.fetch(e, R0, column, goal)
            e.asm.label(goal.found)
            self.counters.bump(e, counted, COUNTER_UNMARKED, shared=True)
            e.asm.label(goal.missing)
        e.go(back)

    # --- strings

    def _note(self, e: Emitter, find: Callable[[Emitter], None]) -> None:
        """Note a string for the call that the task is in, if it is in one."""
        _task(e, _KEY)  # the key's first word
        e.lookup(MAP_CALLS, _KEY)
        e.asm.emit(jump_if(R0, "==", 0, OUT), load(R6, R0, _BEGUN))
        find(e)
        e.asm.emit(store(R10, _STRING_VALUE, R6), mov(R0, 0))
        for at in range(0, TEXT_BYTES, 8):
            e.asm.emit(store(R10, _STRING_VALUE + 8 + at, R0))
        e.asm.emit(load(R3, R10, _STRING_WORD), mov(R2, TEXT_BYTES))
        e.stack_address(R1, _STRING_VALUE + 8)
        e.read_memory(string=True)
        e.asm.emit(jump_if(R0, "s<", 0, OUT))
        e.stack_address(R2, _KEY)
        e.stack_address(R3, _STRING_VALUE)
        e.asm.emit(load_map(R1, MAP_NAMES), mov(R4, BPF_ANY), call("map_update_elem"))

    def _file_name(self, e: Emitter) -> None:
        """Of the struct filename that is given back: the program's pointer into the key, the copy's into the word."""
        _argument(e, 0, _STRING_WORD)
        e.asm.emit(load(R7, R10, _STRING_WORD), mov(R3, R7))
        _read(e, self.facts.uptr, _KEY + 8, 8)
        e.asm.emit(jump_if(R0, "!=", 0, OUT), load(R1, R10, _KEY + 8), jump_if(R1, "==", 0, OUT), mov(R3, R7))
        _read(e, self.facts.name, _STRING_WORD, 8)
        e.asm.emit(jump_if(R0, "!=", 0, OUT))

    def _duplicate(self, e: Emitter) -> None:
        """The same of strndup_user(pointer, length), which gives the copy."""
        _argument(e, 0, _KEY + 8)
        e.asm.emit(mov(R1, R9))
        e.stack_address(R2, _STRING_WORD)
        e.asm.emit(call("get_func_ret"), load(R1, R10, _STRING_WORD), jump_if(R1, ">=", _ERRORS, OUT))


def _task(e: Emitter, to: int) -> None:
    """The task, which is the key of its account, to the stack."""
    e.asm.emit(call("get_current_task"), store(R10, to, R0))


def _argument(e: Emitter, index: int, to: int) -> None:
    """An argument of a trampoline's function, whose context is in r9, to the stack."""
    e.asm.emit(mov(R1, R9), mov(R2, index))
    e.stack_address(R3, to)
    e.asm.emit(call("get_func_arg"))


def _read(e: Emitter, offset: int, to: int, size: int) -> None:
    """What lies ``offset`` bytes behind what r3 points to, to the stack."""
    e.asm.emit(add(R3, offset), mov(R2, size))
    e.stack_address(R1, to)
    e.read_memory()


def account(e: Emitter, at: int, none: str) -> None:
    """r0 = address of the registers in the account of the task's call. Takes a word of the stack."""
    _task(e, at)
    e.lookup(MAP_CALLS, at)
    e.asm.emit(jump_if(R0, "==", 0, none), add(R0, _REGISTERS))


def read_string(
    e: Emitter, size: int, to: Callable[[], None], *, at: int = -LOOKED_UP, told: Callable[[int], None] | None = None
) -> None:
    """Read the string at an address of the process's, which is in r3; r0 = what the helper gives.

    It is the kernel's own copy where one was noted. ``to`` puts into r1 where it goes, and destroys nothing else;
    ``told`` gets record.TEXT_KERNEL or TEXT_USER, and leaves r0 alone. LOOKED_UP bytes of the stack from ``at`` on are
    used.
    """
    from klasy.record import TEXT_KERNEL, TEXT_USER

    users, done = e.asm.fresh_label("users"), e.asm.fresh_label("text")
    e.asm.emit(store(R10, at + 8, R3))
    _task(e, at)
    e.lookup(MAP_CALLS, at)
    e.asm.emit(jump_if(R0, "==", 0, users), load(R1, R0, _BEGUN), store(R10, at + 16, R1))
    e.lookup(MAP_NAMES, at)
    e.asm.emit(jump_if(R0, "==", 0, users), load(R1, R0, 0), load(R2, R10, at + 16), jump_if(R1, "!=", R2, users))
    e.asm.emit(mov(R3, R0), add(R3, 8), mov(R2, size))
    to()
    e.read_memory(string=True)
    if told is not None:
        told(TEXT_KERNEL)
    e.go(done)
    e.asm.label(users)
    e.asm.emit(load(R3, R10, at + 8), mov(R2, size))
    to()
    e.read_memory(user=True, string=True)
    if told is not None:
        told(TEXT_USER)
    e.asm.label(done)
