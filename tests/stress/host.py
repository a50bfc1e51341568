"""What is slow in a guest and needs none is done on the host, for a snapshot of the very kernel that runs in the guest.

The guest's part of a run sends the snapshot through its standard output, and is told through its standard input where
that lies which was made for it. (A guest sees the host's files; nothing else comes back from it.)
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from klasy.btf.read import Blob
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.options import Features

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "stress"
_MARK = b"a snapshot of this kernel, bytes: "


def ask_host() -> str:
    """In the guest: have the host make what it makes; where that is."""
    words = [sys.executable, str(ROOT / "tests/gen/kernel_snapshot.py"), "--all"]
    data = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    out = sys.stdout.buffer
    out.write(_MARK + f"{len(data)}\n".encode() + data)
    out.flush()
    return sys.stdin.readline().strip()


def attend(command: Sequence[str | Path], make: Callable[[SnapshotKernel], Path]) -> int:
    """On the host: run a guest that may ask; its exit status."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        for line in guest.stdout:
            if line.startswith(_MARK):
                # Thousands of aspects ask for the same few hundred names, and each answer takes a look at all types.
                Blob.holders_of_word = lru_cache(None)(Blob.holders_of_word)  # type: ignore[method-assign]
                WORK.mkdir(parents=True, exist_ok=True)
                made = make(SnapshotKernel(guest.stdout.read(int(line[len(_MARK) :]))))
                guest.stdin.write(f"{made}\n".encode())
                guest.stdin.flush()
            else:
                sys.stdout.write(line.decode(errors="replace"))
                sys.stdout.flush()
    return guest.returncode


def features(kernel: SnapshotKernel) -> Features:
    """What the weaver would find by trying, in the guest (where it is asked again)."""
    multi = bool(kernel.functions("bpf_kprobe_multi_link_attach")) and bool(kernel.functions("register_fprobe_ips"))
    return Features(kprobe_multi=multi, max_trampoline_arg_registers=kernel.trampoline_registers)
