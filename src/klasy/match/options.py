"""What the choice of mechanisms depends on besides the kernel model."""

from __future__ import annotations

from klasy.plain import dataclass

LEAST_TRAMPOLINE_REGISTERS = 6  # all kernels have BPF trampolines save as many argument registers


@dataclass(frozen=True, slots=True)
class Features:
    """What the running kernel's BPF can do; found by trying, by the weaver."""

    fentry: bool = True
    kprobe_multi: bool = False
    max_trampoline_arg_registers: int = LEAST_TRAMPOLINE_REGISTERS
    error_injectable: frozenset[str] = frozenset()  # functions that may be kept from running, besides security hooks

    def trampoline_saves(self, registers: int) -> bool:
        """Whether a trampoline saves so many argument registers."""
        return registers <= self.max_trampoline_arg_registers


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """``force`` takes one way wherever it is possible: ``sites`` or ``dispatch`` for calls; for executions ``fentry``,
    ``kprobe`` (entry and return probes by kprobes) or ``body`` (kprobes behind the hooks at entries). Tests compare."""

    features: Features = Features()
    force: str | None = None
