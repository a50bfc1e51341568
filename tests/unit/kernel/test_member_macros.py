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
    """
)


def place(struct: str, name: str):
    """Where a macro of a struct leads to."""
    return member_macros.find(KERNEL.btf, KERNEL.btf.find(struct, Struct)[0], name)


def test_a_prefix_stands_for_a_path():
    """sk_X of struct sock is __sk_common.skc_X, inet_X of inet_sock one struct deeper."""
    assert place("sock", "sk_family").bit_offset == 32
    assert place("inet_sock", "inet_family").bit_offset == 32


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
