"""On what a measurement was made: without it figures say nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from klasy import __version__

_TOOLS = {"bpftrace": "--version", "perf": "--version", "strace": "--version", "trace-cmd": "-v"}


def describe() -> dict[str, object]:
    """Kernel, processor, number of CPUs, whether it is a virtual machine, and the versions of the tools there are."""
    return {
        "klasy": __version__,
        "kernel": os.uname().release,
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in _cpuinfo("flags").split(),
        "tools": {tool: version for tool in _TOOLS if (version := _version(tool))},
    }


def _cpuinfo(wanted: str) -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == wanted:
                return value.strip()
    return ""


def _processor() -> str:
    name = _cpuinfo("model name") or "unknown processor"
    return f"{name}, virtual machine" if "hypervisor" in _cpuinfo("flags").split() else name


def _version(tool: str) -> str | None:
    if shutil.which(tool) is None:
        return None
    try:
        done = subprocess.run([tool, _TOOLS[tool]], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    return lines[0] if lines else None
