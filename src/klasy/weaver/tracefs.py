"""Kernel probe events in tracefs: define many probes as one event, count their hits, take them away.

An event of many definitions is attached as one perf event, which is what makes a thousand call sites as cheap to
attach and, above all, to detach as one. A definition outlives the process and is seen by every user of tracefs, so
names say whose it is: the group ``klasy_ASPECT_TOKEN``, and events ``kTOKEN_N``, because kprobe_profile shows an
event without its group.

A definition gives the address itself, not ``SYMBOL+OFFSET``:

    p:klasy_a_1c_4711_2b3f_1/k1c_4711_2b3f_1_0 0xffffffff8112bc08 site=\\0xffffffff8112bc08

The kernel looks a symbol up among those of all modules, to refuse ambiguous ones, for every single line; and names
of clones are often ambiguous. The argument ``site`` is never fetched. It is there because the kernel takes two
definitions of one event without a symbol for the same (trace_kprobe_has_same_kprobe) unless their arguments differ,
and because it shows addresses only hashed.

Deleting an event whose probes are in use is not refused until its last probe: the others are gone by then
(unregister_trace_kprobe). So events must never be deleted on the chance that nobody uses them.
"""

from __future__ import annotations

import errno
import os

from klasy.bpf.sys import lockdown
from klasy.errors import KernelLacks, KernelRefused, NotRoot, SystemRefusal
from klasy.plain import TYPE_CHECKING, contextmanager, dataclass, suppress
from klasy.weaver.pinfs import Token, is_mounted, run_quietly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRACEFS = "/sys/kernel/tracing"
TRACEFS_OLD = "/sys/kernel/debug/tracing"
RCU_EXPEDITED = "/sys/kernel/rcu_expedited"
GROUP_PREFIX = "klasy_"
NAME_MAX = 63  # MAX_EVENT_NAME_LEN less the NUL, kernel/trace/trace.h
PART = 16  # definitions in one write, which no signal interrupts: each takes the kernel up to 50 ms in large functions

_WORDS = {
    "Failed to register probe event": "it lies in code closed to probes (notrace, or patched by the kernel itself)",
    "Probe point is not an instruction boundary": "no instruction begins there",
    "Invalid probed address or symbol": "there is no such address",
}


def group_name(aspect: str, token: Token) -> str:
    """The group of an aspect's events. Long names of aspects are cut: the token alone makes it unique."""
    tail = f"_{token}"
    return f"{GROUP_PREFIX}{aspect[: NAME_MAX - len(GROUP_PREFIX) - len(tail)]}{tail}"


def group_token(group: str) -> Token | None:
    """Whose a group is; None if it is none of klasy's."""
    parts = group.rsplit("_", 4)
    return Token.parse("_".join(parts[1:])) if len(parts) == 5 and group.startswith(GROUP_PREFIX) else None


def event_name(token: Token, number: int) -> str:
    """The name of an event, unique on the machine."""
    return f"k{token}_{number}"


class DefinitionRefused(Exception):
    """The kernel refused the definition at ``index``; those before it are in place."""

    def __init__(self, index: int, errno: int, reason: str) -> None:
        super().__init__(f"definition {index}: {reason}")
        self.index = index
        self.errno = errno
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SiteCount:
    """What the kernel counted at one probe: ``hits`` entered its handler, ``misses`` found another handler running."""

    hits: int
    misses: int


class KprobeEvents:
    """The kernel probe events of a mounted tracefs. Raises SystemRefusal, with the remedy, where there are none."""

    def __init__(self, root: str | None = None) -> None:
        self.root = root or _find_tracefs()
        self._definitions = f"{self.root}/kprobe_events"

    def define(
        self,
        group: str,
        event: str,
        addresses: Sequence[int],
        *,
        returns: bool = False,
        maxactive: int = 0,
        on_part: Callable[[int], None] | None = None,
    ) -> int:
        """Define one event with a probe at each address, or where each function returns; its id for perf_event_open.

        ``on_part`` is called with the number that are defined, whenever some are and more are to be.
        Raises DefinitionRefused that tells which address was refused, and SystemRefusal where none would be taken.
        What was defined before stays: see :meth:`delete`.
        """
        kind = f"r{maxactive or ''}" if returns else "p"
        lines = [f"{kind}:{group}/{event} {address:#x} site=\\{address:#x}\n" for address in addresses]
        try:
            self._write(["".join(lines[at : at + PART]).encode() for at in range(0, len(lines), PART)], on_part)
        except OSError as error:
            code = error.errno or errno.EINVAL
            if code in (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENODEV):
                raise self._refused(error) from None
            defined = self.count(group, event)
            if defined >= len(lines):
                raise self._refused(error) from None
            reason = self._reason(lines[defined]) or os.strerror(code)
            raise DefinitionRefused(defined, code, reason) from None
        with open(f"{self.root}/events/{group}/{event}/id", "rb") as file:
            return int(file.read())

    def delete(self, group: str) -> None:
        """Delete all events of a group, none of which may be in use; a group that is gone is no error.

        Raises KernelRefused (EBUSY) if one is in use after all.
        """
        try:
            self._write([f"-:{group}/\n".encode()])
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise KernelRefused(f"deleting the probe events {group}", error.errno or errno.EIO) from None

    def groups(self) -> list[str]:
        """All groups that are klasy's."""
        try:
            names = os.listdir(f"{self.root}/events")
        except OSError as error:
            raise self._refused(error) from None
        return sorted(name for name in names if group_token(name))

    def count(self, group: str, event: str) -> int:
        """How many probes an event has."""
        name = f":{group}/{event} "
        with open(self._definitions, encoding="utf-8", errors="replace") as file:
            return sum(name in line for line in file)

    def profile(self, token: Token) -> dict[int, list[SiteCount]]:
        """The counts of each probe of each event of a weave: by the event's number, in the order of definition."""
        prefix = f"k{token}_"
        counts: dict[int, list[SiteCount]] = {}
        try:
            with open(f"{self.root}/kprobe_profile", encoding="utf-8", errors="replace") as file:
                for line in file:
                    name, hits, misses = line.split()
                    if name.startswith(prefix):
                        site = SiteCount(int(hits), int(misses))
                        counts.setdefault(int(name[len(prefix) :]), []).append(site)
        except OSError as error:
            raise self._refused(error) from None
        return counts

    def _write(self, parts: Sequence[bytes], on_part: Callable[[int], None] | None = None) -> None:
        # Append: opening the file with O_TRUNC deletes everybody's events.
        descriptor = os.open(self._definitions, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            for number, data in enumerate(parts):
                if number and on_part is not None:
                    on_part(number * PART)
                left = data
                while left:
                    left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)

    def _reason(self, line: str) -> str | None:
        """Why a definition was refused, from the kernel's error_log if the log still has it."""
        with suppress(OSError), open(f"{self.root}/error_log", encoding="utf-8", errors="replace") as file:
            said = None
            reason = None
            for entry in file:
                if ": error: " in entry:
                    said = entry.partition(": error: ")[2].strip()
                elif said and entry.strip().removeprefix("Command: ") == line.strip():
                    reason = _WORDS.get(said, said[:1].lower() + said[1:])
            return reason
        return None

    def _refused(self, error: OSError) -> SystemRefusal:
        what = error.filename or self._definitions
        if error.errno in (errno.EPERM, errno.EACCES):
            return _no_rights(what)
        if error.errno == errno.ENODEV:
            return KernelLacks("kprobes are switched off on this kernel")
        return KernelRefused(f"using {what}", error.errno or errno.EIO)


def _no_rights(what: str) -> SystemRefusal:
    if os.geteuid() != 0:
        return NotRoot(f"{what} is only for root", hint="run klasy as root, e.g. with sudo")
    if lockdown() == "confidentiality":
        return SystemRefusal(
            "the kernel is locked down for confidentiality, which forbids probes and reading its memory",
            hint="boot without lockdown=confidentiality; lockdown=integrity is no obstacle",
        )
    return SystemRefusal(f"{what} is closed even to root", hint="in a container? klasy needs the machine's root")


def _find_tracefs() -> str:
    """Where tracefs is; it is mounted if it is nowhere."""
    for root in (TRACEFS, TRACEFS_OLD):
        if os.path.exists(f"{root}/kprobe_events"):
            return root
    if os.geteuid() != 0:
        raise _no_rights(TRACEFS)
    if not os.path.isdir(TRACEFS):
        raise KernelLacks("this kernel has no tracefs: it was built without CONFIG_FTRACE, or sysfs is not mounted")
    if not is_mounted(TRACEFS, "tracefs"):
        run_quietly("mount", "-t", "tracefs", "-o", "nosuid,nodev,noexec", "tracefs", TRACEFS)
    if os.path.exists(f"{TRACEFS}/kprobe_events"):
        return TRACEFS
    if os.path.exists(f"{TRACEFS}/events"):
        raise KernelLacks("this kernel has no kernel probe events: it was built without CONFIG_KPROBE_EVENTS")
    if lockdown() == "confidentiality":
        raise _no_rights(TRACEFS)
    remedy = f"mount -t tracefs tracefs {TRACEFS}"
    raise SystemRefusal(f"tracefs is not mounted at {TRACEFS}, and mounting it failed", hint=remedy)


@contextmanager
def expedited_rcu(marker: str, path: str = RCU_EXPEDITED) -> Iterator[None]:
    """Make the kernel's grace periods short meanwhile: deleting a probe waits for one, some 20 ms otherwise.

    The setting is the whole machine's. Callers hold klasy's lock, so that no other klasy finds it changed and leaves
    it so; and the directory ``marker`` stands as long as it is changed, so that :func:`restore_rcu` can mend what a
    killed process left. Where it cannot be set all goes on, only slower.
    """
    if _read_word(path) != "0":
        yield
        return
    try:
        os.mkdir(marker, 0o700)
    except FileExistsError:
        pass
    except OSError:  # a read-only bpffs: what is wanted of it next says so
        yield
        return
    _write_word(path, "1")
    try:
        yield
    finally:
        restore_rcu(marker, path)


def restore_rcu(marker: str, path: str = RCU_EXPEDITED) -> None:
    """End the hurry if there is a sign of one. klasy's lock must be held."""
    if os.path.isdir(marker):
        _write_word(path, "0")
        os.rmdir(marker)


def _read_word(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def _write_word(path: str, value: str) -> None:
    with suppress(OSError), open(path, "w", encoding="utf-8") as file:
        file.write(value)
