"""A filter: whose hits count. Part of a plan, given by who weaves; the aspect's text knows nothing of it.

Of each kind that is given one value must hold. It is asked of the task that runs on the processor when a join point is
reached (in an interrupt: of the one it came upon), before anything else.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, NamedTuple, dataclass

if TYPE_CHECKING:
    from typing import Any

COMM_SIZE = 16  # of a thread's name, its NUL included


class Cgroup(NamedTuple):
    """A cgroup and all beneath it: its path as shown, its id, and how many are above it."""

    path: str
    id: int
    level: int


class User(NamedTuple):
    """A user: the number, and how it was written."""

    uid: int
    text: str


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked of a task. ``pids`` are processes; with ``children`` also those that they make from now on.

    ``comms`` are names of threads, at most COMM_SIZE - 1 bytes each. ``command``: the process is one that klasy runs.
    """

    pids: tuple[int, ...] = ()
    comms: tuple[bytes, ...] = ()
    cgroups: tuple[Cgroup, ...] = ()
    users: tuple[User, ...] = ()
    children: bool = False
    command: str = ""

    def __bool__(self) -> bool:
        """Whether anything is asked."""
        return bool(self.pids or self.comms or self.cgroups or self.users)

    def to_json(self) -> dict[str, Any]:
        """For the registry entry, and for JSON output (docs/json.md)."""
        return {
            "pids": list(self.pids),
            "children": self.children,
            "comms": [comm.decode(errors="backslashreplace") for comm in self.comms],
            "cgroups": [cgroup.path for cgroup in self.cgroups],
            "cgroup_ids": [cgroup.id for cgroup in self.cgroups],
            "uids": [user.uid for user in self.users],
            "text": self.text(),
        }

    def text(self) -> str:
        """In words: ``pid 12 and its children, comm 'sshd'``."""
        parts = []
        if self.pids:
            whose = "its" if len(self.pids) == 1 else "their"
            of = f" ({self.command})" if self.command else ""
            parts.append(f"pid {_or(map(str, self.pids))}{of}" + f" and {whose} children" * self.children)
        if self.comms:
            parts.append("comm " + _or(f"'{comm.decode(errors='backslashreplace')}'" for comm in self.comms))
        if self.cgroups:
            parts.append("cgroup " + _or(cgroup.path for cgroup in self.cgroups))
        if self.users:
            parts.append("uid " + _or(user.text for user in self.users))
        return ", ".join(parts)


def _or(texts: Any) -> str:
    return " or ".join(texts)
