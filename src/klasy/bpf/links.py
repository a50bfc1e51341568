"""Links: what makes a loaded program run. And perf events, which some links hang on.

    with perf_kprobe(symbol="skb_dequeue") as event, attach_perf_event(program, event) as link:
        pins.pin(link, path)

A link lives as long as a descriptor or a pin holds it; when the last goes, the program is detached. A link of a perf
event keeps the event, so that its descriptor may be closed once the link is made.

No kind of link made here can be given another program, or be detached while somebody holds it: the kernel answers
BPF_LINK_UPDATE with EINVAL and BPF_LINK_DETACH with EOPNOTSUPP (measured on 6.1 and 6.12). Who replaces a program
makes the new link before dropping the old one.
"""

from __future__ import annotations

import errno
import struct

from klasy.bpf import sys
from klasy.bpf import uapi as u
from klasy.bpf.sys import Buffer, Descriptor
from klasy.errors import KernelLacks, KernelRefused
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.bpf.program import Program

KPROBE_PMU = "/sys/bus/event_source/devices/kprobe"
UPROBE_PMU = "/sys/bus/event_source/devices/uprobe"

# union bpf_attr of BPF_LINK_CREATE: prog_fd, target_fd, attach_type, flags, then by the kind of link
_CREATE = struct.Struct("<IIII")
_PERF = struct.Struct("<Q")  # cookie
_TRACING = struct.Struct("<I4xQ")  # target_btf_id (0: the one the program was loaded for), cookie
_MULTI = struct.Struct("<IIQQQ")  # flags, cnt, syms, addrs, cookies

# struct bpf_link_info of 6.12; older kernels fill less of it
_INFO_BYTES = 64
_NAME_ROOM = 128

# struct perf_event_attr up to config2, filled up with zeros: type, size, config, sample_period, sample_type,
# read_format, flags, wakeup, bp_type, config1, config2
_PERF_ATTR = struct.Struct("<IIQQQQQIIQQ")
_DISABLED, _PINNED = 1 << 0, 1 << 2


class LinkInfo(NamedTuple):
    """What the kernel knows of a link. What this kernel or this kind of link does not tell is None."""

    id: int
    type: int
    program_id: int
    #: functions hit while a program of the kind was running on the CPU: kprobe and kprobe_multi links, from 6.7
    missed: int | None = None
    #: where a kprobe sits (6.6), of an event of one kprobe
    address: int | None = None
    symbol: str | None = None
    offset: int | None = None
    #: functions a kprobe_multi link is on (6.6)
    functions: int | None = None
    attach_type: int | None = None
    #: BTF object and type of the function a tracing link is on (6.0)
    target_btf_object: int | None = None
    target_btf_id: int | None = None


class Link(Descriptor):
    """A program attached to something."""

    def info(self) -> LinkInfo:
        """Ask the kernel."""
        info = Buffer(_INFO_BYTES)
        sys.object_info(self.fileno(), info, "asking about a link")
        kind, number, program = struct.unpack_from("<III", info.view)
        if kind == u.BPF_LINK_TYPE_PERF_EVENT:
            return self._perf_info(number, program)
        if kind == u.BPF_LINK_TYPE_KPROBE_MULTI:
            count, _, missed = struct.unpack_from("<IIQ", info.view, 24)
            return LinkInfo(number, kind, program, missed=missed if count else None, functions=count or None)
        if kind == u.BPF_LINK_TYPE_TRACING:
            attach_type, btf_object, btf_id = struct.unpack_from("<III", info.view, 16)
            return LinkInfo(
                number,
                kind,
                program,
                attach_type=attach_type,
                target_btf_object=btf_object or None,
                target_btf_id=btf_id or None,
            )
        return LinkInfo(number, kind, program)

    def _perf_info(self, number: int, program: int) -> LinkInfo:
        name, info = Buffer(_NAME_ROOM), Buffer(_INFO_BYTES)
        # perf_event.kprobe.func_name and .name_len; a kernel that does not know them must be asked with zeros
        struct.pack_into("<QI", info.view, 24, name.address, name.size)
        try:
            sys.object_info(self.fileno(), info, "asking about a link")
        except KernelRefused:
            return LinkInfo(number, u.BPF_LINK_TYPE_PERF_EVENT, program)
        kind, offset, address, missed = struct.unpack_from("<I16xIQQ", info.view, 16)
        if kind not in {3, 4}:  # enum bpf_perf_event_type: kprobe, kretprobe; 0 from a kernel that tells nothing
            return LinkInfo(number, u.BPF_LINK_TYPE_PERF_EVENT, program)
        symbol = name.text() or None
        return LinkInfo(
            number,
            u.BPF_LINK_TYPE_PERF_EVENT,
            program,
            missed=missed,
            address=address or None,
            symbol=symbol,
            offset=offset if symbol else None,
        )


class PerfEvent(Descriptor):
    """A perf event that a program can be attached to.

    Enabling and disabling is for breakpoints. Programs on kprobes and trace events run from the moment the link is
    made, whatever the event's own state: the kernel runs them before it looks at that (kprobe_perf_func; measured).
    """

    def enable(self) -> None:
        """Let it fire."""
        sys.ioctl(self.fileno(), u.PERF_EVENT_IOC_ENABLE, 0, "enabling a perf event")

    def disable(self) -> None:
        """Keep it, but silent."""
        sys.ioctl(self.fileno(), u.PERF_EVENT_IOC_DISABLE, 0, "disabling a perf event")


# --- links ----------------------------------------------------------------------------------------------------


def attach_perf_event(program: Program, event: PerfEvent, cookie: int = 0) -> Link:
    """Run a kprobe, tracepoint or perf_event program at an event (5.15). ``cookie`` reaches the program."""
    return _create(program, event.fileno(), u.BPF_PERF_EVENT, _PERF.pack(cookie), "attaching to a perf event")


def attach_tracing(program: Program, attach_type: int, cookie: int = 0) -> Link:
    """Attach an fentry, fexit, fmod_ret or LSM program to the function it was loaded for.

    ``attach_type`` is the one given at load. The cookie needs 5.19; without one an older kernel will do.
    """
    what = f"attaching {program.name!r}"
    fd, error = _try_create(program, 0, attach_type, _TRACING.pack(0, cookie))
    if error == errno.EINVAL and not cookie:  # before 5.19 this was a raw tracepoint without a name
        attributes = struct.pack("<QI4x", 0, program.fileno())
        fd, error = sys.bpf_raw(u.BPF_RAW_TRACEPOINT_OPEN, Buffer(attributes))
    if error:
        hints = {
            errno.EBUSY: "the function carries a live patch or another kind of tracer",
            errno.E2BIG: "the kernel takes no more than 38 programs on one function",
            errno.ENODEV: "the function's module has been unloaded",
        }
        raise sys.refused(what, error, hints)
    return Link(fd)


def attach_kprobe_multi(
    program: Program,
    *,
    symbols: Sequence[str] = (),
    addresses: Sequence[int] = (),
    cookies: Sequence[int] = (),
    at_return: bool = False,
) -> Link:
    """Attach a kprobe program, loaded for BPF_TRACE_KPROBE_MULTI, to many functions at once (5.18, FPROBE).

    Either ``symbols`` or ``addresses``; ``cookies``, if any, one for each.
    """
    targets = len(symbols) or len(addresses)
    if bool(symbols) == bool(addresses) or (cookies and len(cookies) != targets):
        raise ValueError("give symbols or addresses, and a cookie for each or none")
    names = [Buffer(symbol.encode() + b"\0") for symbol in symbols]
    syms = Buffer(struct.pack(f"<{len(names)}Q", *(name.address for name in names)))
    addrs = Buffer(struct.pack(f"<{len(addresses)}Q", *addresses))
    values = Buffer(struct.pack(f"<{len(cookies)}Q", *cookies))
    extra = _MULTI.pack(
        u.BPF_F_KPROBE_MULTI_RETURN if at_return else 0,
        targets,
        syms.address if symbols else 0,
        addrs.address if addresses else 0,
        values.address if cookies else 0,
    )
    what = f"attaching to {targets} function{'s' if targets != 1 else ''} at once"
    return _create(program, 0, u.BPF_TRACE_KPROBE_MULTI, extra, what)


def knows_kprobe_multi(program: Program) -> bool:
    """Whether the kernel goes so far as to read which functions such a program is to be attached to.

    It is given an address where nothing can be read (EFAULT), so nothing is attached: that would take it a tenth of a
    second in an emulated guest. A kernel without says EOPNOTSUPP or EINVAL.
    """
    nowhere = 8
    _, error = _try_create(program, 0, u.BPF_TRACE_KPROBE_MULTI, _MULTI.pack(0, 1, 0, nowhere, 0))
    return error == errno.EFAULT


def attach_raw_tracepoint(program: Program, name: str) -> Link:
    """Attach a raw tracepoint program to a static tracepoint, named without its category."""
    text = Buffer(name.encode() + b"\0")
    attributes = struct.pack("<QI4x", text.address, program.fileno())
    what = f"attaching to tracepoint {name!r}"
    hints = {errno.ENOENT: "there is no tracepoint of that name"}
    return Link(sys.bpf(u.BPF_RAW_TRACEPOINT_OPEN, attributes, what, hints=hints))


def open_id(number: int) -> Link:
    """The link with this id. KernelRefused (ENOENT) if there is none."""
    return Link(sys.open_id(u.BPF_LINK_GET_FD_BY_ID, number, f"opening link {number}"))


def _try_create(program: Program, target: int, attach_type: int, extra: bytes) -> tuple[int, int]:
    attributes = _CREATE.pack(program.fileno(), target, attach_type, 0) + extra
    return sys.bpf_raw(u.BPF_LINK_CREATE, Buffer(attributes))


def _create(program: Program, target: int, attach_type: int, extra: bytes, what: str) -> Link:
    fd, error = _try_create(program, target, attach_type, extra)
    if error:
        raise sys.refused(what, error)
    return Link(fd)


# --- perf events ----------------------------------------------------------------------------------------------


def perf_kprobe(
    *,
    symbol: str | None = None,
    address: int | None = None,
    offset: int = 0,
    at_return: bool = False,
) -> PerfEvent:
    """A kprobe at ``symbol`` + ``offset`` or at an address; ``at_return``: where the function returns (offset 0).

    KernelLacks without the kprobe PMU. KernelRefused for a place that cannot be probed: EINVAL for a function the
    kernel forbids or an instruction it cannot step over, EILSEQ for one between two instructions, ENOENT (or
    EADDRNOTAVAIL, for a name with several owners) for an unknown name.
    """
    if (symbol is None) == (address is None):
        raise ValueError("give a symbol or an address")
    place = f"{symbol}+{offset:#x}" if symbol is not None else f"{(address or 0) + offset:#x}"
    config = 1 << _retprobe_bit() if at_return else 0
    if symbol is not None:
        name = Buffer(symbol.encode() + b"\0")
        first, second = name.address, offset
    else:
        first, second = 0, (address or 0) + offset
    attributes = _perf_attr(_pmu_type(), config=config, config1=first, config2=second)
    hints = {
        errno.EINVAL: "the kernel does not let this place be probed",
        errno.EILSEQ: "the address is not the start of an instruction",
        errno.ENOENT: "there is no function of that name" if symbol is not None else "no kernel code lies there",
        errno.EADDRNOTAVAIL: "several functions have that name: use the address",
        errno.EOPNOTSUPP: "the instruction there cannot be probed",
    }
    what = f"probing {place}{' at its return' if at_return else ''}"
    return PerfEvent(sys.perf_event_open(attributes, what, cpu=0, hints=hints))


def perf_uprobe(path: str, offset: int, *, at_return: bool = False) -> PerfEvent:
    """A probe at an offset in an executable file, in every process that maps it; ``at_return``: where the function
    that begins there returns.

    KernelLacks without the uprobe PMU. KernelRefused for a file that cannot be probed.
    """
    name = Buffer(path.encode() + b"\0")
    config = 1 << _retprobe_bit(UPROBE_PMU) if at_return else 0
    attributes = _perf_attr(_pmu_type(UPROBE_PMU), config=config, config1=name.address, config2=offset)
    hints = {
        errno.ENOENT: "there is no such file",
        errno.EINVAL: "it is no file that programs map: not on a disk, or the offset lies behind its end",
        errno.EOPNOTSUPP: "the instruction there cannot be probed",
    }
    return PerfEvent(sys.perf_event_open(attributes, f"probing {path}+{offset:#x}", cpu=0, hints=hints))


def perf_tracepoint(number: int) -> PerfEvent:
    """The trace event with this id (its ``id`` file in tracefs), a kprobe event or a static one; on all CPUs."""
    attributes = _perf_attr(u.PERF_TYPE_TRACEPOINT, config=number, period=1)
    return PerfEvent(sys.perf_event_open(attributes, f"opening trace event {number}", cpu=0))


def perf_breakpoint(
    address: int, length: int, access: int, *, cpu: int, disabled: bool = False, pinned: bool = False
) -> PerfEvent:
    """A debug register of one CPU, on ``length`` (1, 2, 4, 8) bytes at an aligned address.

    ``access`` is HW_BREAKPOINT_W, HW_BREAKPOINT_RW or, with length 8, HW_BREAKPOINT_X; x86 has none for reads alone.
    KernelRefused with ENOSPC when the CPU's four are taken. ``pinned``: reading the event fails (EBUSY) unless it is
    armed on its CPU. It is not any more once its CPU has been offline; then no ioctl arms it again (measured).
    """
    hints = {
        errno.ENOSPC: "all four debug registers of the CPU are in use (gdb, kgdb, perf or another aspect)",
        errno.EINVAL: "the address must be a multiple of the length, and the length 1, 2, 4 or 8",
    }
    attributes = _breakpoint_attr(address, length, access, disabled, pinned)
    what = f"watching {length} bytes at {address:#x} on CPU {cpu}"
    return PerfEvent(sys.perf_event_open(attributes, what, cpu=cpu, hints=hints))


def breakpoint_attributes(address: int, length: int, access: int) -> bytes:
    """What :func:`perf_breakpoint` opens, armed at once, for who opens it on many CPUs by the system call itself."""
    return _breakpoint_attr(address, length, access, disabled=False)


def _breakpoint_attr(address: int, length: int, access: int, disabled: bool, pinned: bool = False) -> bytes:
    return _perf_attr(
        u.PERF_TYPE_BREAKPOINT,
        period=1,
        bp_type=access,
        config1=address,
        config2=length,
        flags=_DISABLED * disabled | _PINNED * pinned,
    )


def _perf_attr(
    kind: int, *, config: int = 0, period: int = 0, flags: int = 0, bp_type: int = 0, config1: int = 0, config2: int = 0
) -> bytes:
    packed = _PERF_ATTR.pack(kind, u.PERF_ATTR_SIZE_VER5, config, period, 0, 0, flags, 0, bp_type, config1, config2)
    return packed.ljust(u.PERF_ATTR_SIZE_VER5, b"\0")


def _pmu_type(pmu: str = KPROBE_PMU) -> int:
    """Number under which perf knows kprobes; it is given out at boot."""
    try:
        with open(f"{pmu}/type") as file:
            return int(file.read())
    except FileNotFoundError:
        kind = "uprobe" if pmu == UPROBE_PMU else "kprobe"
        raise KernelLacks(
            f"this kernel has no {kind}s for perf_event_open",
            hint=f"it needs CONFIG_{kind.upper()}_EVENTS and CONFIG_PERF_EVENTS, and sysfs mounted on /sys",
        ) from None


def _retprobe_bit(pmu: str = KPROBE_PMU) -> int:
    """Which bit of ``config`` asks for the return, as sysfs says: ``config:0``."""
    with open(f"{pmu}/format/retprobe") as file:
        return int(file.read().strip().removeprefix("config:"))
