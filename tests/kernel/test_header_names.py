"""Names that headers of the kernel define for members and types, against what programs put there."""

from __future__ import annotations

import ctypes
import faulthandler
import ipaddress
import os
import signal
import socket
import struct
import subprocess

import pytest
from support.children import child, let_go
from support.livekernel import btf
from support.weaving import woven

from klasy.btf.types import Struct
from klasy.kernel import member_macros

pytestmark = pytest.mark.usefixtures("nothing_left")

NAMES = {
    "kernel_siginfo": "si_pid si_uid si_tid si_overrun si_status si_utime si_stime si_value si_int si_ptr si_addr "
    "si_addr_lsb si_pkey si_band si_fd si_call_addr si_syscall si_arch",
    "in6_addr": "s6_addr s6_addr16 s6_addr32",
    "icmp6hdr": "icmp6_identifier icmp6_sequence icmp6_router icmp6_solicited icmp6_override icmp6_hop_limit "
    "icmp6_addrconf_managed icmp6_addrconf_other icmp6_rt_lifetime icmp6_router_pref",
    "fib_nh": "fib_nh_gw4 fib_nh_gw6 fib_nh_dev fib_nh_oif fib_nh_flags fib_nh_scope fib_nh_gw_family",
    "fib6_nh": "fib_nh_gw4 fib_nh_gw6 fib_nh_dev fib_nh_oif fib_nh_flags fib_nh_scope fib_nh_gw_family",
}


def test_they_lead_somewhere_in_this_kernel() -> None:
    """What a kernel has not would silently be no name any more."""
    for tag, names in NAMES.items():
        (place, *_) = btf().find(tag, Struct)
        assert set(names.split()) <= set(member_macros.names(btf(), place)), tag


def test_what_comes_with_a_signal() -> None:
    """Sender and value of a queued signal, status of a child, address of a fault."""

    def act() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN, signal.SIGCHLD})
        ended = os.fork()
        if not ended:
            os._exit(9)
        os.waitpid(ended, 0)
        info = struct.pack("<iii4xIIq104x", signal.SIGRTMIN, 0, -1, os.getpid(), 77, -5)  # a siginfo_t
        ctypes.CDLL(None).syscall(129, os.getpid(), int(signal.SIGRTMIN), info)  # rt_sigqueueinfo
        faulthandler.disable()  # pytest's, which would say where
        ctypes.string_at(0x1234)

    number, go = child(act)
    text = f"""aspect a {{
        before(struct kernel_siginfo *info, struct task_struct *t):
            execution(__send_signal_locked(int sig, struct kernel_siginfo *info, struct task_struct *t, ..))
            && if(t->pid == {number} || t->real_parent->pid == {number}) {{
            if ((u64)info <= 2) return;
            log("%d %d %d %d", info->si_signo, info->si_pid, info->si_uid, info->si_int);
            log("%d %p %d", info->si_signo, info->si_addr, info->si_status);
        }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        said = [e.message.split() for e in a.events()]
    assert [str(int(signal.SIGRTMIN)), str(number), "77", "-5"] in said
    assert ["11", "0x1234"] in [words[:2] for words in said]
    assert "9" in [words[2] for words in said if words[0] == str(int(signal.SIGCHLD)) and len(words) == 3]


@pytest.mark.usefixtures("loopback")
def test_addresses_of_the_internet_protocol_6() -> None:
    """The words, halves and bytes of an address that a process gives, of whatever family; the numbers of an echo."""
    wanted = "2001:db8:1:2:3:4:5:6"
    subprocess.run(["ip", "addr", "add", f"{wanted}/128", "dev", "lo", "nodad"], check=True)

    def act() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.connect((wanted, 4321))
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.sendto(struct.pack("!BBHHH", 128, 0, 0, 0x1234, 0x5678), (wanted, 0))

    number, go = child(act)
    text = f"""aspect a {{
        before(struct sockaddr *uservaddr): syscall(connect) && if(pid == {number}) {{
            if (((struct sockaddr_storage *)uservaddr)->ss_family != 10) return;
            struct in6_addr *to = &((struct sockaddr_in6 *)uservaddr)->sin6_addr;
            log("%x %x %x", ntohl(to->s6_addr32[1]), ntohs(to->s6_addr16[7]), to->s6_addr[1]);
        }}
        before(struct sk_buff *skb): execution(int icmpv6_rcv(struct sk_buff *skb)) {{
            struct icmp6hdr *h = (struct icmp6hdr *)(skb->head + skb->transport_header);
            if (h->icmp6_type == 128) log("%x %x", ntohs(h->icmp6_identifier), ntohs(h->icmp6_sequence));
        }}
    }}"""
    try:
        with woven(text) as a:
            let_go(number, go)
            said = [e.message for e in a.events()]
    finally:
        subprocess.run(["ip", "addr", "del", f"{wanted}/128", "dev", "lo"], check=True)
    packed = ipaddress.IPv6Address(wanted).packed
    assert said == [f"{int.from_bytes(packed[4:8]):x} {packed[15]:x} {packed[1]:x}", "1234 5678"]
