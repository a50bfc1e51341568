"""The names that the language itself gives a meaning in advice: its functions, context names and the like.

Only what can be said without a kernel: which names there are and how many arguments each takes. Their types and what
they do is the compiler's.
"""

from __future__ import annotations

from klasy.plain import dataclass


@dataclass(frozen=True)
class Function:
    """A function of the language. ``most`` None: any number of arguments. ``value``: it can stand in an expression."""

    name: str
    least: int
    most: int | None
    form: str
    value: bool = True


FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        Function("log", 1, None, 'log(expression, ..) or log("format", ..)', value=False),
        Function("logging", 1, 1, "logging(expression)", value=False),
        Function("stack", 0, 0, "stack()"),
        Function("ustack", 0, 0, "ustack()"),
        Function("str", 1, 1, "str(pointer)"),
        Function("ustr", 1, 1, "ustr(pointer)"),
        Function("buf", 2, 2, "buf(pointer, length)"),
        Function("ip4", 1, 1, "ip4(address)"),
        Function("ip6", 1, 1, "ip6(pointer)"),
        Function("mac", 1, 1, "mac(pointer)"),
        Function("ntohs", 1, 1, "ntohs(value)"),
        Function("ntohl", 1, 1, "ntohl(value)"),
        Function("per_cpu", 2, 2, "per_cpu(variable, cpu)"),
        Function("per_cpu_ptr", 2, 2, "per_cpu_ptr(pointer, cpu)"),
        Function("sample", 1, 1, "sample(1/100)", value=False),
        Function("limit", 1, 1, "limit(100/s)", value=False),
        Function("stop", 0, 0, "stop()", value=False),
        Function("watch", 1, 3, "watch(p->member, 100, 10*ms)", value=False),
        Function("unwatch", 1, 1, "unwatch(p->member)", value=False),
        Function("deny", 1, 1, "deny(EPERM)", value=False),
    )
}

CONTEXT_NAMES: dict[str, str] = {
    "now": "the time in ns, monotonic",
    "pid": "the process id",
    "tid": "the thread id",
    "comm": "the thread's name",
    "uid": "the user id",
    "gid": "the group id",
    "cpu": "the CPU's number",
    "cgroup": "the cgroup's id",
    "current": "the thread's struct task_struct",
}

JOINPOINT = "joinpoint"
LOGS = ("log", "logging")  # they take it as a whole
JOINPOINT_MEMBERS = ("kind", "function", "callee", "file", "line", "address", "module")

# Bound in the advice of data pointcuts.
DATA_NAMES = ("value", "old", "new")

# Methods of a state, with the number of their arguments.
STATE_METHODS = {"add": 1, "clear": 0}

DESIGNATORS = (
    "call", "execution", "get", "set", "access", "syscall", "event", "at", "within", "withinfile", "withinmodule",
    "cflow", "cflowbelow", "args", "target", "user", "if",
)  # fmt: skip
