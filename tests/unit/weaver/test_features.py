"""What the planner is told of the running kernel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.fakekernel import FakeKernel

from klasy.bpf import features
from klasy.kernel import live
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.options import Features, PlanOptions
from klasy.weaver import features as module
from klasy.weaver.features import RunningFeatures


def test_kprobe_multi_is_tried_once_and_only_when_asked(monkeypatch):
    """The answer is the kernel's, not the default of the class; nobody pays who does not ask."""
    tried = []

    def attempt() -> features.Feature:
        tried.append(1)
        return features.Feature("kprobe.multi", features.YES, "")

    monkeypatch.setattr(features, "kprobe_multi", attempt)
    running = RunningFeatures()
    assert isinstance(running, Features)
    assert PlanOptions(running).features is running
    assert not tried
    assert running.kprobe_multi is True
    assert running.kprobe_multi is True
    assert tried == [1]


def test_without_compiled_programs_there_are_no_trampolines(monkeypatch, tmp_path):
    """bpf_jit_enable 0: kprobes must do. No such file: the kernel always compiles."""
    switch = tmp_path / "bpf_jit_enable"
    monkeypatch.setattr(module, "JIT_ENABLED", str(switch))
    assert RunningFeatures().fentry
    switch.write_text("0\n")
    assert not RunningFeatures().fentry
    switch.write_text("1\n")
    assert RunningFeatures().fentry


class Kernel:
    """A kernel that has a function of seven parameters to try trampolines on, or has not."""

    def __init__(self, wide: int | None) -> None:
        self.btf = SimpleNamespace(find_func=lambda name: wide if name == features.WIDE else None)


@pytest.mark.parametrize(
    ("wide", "state", "most"), [(7, features.YES, 12), (7, features.NO, 6), (None, features.UNKNOWN, 6)]
)
def test_how_much_trampolines_save_is_tried_where_it_matters(monkeypatch, wide, state, most):
    """Six argument registers are saved by every kernel; whether more are is tried once, and only when asked."""
    tried = []

    def attempt(btf_id: int | None) -> features.Feature:
        tried.append(btf_id)
        return features.Feature("wide", state, "")

    monkeypatch.setattr(features, "wide_trampolines", attempt)
    monkeypatch.setattr(live, "running_kernel", lambda: Kernel(wide))
    running = RunningFeatures()
    assert running.trampoline_saves(6)
    assert tried == []
    assert running.trampoline_saves(7) == running.trampoline_saves(12) == (most == 12)
    assert not running.trampoline_saves(13)
    assert running.max_trampoline_arg_registers == most
    assert tried == [wide]


@pytest.mark.parametrize(
    ("info", "counted"),
    [
        ("", False),
        ("struct bpf_link_info { int id; };", False),  # 6.1
        (  # 6.6.59: one of the two was taken over, and not the counting
            "struct perf { long addr; unsigned long missed; }; struct multi { int count; };"
            "struct bpf_link_info { int id; struct perf perf_event; struct multi kprobe_multi; };",
            False,
        ),
        (
            "struct perf { long addr; unsigned long missed; }; struct multi { int count; unsigned long missed; };"
            "struct bpf_link_info { int id; struct perf perf_event; struct multi kprobe_multi; };",
            True,
        ),
    ],
)
def test_whether_refused_hits_are_counted(info, counted):
    """Only a kernel that has both members of the series counts what a kprobe's program is refused."""
    assert module.counts_refused(FakeKernel(info + "int f(int a);")) == counted


@pytest.mark.parametrize(("release", "counted"), [("6.1", False), ("6.12", True)])
def test_whether_the_labs_kernels_count_refused_hits(release, counted):
    """On the types of real kernels, as tests in the guest find them to behave."""
    kernel = SnapshotKernel.load(Path(__file__).parents[2] / "data" / "kernels" / f"{release}.snapshot")
    assert module.counts_refused(kernel) == counted
