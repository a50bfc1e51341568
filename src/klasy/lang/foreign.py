"""What other tracers and the kernel's C have under other names: for each word of theirs, how to say it here.

bpftrace's, SystemTap's and the kernel's own words, without what is the same here. Each has the hint that an error gives
to whoever writes it. docs/bpftrace-users.md says more of bpftrace's. Only errors need any of this.
"""

from __future__ import annotations

_LOG = 'use log("format", ..)'
_COUNT = "a state counts: 'count n[comm];' in the aspect, 'n[comm]++;' in the advice"
_BIND = "an argument is bound by a parameter of the advice: before(size_t n): execution(f(*, size_t n, ..))"
_COMPARE = "strings are compared by '==' and '!='"
_SYMBOL = 'log("%ps", p) shows the function at an address, %pS with the offset in it'
_FIELD = "what an event has is bound by parameters of the advice: before(pid_t next_pid): event(sched:sched_switch)"
_TIMER = "nothing runs by a timer: 'klasy stat -f' shows state each second, with --clear what each second had"
_NO_CHANGE = "advice changes nothing in the kernel; at some functions 'around' advice may refuse: deny(EPERM)"


def _aggregation(kind: str) -> str:
    return f"a state gathers values: '{kind} h;' in the aspect, 'h.add(value);' in the advice"


# Functions.
FUNCTIONS: dict[str, str] = {
    **dict.fromkeys(("printf", "printk", "pr_info", "trace_printk", "bpf_printk", "sprintf", "println"), _LOG),
    "print": "use log(..); klasy stat shows what states hold",
    "kstack": "use stack()",
    "backtrace": "use stack()",
    "print_backtrace": "use log(stack())",
    "print_ubacktrace": "use log(ustack())",
    **dict.fromkeys(("ktime_get_ns", "bpf_ktime_get_ns", "nsecs", "gettimeofday_ns"), "use now"),
    **dict.fromkeys(("strftime", "time"), "each line of the log has its time; now is the time in ns"),
    **dict.fromkeys(("bpf_get_current_comm", "execname"), "use comm"),
    **dict.fromkeys(("bpf_get_current_pid_tgid", "getpid"), "use pid or tid"),
    **dict.fromkeys(("bpf_get_current_task", "task_current", "get_current"), "use current"),
    "smp_processor_id": "use cpu",
    "this_cpu_read": "use per_cpu(variable, cpu)",
    "this_cpu_ptr": "use per_cpu_ptr(pointer, cpu)",
    "kaddr": "use &name",
    "exit": "use stop()",
    **dict.fromkeys(("kstr", "kernel_string", "user_string"), "use str(pointer)"),
    "ntop": "use ip4(address) or ip6(pointer)",
    "macaddr": "use mac(pointer)",
    "htons": "use ntohs(value), which does the same",
    "htonl": "use ntohl(value), which does the same",
    **dict.fromkeys(("be16_to_cpu", "bswap"), "use ntohs(value)"),
    "be32_to_cpu": "use ntohl(value)",
    **dict.fromkeys(("strcmp", "strncmp"), _COMPARE),
    **dict.fromkeys(("ksym", "symname", "symdata"), _SYMBOL),
    "usym": "use ustack()",
    "probefunc": "use joinpoint.function",
    **dict.fromkeys(("pp", "ppfunc"), "use joinpoint"),
    "cgroupid": "klasy weave --cgroup PATH counts the hits of one cgroup; cgroup is the number of the task's own",
    "count": _COUNT,
    **{kind: _aggregation(kind) for kind in ("sum", "min", "max", "avg", "hist")},
    "lhist": _aggregation("lhist(low, high, step)"),
    "stats": _aggregation("avg"),
    "clear": "use name.clear(), of a state without keys; klasy stat --clear takes out all",
    "zero": "use name.clear(), of a state without keys; klasy stat --clear takes out all",
    "delete": "use delete name[key];",
    "proceed": "what is not denied proceeds: leave it out",
    **dict.fromkeys(("signal", "override", "system", "bpf_override_return", "bpf_send_signal"), _NO_CHANGE),
    "reg": _BIND,
    **dict.fromkeys(("join", "cat"), "use log(..) for each string: docs/bpftrace-users.md has a loop"),
}

# Values.
NAMES: dict[str, str] = {
    "nsecs": "use now",
    "kstack": "use stack()",
    "curtask": "use current",
    "execname": "use comm",
    "func": "use joinpoint.function",
    "probe": "use joinpoint.function, joinpoint.kind ..",
    "retval": "the result is the parameter of 'returning': after() returning (int retval): execution(f)",
    **dict.fromkeys(("args", "ctx"), _FIELD),
    "elapsed": "each line of the log has its time; now is the time in ns",
    "username": "use uid",
    **{f"arg{number}": _BIND for number in range(10)},
    **{f"sarg{number}": _BIND for number in range(10)},
}

_BEFORE = "before(): execution({0}) { .. }"
_AFTER = "after() returning (int result): execution({0}) { .. }"

# What selects, ``{0}`` being what is selected there where that can be told.
PROBES: dict[str, str] = {
    **dict.fromkeys(("kprobe", "kfunc", "fentry", "probe", "function"), _BEFORE),
    **dict.fromkeys(("kretprobe", "kretfunc", "fexit"), _AFTER),
    **dict.fromkeys(("tracepoint", "rawtracepoint", "trace"), "before(): event(sched:sched_switch) { .. }"),
    **dict.fromkeys(("uprobe", "ufunc"), 'before(): user("/bin/bash": execution(readline)) { .. }'),
    "uretprobe": 'after() returning (char *line): user("/bin/bash": execution(readline)) { .. }',
    "usdt": 'there are no probes for the marks in programs; a function is user("FILE": execution(NAME))',
    **dict.fromkeys(("watchpoint", "asyncwatchpoint"), "before(): set(jiffies) { .. }; one object: watch(p->member)"),
    **dict.fromkeys(("profile", "interval", "timer"), _TIMER),
    **dict.fromkeys(("BEGIN", "END"), "state begins at 0, and lasts until the aspect is unwoven"),
    **dict.fromkeys(("software", "hardware", "iter"), "functions, calls, data, system calls and events are selected"),
    "global": "state is declared in an aspect: 'count n[comm];'",
    "config": "klasy weave --help shows the options",
}


def probe(word: str, selected: str = "f") -> str:
    """How to select what another tool selects by a word, as a hint; "" for a word that no other tool has.

    selected: the function that was written with it, where that is known.
    """
    return PROBES.get(word, "").replace("{0}", selected)


# Characters by which other tools mark names.
SIGILS = {
    "@": "state is declared in the aspect, 'count n[comm];', and used by its name: 'n[comm]++;'",
    "$": "a variable is declared with its type: 'u64 x = 1;'; an argument is bound by a parameter of the advice",
}
