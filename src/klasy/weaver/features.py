"""What the planner wants to know of the running kernel, found by trying, and only when it asks."""

from __future__ import annotations

from functools import cached_property

from klasy.match.options import Features


class RunningFeatures(Features):
    """Answers of the running kernel. Each attempt costs milliseconds, and most aspects never ask."""

    __slots__ = ("__dict__",)  # for the cached properties

    @cached_property
    def kprobe_multi(self) -> bool:  # a field of the base, computed when first asked for
        """Whether one link can hold kprobes on many functions."""
        from klasy.bpf.features import kprobe_multi

        return bool(kprobe_multi())
