"""The accesses of members in the running kernel, against what debug registers and the kernel's own text say."""

from __future__ import annotations

import functools

from klasy.flow import sites
from klasy.flow.index import Index
from klasy.kernel.live import running_kernel


@functools.cache
def index():
    """One for all tests: making it takes seconds in an emulated guest."""
    return Index(running_kernel())


@functools.cache
def ask(name):
    return index().accesses([sites.kernel_member(running_kernel(), *name.split(".", 1))])


def functions(found, kind):
    return {site.function.base for site in found.accesses if kind in (site.kind, "any")}


def test_congestion_window():
    """The functions of the TCP sources that set snd_cwnd are found to write it, and each reads or writes 4 bytes."""
    found = ask("tcp_sock.snd_cwnd")
    assert {"tcp_cong_avoid_ai", "tcp_slow_start", "tcp_enter_loss", "tcp_init_sock"} <= functions(found, "write")
    assert {"tcp_write_xmit", "tcp_update_pacing_rate"} <= functions(found, "any")
    assert {site.base_offset for site in found.accesses} == {0}
    assert all(site.base_register for site in found.accesses)
    assert {site.width for site in found.accesses} <= {4, 8}


def test_every_site_is_an_instruction():
    """Each site begins where an instruction begins, and has its length."""
    kernel = running_kernel()
    found = ask("tcp_sock.snd_cwnd")
    assert len(found.accesses) > 30
    for site in found.accesses:
        assert kernel.instruction_length(site.address) == site.length
        assert site.code == kernel.text(site.address, site.length)
        assert site.disassembly != "(bad)"
