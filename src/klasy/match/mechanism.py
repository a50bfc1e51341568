"""How probes get into the kernel, and where their programs run then: the words that a plan and its weaver share."""

from __future__ import annotations

from klasy.plain import Enum


class Mechanism(Enum):
    """How a probe is put into the kernel; the value is shown to the user."""

    FENTRY = "fentry"
    FEXIT = "fexit"
    FMOD_RET = "fmod_ret"
    KPROBE = "kprobe"
    KRETPROBE = "kretprobe"
    KPROBE_MULTI = "kprobe.multi"
    KRETPROBE_MULTI = "kretprobe.multi"
    BREAKPOINT = "debug register"
    UPROBE = "uprobe"
    URETPROBE = "uretprobe"
    RAW_TRACEPOINT = "raw tracepoint"
    TRACE_EVENT = "trace event"


IN_PROGRAMS = frozenset({Mechanism.UPROBE, Mechanism.URETPROBE})


TRAMPOLINES = frozenset({Mechanism.FENTRY, Mechanism.FEXIT, Mechanism.FMOD_RET})  # one function, one program each


class Context(Enum):
    """Where a program runs, hence where arguments, result and return address are to be found."""

    FENTRY = "fentry"  # ctx: u64 for each argument register; also of FMOD_RET
    FEXIT = "fexit"  # the same, then the result
    ENTRY = "entry"  # pt_regs at a function's entry: the return address is at [sp]
    BODY = "body"  # the same at the instruction behind the entry's hook for tracing: all is as at the entry
    SITE = "site"  # pt_regs at a call instruction: the return address is not yet pushed
    MEMBER = "member"  # pt_regs at an instruction that accesses a member, before it runs
    ACCESSED = "accessed"  # pt_regs at the instruction behind one that accesses a member: the rest is in its note
    TAIL = "tail"  # pt_regs at a jump that is a tail call: the return address is at [sp]
    BEHIND = "behind"  # pt_regs at the instruction behind a call: result in rax, arguments only from the mark
    RETURN = "return"  # pt_regs in a kretprobe: result in rax, arguments only from the mark
    RAW = "raw"  # ctx: u64 for each argument of a tracepoint
    RECORD = "record"  # ctx: the record of a trace event
    WATCH = "watch"  # pt_regs behind an instruction that accessed watched memory: the ip is that behind it
    SYS_ENTER = "sys_enter"  # ctx: address of the program's registers, number of the call; before any system call
    SYS_EXIT = "sys_exit"  # ctx: address of the program's registers, result; behind any system call


ANY_SYSCALL = frozenset({Context.SYS_ENTER, Context.SYS_EXIT})  # named as the tracepoints; points: those wanted
