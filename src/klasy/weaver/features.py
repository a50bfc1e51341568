"""What the planner wants to know of the running kernel, found by trying, and only when it asks."""

from __future__ import annotations

from klasy.errors import KernelLacks
from klasy.kernel.proc import JIT_ENABLED
from klasy.match.options import LEAST_TRAMPOLINE_REGISTERS, Features
from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.kernel.model import Kernel

ERROR_INJECTION = "/sys/kernel/debug/error_injection/list"


def counts_refused(kernel: Kernel) -> bool:
    """Whether a kernel counts the hits for which it does not run a kprobe's program: see counts.py.

    That came with Linux 6.7 (dd8657894c11 "bpf: Count missed stats in trace_call_bpf"), and no type shows it. But the
    series it came in put a member ``missed`` into two places of ``struct bpf_link_info``, one of which the stable
    kernels of 6.6 have taken over without the counting (3acf8ace6823 "bpf: Add missed value to kprobe perf link
    info", since 6.6.59), the other not (e2b2cd592adb "bpf: Add missed value to kprobe_multi link info").
    """
    try:
        return _members_named(kernel.btf, "bpf_link_info", "missed") >= 2
    except KernelLacks:
        return False  # without types nothing is woven


def _members_named(btf: Btf, struct: str, name: str) -> int:
    """How many members of that name a struct has at any depth, named structs and unions included."""
    from klasy.btf.types import Struct

    count = 0
    todo = btf.find(struct, Struct)
    while todo:
        found = btf.resolved(todo.pop())
        if isinstance(found, Struct):
            count += sum(member.name == name for member in found.members)
            todo += [member.type_id for member in found.members]
    return count


class RunningFeatures(Features):
    """Answers of the running kernel. Each attempt costs milliseconds, and most aspects never ask."""

    __slots__ = ("__dict__",)  # for the cached properties

    def __init__(self) -> None:
        """Not the base's, which would set the fields that are computed here."""

    @cached_property
    def max_trampoline_arg_registers(self) -> int:
        """As many as were tried: 12, or the least that any kernel saves (also where there is nothing to try it on)."""
        from klasy.bpf import features
        from klasy.kernel.live import running_kernel

        wide = features.wide_trampolines(running_kernel().btf.find_func(features.WIDE))
        return features.MOST_TRAMPOLINE_REGISTERS if wide else LEAST_TRAMPOLINE_REGISTERS

    def trampoline_saves(self, registers: int) -> bool:
        """Whether a trampoline saves so many argument registers: asked of the kernel where not all kernels do."""
        return registers <= LEAST_TRAMPOLINE_REGISTERS or registers <= self.max_trampoline_arg_registers

    @cached_property
    def fentry(self) -> bool:
        """Whether there are BPF trampolines, as far as a look tells: they need compiled programs."""
        try:
            with open(JIT_ENABLED, encoding="utf-8") as file:
                return file.read().strip() != "0"
        except OSError:
            return True

    @cached_property
    def error_injectable(self) -> frozenset[str]:
        """Functions marked by ALLOW_ERROR_INJECTION that return an error number; none where that is not built in."""
        try:
            with open(ERROR_INJECTION, encoding="utf-8", errors="replace") as file:
                rows = [line.split() for line in file]
        except OSError:
            return frozenset()
        return frozenset(row[0] for row in rows if row and row[-1] == "ERRNO")

    @cached_property
    def kprobe_multi(self) -> bool:
        """Whether one link can hold kprobes on many functions."""
        from klasy.bpf.features import knows_kprobe_multi, kprobe_multi

        return knows_kprobe_multi() or bool(kprobe_multi())
