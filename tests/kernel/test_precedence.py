"""precedence in the kernel: the log shows that aspects, woven together or one by one, run in the order declared."""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack

import pytest
from support.livekernel import leftovers
from support.weaving import Woven

from klasy.errors import InputError
from klasy.kernel.live import LiveKernel
from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.features import RunningFeatures
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave

HERE = f"(struct file *file, ..)) && if(pid == {os.getpid()})"
PLACES = {
    "execution": f"execution(vfs_fsync_range{HERE}",
    "call": f"call(vfs_fsync_range{HERE}",
}


@pytest.fixture(scope="module")
def kernel():
    return LiveKernel()


@pytest.fixture(autouse=True)
def _nothing_left():
    """Nothing stays in the kernel."""
    yield
    unweave()
    assert leftovers() == {}


def artifacts(kernel, precedence: str, place: str, names: str, *, force: str | None, kinds="before after"):
    """The aspects of these names, which run at one place, by name."""
    text = precedence
    for name in "abc":
        advice = " ".join(f"{kind}(struct file *file): {PLACES[place]} {{ log(file); }}" for kind in kinds.split())
        text += f"aspect {name} {{ {advice} }}\n"
    built = build(SourceFile("test.asp", text), kernel, PlanOptions(RunningFeatures(), force))
    return [artifact for artifact in built if artifact.plan.aspect.name in names]


def order(file, aspects) -> str:
    """Who ran, in the order of time."""
    os.fsync(file)
    seen = []
    for aspect in aspects:
        seen += [(event.time_ns, aspect.name) for event in Woven(aspect).mine()]
    times = [time for time, _ in seen]
    assert len(set(times)) == len(times)
    return "".join(name for _, name in sorted(seen))


@pytest.mark.parametrize(("place", "force"), [("execution", "fentry"), ("execution", "kprobe"), ("call", None)])
def test_together(kernel, file, place, force):
    """However they are given, aspects that are woven together nest as declared, by every mechanism."""
    for declared, given in (("abc", "cab"), ("cba", "abc"), ("bca", "acb")):
        made = artifacts(kernel, f"precedence {', '.join(declared)};", place, "abc", force=force)
        by_name = {artifact.plan.aspect.name: artifact for artifact in made}
        with ExitStack() as stack:
            woven = [stack.enter_context(a) for a in weave([by_name[n] for n in given], machine_of(kernel))]
            assert order(file, woven) == declared + declared[::-1]
        unweave()


def test_mechanisms(kernel, file):
    """At one join point a kprobe lies outside a trampoline: what goes along with that is woven, else it is refused."""
    for declared, fits in (("ab", True), ("ba", False)):
        text = f"precedence {', '.join(declared)};"
        made = artifacts(kernel, text, "execution", "a", force="kprobe") + artifacts(
            kernel, text, "execution", "b", force="fentry"
        )
        if not fits:
            with pytest.raises(InputError, match="'b' cannot go before 'a' at the execution of vfs_fsync_range"):
                weave(made, machine_of(kernel))
            continue
        with ExitStack() as stack:
            woven = [stack.enter_context(aspect) for aspect in weave(made, machine_of(kernel))]
            assert order(file, woven) == "abba"
        unweave()


@pytest.mark.parametrize(("force", "kind"), list(itertools.product(("fentry", "kprobe"), ("before", "after"))))
def test_one_after_another(kernel, file, force, kind):
    """Beside what is woven already only one order can be had: that one runs so, the other is refused."""
    refused = []
    for declared in ("ab", "ba"):
        text = f"precedence {', '.join(declared)};"
        (old,) = artifacts(kernel, text, "execution", "a", force=force, kinds=kind)
        (new,) = artifacts(kernel, "", "execution", "b", force=force, kinds=kind)
        with ExitStack() as stack:
            woven = [stack.enter_context(aspect) for aspect in weave([old], machine_of(kernel))]
            try:
                woven += [stack.enter_context(aspect) for aspect in weave([new], machine_of(kernel))]
            except InputError as error:
                refused.append(f"{error.message} {error.hint}")
            else:
                assert order(file, woven) == (declared if kind == "before" else declared[::-1])
        unweave()
    (why,) = refused
    assert "'a' is woven already" in why
    assert "weave both in one command" in why
