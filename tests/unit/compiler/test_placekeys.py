"""Join points as keys of state: which of them have one key, and how a program that is at many finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.compiling import compile_text, memory_world
from support.fakekernel import FakeKernel

from klasy.compiler import placekeys
from klasy.compiler.ireval import run
from klasy.compiler.placekeys import runs
from klasy.compiler.stateeval import Store
from klasy.lang import load
from klasy.match import PlanOptions, plan_aspect
from klasy.match.shadow import JoinPointKind
from klasy.plain import replace
from klasy.source import SourceFile

CALLERS = """
tcp_connect: skb_dequeue skb_dequeue
tcp_sendmsg: skb_dequeue je:skb_dequeue jmp:skb_dequeue
vfs_open: skb_dequeue
"""
KERNEL = FakeKernel((Path(__file__).parents[2] / "golden" / "kernel.h").read_text(), CALLERS)
CALLS = "call(skb_dequeue(struct sk_buff_head *list))"
ASPECT = f"""aspect a {{
    count hits[joinpoint.ATTRIBUTE];
    before(): {CALLS} {{ hits[joinpoint.ATTRIBUTE]++; }}
    after(): {CALLS} {{ hits[joinpoint.ATTRIBUTE]++; }}
}}"""


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.data())
def test_runs_say_the_same_in_fewer_words(names: list[int], data: st.DataObject) -> None:
    """Each join point's key can be read off the pieces, whatever join points a program is at."""
    first = [names.index(name) for name in names]
    ids = data.draw(st.lists(st.sampled_from(range(len(names))), min_size=1, unique=True).map(sorted))
    pieces = runs(first, ids)
    for number in ids:
        _, has = [piece for piece in pieces if piece[0] <= number][-1]
        assert (number if has is None else has) == first[number]


@pytest.mark.parametrize("attribute", ["function", "address", "kind", "callee", "module", "file", "line"])
@pytest.mark.parametrize("force", [None, "dispatch"])
@pytest.mark.parametrize("most", [placekeys.MOST_RANGES, 1], ids=["by comparing", "by a table"])
def test_key_is_the_first_of_that_name(
    attribute: str, force: str | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``before`` and ``after`` at places of one name share a slot, others do not; one slot for each name there is."""
    monkeypatch.setattr(placekeys, "MOST_RANGES", most)
    text = ASPECT.replace("ATTRIBUTE", attribute)
    (aspect,) = load(SourceFile("test.asp", text))
    options = PlanOptions(force=force)
    plan = plan_aspect(aspect, KERNEL, options)
    made = compile_text(text, KERNEL, options)
    shown = {
        "function": lambda s: s.function and s.function.name,
        "address": lambda s: (s.address, s.call_kind),
        "kind": lambda s: s.kind,
        "callee": lambda s: s.callee and s.callee.name,
        "module": lambda s: (s.module, s.kind is JoinPointKind.CALL and s.function is None),
        "file": lambda s: s.place and s.place.file,
        "line": lambda s: s.place and s.place.line,
    }[attribute]
    expected: dict[object, int] = {}
    store = Store()
    for program in made.programs:
        probe = plan.probes[program.probe]
        for number, arm in enumerate(probe.arms):
            ids = {*arm.by_address.values(), *arm.by_return_address.values(), arm.otherwise} - {None}
            for joinpoint in ids:
                located = [joinpoint if place == number else None for place in range(len(probe.arms))]
                done = run(program, replace(memory_world(b"", ()), store=store, located=located))
                for hit in done.hits:
                    name = shown(plan.joinpoints[hit].shadow)
                    expected[name] = expected.get(name, 0) + 1
    slots = store.elements["hits"]
    by_name = {
        shown(plan.joinpoints[int.from_bytes(key[:4], "little")].shadow): words[0] for key, words in slots.items()
    }
    assert len(by_name) == len(slots)
    assert by_name == expected
    assert sum(expected.values()) >= 8


def test_stack_key_says_where_it_begins() -> None:
    """Beside the kernel's number of the stack a key has the join point's; a process's stack has none."""
    text = f"""aspect a {{
        count by[stack()];
        count both[ustack(), joinpoint.function];
        before(): {CALLS} {{ by[stack()]++; both[ustack(), joinpoint.function]++; }}
    }}"""
    made = compile_text(text, KERNEL)
    by, both = made.states
    assert [(f.kind, f.offset, f.size) for f in by.keys] == [("stack", 0, 8)]
    assert [(f.kind, f.offset, f.size, f.type_name) for f in both.keys] == [
        ("ustack", 0, 40, ""),  # with the caller that the kernel leaves out
        ("joinpoint", 40, 4, "function"),
    ]
    assert both.key_size == 48
