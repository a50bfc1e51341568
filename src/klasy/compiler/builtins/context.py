"""The context names: facts of the moment an advice runs, each with its type and where its bits come from.

``comm`` and ``current`` are those that are no numbers.
"""

from __future__ import annotations

from klasy.compiler.types import INT, U32, U64, Integer
from klasy.plain import dataclass


@dataclass(frozen=True, slots=True)
class ContextName:
    """``bits`` bits from bit ``shift`` of the fact that ir.Context calls ``what``, as a value of ``type``."""

    type: Integer
    what: str
    shift: int = 0
    bits: int = 64


# pid and tid are the words of user space: the kernel calls them tgid and pid. Both are pid_t, an int.
NAMES = {
    "now": ContextName(U64, "now"),
    "pid": ContextName(INT, "pid_tgid", 32, 32),
    "tid": ContextName(INT, "pid_tgid", 0, 32),
    "uid": ContextName(U32, "uid_gid", 0, 32),
    "gid": ContextName(U32, "uid_gid", 32, 32),
    "cpu": ContextName(U32, "cpu", 0, 32),
    "cgroup": ContextName(U64, "cgroup"),
}
COMM = "comm"
CURRENT = "current"
TASK = "task"  # the fact behind it
