"""Small facts about the running kernel, from the files of /proc and /sys: nothing that takes a model of it."""

from __future__ import annotations

import os

from klasy.notes import gnu_build_id

JIT_ENABLED = "/proc/sys/net/core/bpf_jit_enable"
_AT_ONCE = 1 << 16


def contents(path: str) -> bytes:
    """All of a file of /proc or /sys, which do not tell their sizes; empty where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a weave reads some 20: open() asks more of the kernel
    except OSError:
        return b""
    parts = []
    try:
        while part := os.read(descriptor, _AT_ONCE):
            parts.append(part)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return b"".join(parts)


def module_bases(proc: str = "/proc") -> dict[str, int]:
    """Where each loaded module's text begins."""
    bases = {}
    for line in contents(f"{proc}/modules").decode().splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[4] == "Live":
            bases[fields[0]] = int(fields[5], 16)
    return bases


def module_id(module: str, sys: str = "/sys") -> str | None:
    """The build id of a loaded module, as hexadecimal digits; None where it has none."""
    return gnu_build_id(contents(f"{sys}/module/{module}/notes/.note.gnu.build-id"))


def circumstances(proc: str = "/proc", sys: str = "/sys") -> tuple[object, ...] | None:
    """What settles all that a model of the kernel says, but for what it reads of live memory.

    The boot (and with it the kernel, and where it lies), what is loaded of modules and where, and whether programs are
    compiled. None where something of it cannot be told.
    """
    boot = contents(f"{proc}/sys/kernel/random/boot_id")
    modules = tuple((name, base, module_id(name, sys)) for name, base in sorted(module_bases(proc).items()))
    if not boot or not all(base and build for _, base, build in modules):
        return None
    return boot, contents(f"{sys}/kernel/notes"), modules, contents(JIT_ENABLED)
