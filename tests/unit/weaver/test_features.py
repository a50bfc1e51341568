"""What the planner is told of the running kernel."""

from __future__ import annotations

from klasy.bpf import features
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


def test_trampolines_save_what_they_do_on_every_kernel():
    """The least number of argument registers is assumed."""
    assert RunningFeatures().max_trampoline_arg_registers == 6
