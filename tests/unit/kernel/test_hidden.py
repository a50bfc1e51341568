"""Names without addresses."""

from __future__ import annotations

import pytest

from klasy.kernel.hidden import NamesOnly

KALLSYMS = """0000000000000000 T _text
0000000000000000 T ip_rcv
0000000000000000 t ip_rcv.part.0
0000000000000000 T _etext
0000000000000000 t tun_open\t[tun]
0000000000000000 t bpf_prog_1\t[bpf]
"""


@pytest.mark.parametrize(("modules", "known"), [("tun 1 0 - Live 0x0\n", {"tun"}), (None, set())])
def test_names_only(tmp_path, modules, known):
    """Functions are found by name in the kernel and its modules; a kernel that can load none is no obstacle."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/osrelease").write_text("6.1.0\n")
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    if modules:
        (tmp_path / "modules").write_text(modules)
    kernel = NamesOnly(str(tmp_path), str(tmp_path / "none"))
    assert [function.name for function in kernel.functions("ip_rcv")] == ["ip_rcv", "ip_rcv.part.0"]
    assert {function.module for function in kernel.functions("*") if function.module} == known
