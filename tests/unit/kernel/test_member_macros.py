"""Members that are macros in the kernel's headers."""

from __future__ import annotations

from support.fakekernel import FakeKernel

from klasy.btf.types import Struct
from klasy.kernel import member_macros

KERNEL = FakeKernel(
    """
    struct sock_common { unsigned short skc_family; unsigned char skc_reuse : 4; unsigned char skc_ipv6only : 1; };
    struct sock { int sk_drops; struct sock_common __sk_common; int sk_own; };
    struct inet_sock { struct sock sk; int inet_own; };
    struct lock { int word; };
    struct dentry { int d_flags; };
    struct other { struct sock_common __sk_common; };
    struct sent { int _pid; int _uid; };
    struct value { int sival_int; };
    struct queued { int _pid; int _uid; struct value _sigval; };
    union sifields { struct sent _kill; struct queued _rt; };
    struct kernel_siginfo { int si_signo; int si_errno; int si_code; int pad; union sifields _sifields; };
    struct fib_nh_common { int nhc_dev; int nhc_oif; };
    struct fib_nh { struct fib_nh_common nh_common; };
    """
)


def place(struct: str, name: str):
    """Where a macro of a struct leads to."""
    return member_macros.find(KERNEL.btf, KERNEL.btf.find(struct, Struct)[0], name)


def test_a_prefix_stands_for_a_path():
    """sk_X of struct sock is __sk_common.skc_X, inet_X of inet_sock one struct deeper."""
    assert place("sock", "sk_family").bit_offset == 32
    assert place("inet_sock", "inet_family").bit_offset == 32


def test_a_path_through_unions():
    """The value of a signal lies deeper than who sent it; where nothing else is known of a struct its prefix holds."""
    assert (place("kernel_siginfo", "si_pid").bit_offset, place("kernel_siginfo", "si_int").bit_offset) == (128, 192)
    assert place("kernel_siginfo", "si_status") is None
    assert place("fib_nh", "fib_nh_oif").bit_offset == 32
    assert place("fib_nh", "fib_nh_gw4") is None


def test_bit_fields_stay_bit_fields():
    """A macro for a bit-field leads to its bits."""
    found = place("sock", "sk_ipv6only")
    assert (found.bit_offset, found.bitfield_size) == (32 + 20, 1)


def test_what_the_kernel_lacks_is_no_member():
    """A macro whose path this kernel has not, another struct's macro, and any other name lead nowhere."""
    assert place("sock", "sk_nothing") is None
    assert place("dentry", "d_lock") is None
    assert place("other", "sk_family") is None
    assert place("sock", "family") is None


def test_names_for_suggestions():
    """The macros that exist in this kernel are known by name."""
    names = member_macros.names(KERNEL.btf, KERNEL.btf.find("sock", Struct)[0])
    assert names == ["sk_family", "sk_reuse", "sk_ipv6only"]
    assert member_macros.names(KERNEL.btf, KERNEL.btf.find("dentry", Struct)[0]) == []
