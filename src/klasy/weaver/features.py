"""What the planner wants to know of the running kernel, found by trying, and only when it asks."""

from __future__ import annotations

from klasy.match.options import Features
from klasy.plain import cached_property

JIT_ENABLED = "/proc/sys/net/core/bpf_jit_enable"


class RunningFeatures(Features):
    """Answers of the running kernel. Each attempt costs milliseconds, and most aspects never ask.

    How many argument registers a trampoline saves is not tried: the least that any kernel does is assumed, and a
    kprobe reaches the functions that need more.
    """

    __slots__ = ("__dict__",)  # for the cached properties

    def __init__(self) -> None:
        """Not the base's, which would set the fields that are computed here."""
        object.__setattr__(self, "max_trampoline_arg_registers", Features().max_trampoline_arg_registers)

    @cached_property
    def fentry(self) -> bool:
        """Whether there are BPF trampolines, as far as a look tells: they need compiled programs."""
        try:
            with open(JIT_ENABLED, encoding="ascii") as file:
                return file.read().strip() != "0"
        except OSError:
            return True

    @cached_property
    def kprobe_multi(self) -> bool:
        """Whether one link can hold kprobes on many functions."""
        from klasy.bpf.features import kprobe_multi

        return bool(kprobe_multi())
