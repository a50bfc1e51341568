"""What the running kernel lets us do, found out by trying, never by its version.

Each probe returns a :class:`Feature`: yes, no (with the kernel version it needs, or the remedy), or could not tell.
Probes leave nothing behind. Most cost a few milliseconds, those that attach something up to a tenth of a second; the
caller keeps the answers for as long as :func:`boot_id` stays the same.
"""

from __future__ import annotations

import errno
import os
import struct

from klasy.bpf import links, maps, pins, program, sys
from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, call, exit_, mov
from klasy.bpf.sys import Buffer
from klasy.errors import KernelLacks, KernelRefused, SystemRefusal
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

YES: Literal["yes"] = "yes"
NO: Literal["no"] = "no"
UNKNOWN: Literal["unknown"] = "unknown"

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

#: capabilities that klasy uses, by bit in CapEff
CAPABILITIES = {"CAP_SYS_RAWIO": 17, "CAP_SYS_ADMIN": 21, "CAP_SYSLOG": 34, "CAP_PERFMON": 38, "CAP_BPF": 39}

_FIRST_USERS = 0xEFFFFFFD  # inode of the first user namespace (include/linux/proc_ns.h)
_RIGHTS = frozenset({errno.EPERM, errno.EACCES})
WIDE = "bpf_modify_return_test2"  # of seven parameters; likewise
MOST_TRAMPOLINE_REGISTERS = 12  # MAX_BPF_FUNC_ARGS, include/linux/bpf.h
_HARMLESS = "bpf_fentry_test1"  # a function the kernel has for BPF's self-tests: traceable, and never called else


class Feature(NamedTuple):
    """One answer. ``state`` is yes, no or unknown; ``remedy`` says what to do about a no, where something can be."""

    name: str
    state: Literal["yes", "no", "unknown"]
    detail: str = ""
    remedy: str = ""

    def __bool__(self) -> bool:
        return self.state == YES


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str:
    """What names this boot of this machine: answers hold as long as it does."""
    with open(path) as file:
        return file.read().strip()


def probe_all(btf_id: int | None = None, wide_id: int | None = None) -> list[Feature]:
    """All answers, in the order a reader wants them. ``btf_id``: see :func:`fentry`, ``wide_id``: that of ``WIDE``."""
    return [
        rights(),
        lockdown(),
        jit(),
        btf(),
        fentry(btf_id),
        wide_trampolines(wide_id),
        kprobes(),
        kprobe_multi(),
        perf_link(),
        breakpoints(),
        ringbuf(),
        helper("bpf_loop", "5.17"),
        lsm(),
        statistics(),
        bpffs(),
        tracefs(),
    ]


# --- rights ---------------------------------------------------------------------------------------------------


def rights(status: str = "/proc/self/status") -> Feature:
    """Whether the process has the capabilities: in practice, whether it is root, and not just a container's."""
    try:
        own = os.stat(f"{os.path.dirname(status)}/ns/user").st_ino != _FIRST_USERS
    except OSError:  # a kernel without namespaces
        own = False
    if own:
        return Feature("rights", NO, "root of a container (user namespace), no more", "run klasy outside")
    held = 0
    with open(status) as file:
        for line in file:
            if line.startswith("CapEff:"):
                held = int(line.split()[1], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if not missing:
        return Feature("rights", YES, "all capabilities needed")
    remedy = "run as root" if os.geteuid() else "the container must be given them"
    return Feature("rights", NO, "missing: " + ", ".join(missing), remedy)


def lockdown(path: str = sys.LOCKDOWN_FILE) -> Feature:
    """Whether the kernel's lockdown leaves tracing alone: ``integrity`` does, ``confidentiality`` forbids it."""
    level = sys.lockdown(path)
    if level is None:
        if os.path.exists(path):
            return Feature("lockdown", UNKNOWN, f"{path} cannot be read")
        return Feature("lockdown", YES, "the kernel has none, or securityfs is not mounted")
    if level == "confidentiality":
        return Feature("lockdown", NO, level, "boot without lockdown=confidentiality")
    return Feature("lockdown", YES, level)


# --- mechanisms -----------------------------------------------------------------------------------------------


def jit(path: str = "/proc/sys/net/core/bpf_jit_enable") -> Feature:
    """Whether programs are compiled: trampolines (fentry, fexit) need it."""
    try:
        with open(path) as file:
            on = file.read().strip() != "0"
    except OSError as error:
        return Feature("bpf jit", UNKNOWN, f"{path}: {error.strerror}")
    return Feature("bpf jit", YES) if on else Feature("bpf jit", NO, "switched off", f"echo 1 > {path}")


def btf(path: str = "/sys/kernel/btf/vmlinux") -> Feature:
    """Whether the kernel brings its own types."""
    if os.path.exists(path):
        return Feature("btf", YES, path)
    return Feature("btf", NO, f"there is no {path}", "a kernel with CONFIG_DEBUG_INFO_BTF")


def fentry(btf_id: int | None) -> Feature:
    """BPF trampolines (5.5), by attaching to the function with this BTF id; ``bpf_fentry_test1`` is a harmless one."""
    if btf_id is None:
        return Feature("fentry", UNKNOWN, "no function to try it on")

    remedy = "CONFIG_DEBUG_INFO_BTF and dynamic ftrace with direct calls"
    return _try("fentry", lambda: _attach_fentry(btf_id), since="5.5", remedy=remedy)


def _attach_fentry(btf_id: int) -> str:
    with (
        program.load(
            u.BPF_PROG_TYPE_TRACING,
            _nothing(),
            name="probe_fentry",
            expected_attach_type=u.BPF_TRACE_FENTRY,
            attach_btf_id=btf_id,
        ) as loaded,
        links.attach_tracing(loaded, u.BPF_TRACE_FENTRY),
    ):
        return ""


def wide_trampolines(btf_id: int | None) -> Feature:
    """Trampolines on functions whose arguments take more than six registers (x86: 6.6).

    By attaching to the function with this BTF id, which has seven parameters: ``WIDE`` is a harmless one, and came
    with the feature (5e9cf77d81f9 "selftests/bpf: add testcase for TRACING with 6+ arguments").
    """
    name = "fentry, 12 arguments"
    if btf_id is None:
        return Feature(name, UNKNOWN, f"there is no {WIDE} to try it on; six are taken for sure")
    return _try(name, lambda: _attach_fentry(btf_id), since="6.6", remedy="klasy takes kprobes instead")


def kprobes() -> Feature:
    """Kprobes by perf_event_open."""

    def attempt() -> str:
        with links.perf_kprobe(symbol=_HARMLESS):
            return ""

    return _try("kprobe", attempt, remedy="CONFIG_KPROBE_EVENTS and CONFIG_PERF_EVENTS")


def kprobe_multi() -> Feature:
    """Kprobes on many functions with one link (5.18 and CONFIG_FPROBE)."""

    def attempt() -> str:
        with (
            program.load(
                u.BPF_PROG_TYPE_KPROBE,
                _nothing(),
                name="probe_multi",
                expected_attach_type=u.BPF_TRACE_KPROBE_MULTI,
            ) as loaded,
            links.attach_kprobe_multi(loaded, symbols=[_HARMLESS]),
        ):
            return ""

    return _try("kprobe.multi", attempt, since="5.18", remedy="CONFIG_FPROBE; klasy does without")


def knows_kprobe_multi() -> bool:
    """Whether the kernel has what :func:`kprobe_multi` asks for, as far as can be told without attaching anything."""
    try:
        with program.load(
            u.BPF_PROG_TYPE_KPROBE,
            _nothing(),
            name="probe_multi",
            expected_attach_type=u.BPF_TRACE_KPROBE_MULTI,
        ) as loaded:
            return links.knows_kprobe_multi(loaded)
    except SystemRefusal:
        return False


def perf_link() -> Feature:
    """Links of perf events, which can be pinned (5.15)."""

    def attempt() -> str:
        attributes = struct.pack("<IIQQQQQ", u.PERF_TYPE_SOFTWARE, u.PERF_ATTR_SIZE_VER5, 0, 1 << 40, 0, 0, 1)
        fd = sys.perf_event_open(attributes.ljust(u.PERF_ATTR_SIZE_VER5, b"\0"), "opening a software event", cpu=0)
        with (
            links.PerfEvent(fd) as event,
            program.load(u.BPF_PROG_TYPE_PERF_EVENT, _nothing(), name="probe_link") as loaded,
            links.attach_perf_event(loaded, event),
        ):
            return ""

    return _try("perf event links", attempt, since="5.15")


def breakpoints() -> Feature:
    """Debug registers through perf."""

    def attempt() -> str:
        somewhere = Buffer(16)  # of this process, and the event is silent
        with links.perf_breakpoint(somewhere.address + 7 & ~7, 8, u.HW_BREAKPOINT_W, cpu=0, disabled=True):
            return "four on each CPU"

    return _try("debug registers", attempt, remedy="CONFIG_HAVE_HW_BREAKPOINT, and registers that nobody else holds")


def ringbuf() -> Feature:
    """Ring buffers (5.8)."""

    def attempt() -> str:
        with maps.create(u.BPF_MAP_TYPE_RINGBUF, name="probe_ringbuf", max_entries=os.sysconf("SC_PAGESIZE")):
            return ""

    return _try("ring buffer", attempt, since="5.8")


def helper(name: str, since: str = "", kind: int = u.BPF_PROG_TYPE_KPROBE) -> Feature:
    """Whether programs of a type may call a helper, by what the verifier says to a call of it without arguments."""
    code = assemble([call(name), mov(R0, 0), exit_()])
    try:
        program.load(kind, code, name="probe_helper").close()
    except KernelRefused as error:
        log = str(getattr(error, "log", ""))
        absent = ("unknown func", "invalid func", "program of this type cannot use helper")
        if any(phrase in log for phrase in absent):
            return Feature(name, NO, _needs(since))
        if not log:
            return _undecided(name, error)
    return Feature(name, YES)


def lsm(path: str = "/sys/kernel/security/lsm") -> Feature:
    """Whether BPF is among the active security modules, so that it can deny."""
    try:
        with open(path) as file:
            active = file.read().strip().split(",")
    except OSError as error:
        return Feature("bpf lsm", UNKNOWN, f"{path}: {error.strerror}", "mount -t securityfs none /sys/kernel/security")
    if "bpf" in active:
        return Feature("bpf lsm", YES, ",".join(active))
    return Feature("bpf lsm", NO, ",".join(active), f"boot with lsm={','.join([*active, 'bpf'])}")


def statistics(path: str = "/proc/sys/kernel/bpf_stats_enabled") -> Feature:
    """Whether the time that programs take can be measured (5.8); says whether it is now."""

    def attempt() -> str:
        os.close(sys.bpf(u.BPF_ENABLE_STATS, struct.pack("<I", u.BPF_STATS_RUN_TIME), "switching statistics on"))
        with open(path) as file:
            return "on" if file.read().strip() == "1" else "off, klasy switches it on while it measures"

    return _try("run time statistics", attempt, since="5.8")


# --- file systems ---------------------------------------------------------------------------------------------


def bpffs(path: str = pins.BPFFS) -> Feature:
    """Whether woven aspects can be kept: a BPF file system, mounted and writable."""
    mount = f"mount -t bpf bpf {path}"
    if not pins.is_bpffs(path):
        return Feature("bpf file system", NO, f"none on {path}", mount)
    if not os.access(path, os.W_OK | os.X_OK):
        return Feature("bpf file system", NO, f"{path} cannot be written", "run as root")
    return Feature("bpf file system", YES, path)


def tracefs(candidates: tuple[str, ...] = TRACEFS) -> Feature:
    """Whether many sites can share one trace event: a tracefs with kprobe_events that can be written."""
    for path in candidates:
        file = f"{path}/kprobe_events"
        if not os.path.exists(file):
            continue
        if not os.access(file, os.W_OK):
            return Feature("tracefs", NO, f"{file} cannot be written", "run as root")
        return Feature("tracefs", YES, path)
    return Feature("tracefs", NO, f"no kprobe_events in {candidates[0]}", f"mount -t tracefs tracefs {candidates[0]}")


# --- inside ---------------------------------------------------------------------------------------------------


def _nothing() -> bytes:
    return assemble([mov(R0, 0), exit_()]).code


def _try(name: str, attempt: Callable[[], str], *, since: str = "", remedy: str = "") -> Feature:
    try:
        return Feature(name, YES, attempt())
    except KernelLacks as error:
        return Feature(name, NO, error.message, error.hint or remedy)
    except KernelRefused as error:
        if error.errno in _RIGHTS | {errno.ENOMEM, errno.EMFILE, errno.ENFILE}:
            return _undecided(name, error)
        detail = f"{error.message}{'; ' if since else ''}{_needs(since)}"
        return Feature(name, NO, detail, remedy)


def _undecided(name: str, error: KernelRefused) -> Feature:
    return Feature(name, UNKNOWN, error.message, error.hint or "")


def _needs(since: str) -> str:
    return f"needs Linux {since}" if since else ""
