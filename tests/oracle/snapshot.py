#!/usr/bin/env python3
"""All of a guest's kernel in one file, with the modules that the oracle's traffic needs, to analyse it elsewhere.

klasy lab -- .venv/bin/python tests/oracle/snapshot.py > kernel-6.1.snapshot
"""

from __future__ import annotations

import subprocess
import sys

from klasy.kernel.live import LiveKernel
from klasy.kernel.snapshot import take

MODULES = ("ext4", "loop", "sch_netem", "inet_diag", "tcp_diag")


def _btf(name: str) -> bytes:
    try:
        with open(f"/sys/kernel/btf/{name}", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def main() -> None:
    """Write the snapshot to standard output."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    sys.stdout.buffer.write(
        take(LiveKernel(use_cache=False), b"", None, _btf, preset=0)
    )  # a guest takes minutes for the usual one


if __name__ == "__main__":
    main()
