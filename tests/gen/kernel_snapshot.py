"""Takes the snapshots of the lab's kernels that the tests use: tests/data/kernels/RELEASE-OF-THE-LAB.snapshot.

    .venv/bin/klasy lab --kernel 6.1 -- .venv/bin/python tests/gen/kernel_snapshot.py > tests/data/kernels/6.1.snapshot

They hold all symbols and types of the kernel and of a few modules, and the text of the functions that the tests ask
about and of all that call a few of them. ``--all`` keeps all text, and compresses little: it is quicker, and not kept.
"""

from __future__ import annotations

import subprocess
import sys

from klasy.kernel.live import LiveKernel
from klasy.kernel.snapshot import take
from klasy.weaver.features import RunningFeatures

MODULES = ("tun", "br_netfilter")
CALLEES = ("skb_dequeue", "consume_skb", "ip_rcv", "ip_output", "putname")
PATTERNS = (
    "tcp_*",
    "ip_*",
    "skb_*",
    "__skb_*",
    "kfree*",
    "__kfree*",
    "vfs_*",
    "sched*",
    "__sched*",
    "start_creating*",
    "tun_*",
    "br_nf_*",
)


def wanted_symbol(line: bytes) -> bool:
    """Whether a line of the listing is kept: variables that are global, and what belongs to the modules."""
    fields = line.split()
    if len(fields) > 3:
        return fields[3][1:-1].decode() in MODULES
    return fields[1] in b"DBRVA" or fields[2].startswith(b"__tracepoint_") or fields[2] == b"start_kernel"


def main() -> None:
    """Write the snapshot to standard output."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    kernel = LiveKernel(use_cache=False)
    kernel.trampoline_registers = RunningFeatures().max_trampoline_arg_registers
    loaded = set(kernel.modules())
    for module in loaded - set(MODULES):
        del kernel._module_bases[module]
    functions = None
    if "--all" not in sys.argv:
        functions = [function for pattern in PATTERNS for function in kernel.functions(pattern)]
        callees = [function for name in CALLEES for function in kernel.functions(name)]
        functions += callees + [site.caller for site in kernel.callers(callees)]
    listing = b"".join(line + b"\n" for line in kernel.listing.splitlines() if wanted_symbol(line))

    def btf(name: str) -> bytes:
        try:
            with open(f"/sys/kernel/btf/{name}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    sys.stdout.buffer.write(take(kernel, listing, functions, btf, preset=6 if functions is not None else 0))


if __name__ == "__main__":
    main()
