"""What the choice of mechanisms depends on besides the kernel model."""

from __future__ import annotations

from klasy.plain import dataclass


@dataclass(frozen=True, slots=True)
class Features:
    """What the running kernel's BPF can do; found by trying, by the weaver."""

    fentry: bool = True
    kprobe_multi: bool = False
    max_trampoline_arg_registers: int = 6


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """``force`` takes one way wherever it is possible: ``sites`` or ``dispatch`` for calls, ``fentry`` or ``kprobe``
    (entry and return probes by kprobes) for executions. Tests compare the ways."""

    features: Features = Features()
    force: str | None = None
