"""Member names that the kernel's headers define as macros: ``sk->sk_family`` is ``sk->__sk_common.skc_family``.

Who writes an aspect knows these names as members; type information has only what they stand for. A macro counts only
where the struct has no member of its name and has the path it stands for, so that a kernel in which that changed is
not misread.
"""

from __future__ import annotations

from klasy.btf import walk
from klasy.btf.types import Struct
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from klasy.btf.btf import Btf


@dataclass(frozen=True, slots=True)
class _Prefix:
    """Every name with a prefix: ``path`` leads to the struct whose members have ``target`` in its place."""

    prefix: str
    path: tuple[str, ...]
    target: str


# By the tag of the struct.
_PREFIXES = {
    "sock": _Prefix("sk_", ("__sk_common",), "skc_"),  # include/net/sock.h
    "inet_sock": _Prefix("inet_", ("sk", "__sk_common"), "skc_"),  # include/net/inet_sock.h
    "inet_timewait_sock": _Prefix("tw_", ("__tw_common",), "skc_"),  # include/net/inet_timewait_sock.h
    "request_sock": _Prefix("rsk_", ("__req_common",), "skc_"),  # include/net/request_sock.h
    "flowi4": _Prefix("flowi4_", ("__fl_common",), "flowic_"),  # include/net/flow.h
    "flowi6": _Prefix("flowi6_", ("__fl_common",), "flowic_"),
    "flowi": _Prefix("flowi_", ("u", "__fl_common"), "flowic_"),
    "fib_nh": _Prefix("fib_nh_", ("nh_common",), "nhc_"),  # include/net/ip_fib.h
    "fib6_nh": _Prefix("fib_nh_", ("nh_common",), "nhc_"),
}
_NEXT_HOP: dict[str, tuple[str, ...]] = {
    "fib_nh_gw4": ("nh_common", "nhc_gw", "ipv4"),
    "fib_nh_gw6": ("nh_common", "nhc_gw", "ipv6"),
}
_SIGNAL: dict[str, tuple[str, ...]] = {  # include/uapi/asm-generic/siginfo.h
    "si_pid": ("_sifields", "_kill", "_pid"),
    "si_uid": ("_sifields", "_kill", "_uid"),
    "si_tid": ("_sifields", "_timer", "_tid"),
    "si_overrun": ("_sifields", "_timer", "_overrun"),
    "si_status": ("_sifields", "_sigchld", "_status"),
    "si_utime": ("_sifields", "_sigchld", "_utime"),
    "si_stime": ("_sifields", "_sigchld", "_stime"),
    "si_value": ("_sifields", "_rt", "_sigval"),
    "si_int": ("_sifields", "_rt", "_sigval", "sival_int"),
    "si_ptr": ("_sifields", "_rt", "_sigval", "sival_ptr"),
    "si_addr": ("_sifields", "_sigfault", "_addr"),
    "si_addr_lsb": ("_sifields", "_sigfault", "_addr_lsb"),
    "si_pkey": ("_sifields", "_sigfault", "_addr_pkey", "_pkey"),
    "si_band": ("_sifields", "_sigpoll", "_band"),
    "si_fd": ("_sifields", "_sigpoll", "_fd"),
    "si_call_addr": ("_sifields", "_sigsys", "_call_addr"),
    "si_syscall": ("_sifields", "_sigsys", "_syscall"),
    "si_arch": ("_sifields", "_sigsys", "_arch"),
}
_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    # include/net/inet_sock.h
    "inet_request_sock": {
        "ir_loc_addr": ("req", "__req_common", "skc_rcv_saddr"),
        "ir_rmt_addr": ("req", "__req_common", "skc_daddr"),
        "ir_num": ("req", "__req_common", "skc_num"),
        "ir_rmt_port": ("req", "__req_common", "skc_dport"),
        "ir_v6_rmt_addr": ("req", "__req_common", "skc_v6_daddr"),
        "ir_v6_loc_addr": ("req", "__req_common", "skc_v6_rcv_saddr"),
        "ir_iif": ("req", "__req_common", "skc_bound_dev_if"),
        "ireq_state": ("req", "__req_common", "skc_state"),
        "ireq_family": ("req", "__req_common", "skc_family"),
    },
    # include/net/flow.h
    "flowi4": {"fl4_sport": ("uli", "ports", "sport"), "fl4_dport": ("uli", "ports", "dport")},
    "flowi6": {"fl6_sport": ("uli", "ports", "sport"), "fl6_dport": ("uli", "ports", "dport")},
    "fib_nh": _NEXT_HOP,
    "fib6_nh": _NEXT_HOP,
    "dentry": {"d_lock": ("d_lockref", "lock")},  # include/linux/dcache.h
    "kernel_siginfo": _SIGNAL,
    "siginfo": _SIGNAL,
    # include/uapi/linux/in6.h
    "in6_addr": {
        "s6_addr": ("in6_u", "u6_addr8"),
        "s6_addr16": ("in6_u", "u6_addr16"),
        "s6_addr32": ("in6_u", "u6_addr32"),
    },
    # include/uapi/linux/icmpv6.h
    "icmp6hdr": {
        "icmp6_identifier": ("icmp6_dataun", "u_echo", "identifier"),
        "icmp6_sequence": ("icmp6_dataun", "u_echo", "sequence"),
        "icmp6_router": ("icmp6_dataun", "u_nd_advt", "router"),
        "icmp6_solicited": ("icmp6_dataun", "u_nd_advt", "solicited"),
        "icmp6_override": ("icmp6_dataun", "u_nd_advt", "override"),
        "icmp6_hop_limit": ("icmp6_dataun", "u_nd_ra", "hop_limit"),
        "icmp6_addrconf_managed": ("icmp6_dataun", "u_nd_ra", "managed"),
        "icmp6_addrconf_other": ("icmp6_dataun", "u_nd_ra", "other"),
        "icmp6_rt_lifetime": ("icmp6_dataun", "u_nd_ra", "rt_lifetime"),
        "icmp6_router_pref": ("icmp6_dataun", "u_nd_ra", "router_pref"),
    },
}


def path_of(btf: Btf, struct_id: int, name: str) -> tuple[str, ...] | None:
    """The members that a macro stands for, outermost first; None where ``name`` is no macro known for the struct."""
    struct = btf.resolved(struct_id)
    if not isinstance(struct, Struct):
        return None
    exact = _NAMES.get(struct.name, {}).get(name)
    if exact is not None:
        return exact
    rule = _PREFIXES.get(struct.name)
    if rule is None or not name.startswith(rule.prefix):
        return None
    return (*rule.path, rule.target + name[len(rule.prefix) :])


def find(btf: Btf, struct_id: int, name: str) -> walk.Place | None:
    """The place that a macro names in a struct, as ``walk.find_member`` gives that of a member."""
    path = path_of(btf, struct_id, name)
    if path is None:
        return None
    place: walk.Place | None = walk.Place("", struct_id, 0)
    for part in path:
        assert place is not None
        inner = walk.find_member(btf, place.type_id, part)
        if inner is None:
            return None
        place = walk.Place(inner.name, inner.type_id, place.bit_offset + inner.bit_offset, inner.bitfield_size)
    return place


def names(btf: Btf, struct_id: int) -> list[str]:
    """All macros that name something in a struct: what a misspelt member is compared with, besides the members."""
    struct = btf.resolved(struct_id)
    if not isinstance(struct, Struct):
        return []
    found = [name for name in _NAMES.get(struct.name, {}) if find(btf, struct_id, name)]
    rule = _PREFIXES.get(struct.name)
    if rule is not None:
        inner: int | None = struct_id
        for part in rule.path:
            place = walk.find_member(btf, inner, part) if inner is not None else None
            inner = place.type_id if place else None
        if inner is not None:
            members = walk.member_names(btf, inner)
            found += [rule.prefix + m[len(rule.target) :] for m in members if m.startswith(rule.target)]
    return found
