"""Advice in C: what is said of it where it is wrong, at its own places; and the declarations that are made for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from golden.harness import Case, cases, check
from golden.kernel import KERNEL

from klasy.diag import render
from klasy.errors import InputError
from klasy.match.options import Features, PlanOptions
from klasy.source import SourceFile
from klasy.weaver import load_bcc
from klasy.weaver.build import build

HAS_BCC = find_spec("bcc") is not None or Path(load_bcc.PACKAGES, "bcc").is_dir()
needs_bcc = pytest.mark.skipif(not HAS_BCC, reason="python3-bpfcc is not installed")


def _build(body: str) -> str:
    """The program of the only probe, as text."""
    from klasy.backend import show

    (made,) = build(SourceFile("test.asp", "aspect test {\n" + body + "\n}\n"), KERNEL, PlanOptions(Features()))
    return show(made)


@needs_bcc
@pytest.mark.parametrize("case", cases("c", "bad_*.test"), ids=str)
def test_errors(case: Case, update_golden: bool) -> None:
    """Wrong C is refused, each error at its place in the aspect: klasy's own and the compiler's."""
    with pytest.raises(InputError) as caught:
        _build(case.input)
    check(case, "\n".join(render(diagnostic) for diagnostic in caught.value.diagnostics), update_golden)


@pytest.mark.parametrize("case", cases("c", "text_*.test"), ids=str)
def test_text(case: Case, update_golden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given to the compiler: the types that are named, with members where the kernel has them."""
    texts: list[str] = []
    monkeypatch.setattr(load_bcc, "_library", lambda: (None, None))

    def compile_(unit, lib, ct):
        texts.append(unit.text[unit.text.index("#define htonl") :].partition("\n")[2])
        code = bytes.fromhex("b7000000000000009500000000000000")
        return {function.name: code for function in unit.functions}, ""

    monkeypatch.setattr(load_bcc, "_compile", compile_)
    _build(case.input)
    check(case, texts[0], update_golden)


@needs_bcc
def test_code() -> None:
    """What bcc makes stands behind klasy's own program as a function of it, its maps those of the aspect."""
    text = _build(
        "sum bytes; pointcut p(struct sk_buff *skb): execution(skb_queue_tail(*, struct sk_buff *skb));\n"
        'before(struct sk_buff *skb): p(skb) %{ bytes_add(skb->len); log("%d", skb->len); %}'
    )
    assert "call c_advice0" in text or "c_advice0" in text
    for name in ("events", "state__bytes", "counters", "control"):
        assert name in text


def test_without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bcc is not installed, that is said with how to get it."""
    import sys

    from klasy.errors import KernelLacks

    monkeypatch.setitem(sys.modules, "bcc", None)
    monkeypatch.setitem(sys.modules, "bcc.libbcc", None)
    with pytest.raises(KernelLacks) as caught:
        _build("before(): execution(kfree) %{ %}")
    assert "apt-get install python3-bpfcc" in (caught.value.hint or "")
