"""Numbers of the network that are compared with constants as if they were the machine's."""

from __future__ import annotations

import pytest
from support.compiling import errors_of
from support.fakekernel import FakeKernel

KERNEL = FakeKernel("""
    typedef unsigned short __be16; typedef unsigned int __be32; typedef unsigned short u16;
    struct pair { __be16 port; __be32 addr; u16 plain; };
    void f(struct pair *p, __be16 port);
""")


def said(condition: str) -> str:
    """What is said of a condition in advice."""
    text = "aspect a { before(struct pair *p, __be16 port): execution(f(struct pair *p, __be16 port)) { %s } }"
    return errors_of(text % f"if ({condition}) log(1, port, p);", KERNEL)


@pytest.mark.parametrize(
    ("condition", "number"),
    [
        *(("p->port == 443", "443"), ("p->port != ETH_P_IP", "ETH_P_IP"), ("8080 < p->port", "8080")),
        *(("port == 22", "22"), ("p->addr == 0x7f000001", "0x7f000001")),
    ],
)
def test_a_constant_is_the_machines(condition: str, number: str) -> None:
    """It would never be equal, and nobody would see why."""
    text = said(condition)
    assert "warning:" in text
    assert f"is in the network's byte order, {number} in the machine's [byte-order]" in text
    assert ("ntohl(p->addr)" if "addr" in condition else "ntohs(p") in text


@pytest.mark.parametrize(
    "condition",
    [
        *("ntohs(p->port) == 443", "p->port == ntohs(443)", "p->port == (__be16)0xbb01", "p->port == p->port"),
        *("p->port == 0", "p->port", "p->addr == 0xffffffff", "p->plain == 443", "p->port == 0x0101", "(u16)port == 9"),
        "(p->port & 0xff) == 1",
    ],
)
def test_what_is_meant_so(condition: str) -> None:
    """Turned, cast, alike from both sides, or computed with."""
    assert said(condition) == ""


def test_conditions_of_pointcuts() -> None:
    """They are compared as in advice."""
    text = "aspect a { before(struct pair *p): execution(f(struct pair *p, ..)) && if(p->port == 443) { log(1); } }"
    assert errors_of(text, KERNEL).count("[byte-order]") == 1
