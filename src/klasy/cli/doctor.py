"""``klasy doctor``: what this kernel can do, what is missing, and the exact remedy."""

from __future__ import annotations

import os
import sys

from klasy.bpf.features import NO, UNKNOWN, WIDE, YES, Feature, probe_all
from klasy.cli.table import coloured
from klasy.errors import EXIT_OK, EXIT_SYSTEM, KlasyError, SystemRefusal
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.cli.options import Arguments, Parser
    from klasy.kernel.live import LiveKernel

HELP = "Say what this kernel can do for klasy, what is missing, and how to get it."
EXAMPLE = "  klasy doctor\n  klasy doctor --json | jq '.features[] | select(.state != \"yes\")'"

# What klasy cannot do without; everything else only narrows the choice of mechanisms.
NEEDED = frozenset(
    {
        "rights",
        "lockdown",
        "btf",
        "kernel symbols",
        "kernel text",
        "kprobe",
        "perf event links",
        "ring buffer",
        "bpf file system",
        "tracefs",
    }
)
_BLACKLIST = "/sys/kernel/debug/kprobes/blacklist"
_MARKS = {"yes": "ok", "no": "missing", "unknown": "not known"}


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: Arguments) -> int:
    """Probe, print; 3 where something that klasy needs is missing."""
    from klasy.kernel.live import LiveKernel

    kernel = LiveKernel(use_cache=False)  # what was kept tells nothing of what can be read now
    registers = _debug_registers(kernel)  # tells more of them than the attempt does
    tried = [feature for feature in probe_all(*_harmless_functions()) if feature.name != registers.name]
    features = [*tried, *_sources(kernel), _debug_information(), registers]
    lacking = [feature for feature in features if feature.state == NO and feature.name in NEEDED]
    if args.json:
        import json

        document = {
            "kernel": os.uname().release,
            "ok": not lacking,
            "features": [feature._asdict() | {"needed": feature.name in NEEDED} for feature in features],
        }
        print(json.dumps(document, indent=2))
    else:
        _print(features, lacking)
    return EXIT_SYSTEM if lacking else EXIT_OK


def _harmless_functions() -> tuple[int | None, int | None]:
    """The BTF ids of the functions that trampolines are tried on; None where there is none, or no types to be read."""
    from klasy.btf.btf import Btf

    try:
        with open("/sys/kernel/btf/vmlinux", "rb") as file:
            btf = Btf(file.read())
    except (OSError, KlasyError):
        return None, None
    return btf.find_func("bpf_fentry_test1"), btf.find_func(WIDE)


def _sources(kernel: LiveKernel) -> list[Feature]:
    """What klasy reads of the kernel before it weaves: symbols, text, and which functions refuse probes."""
    try:
        functions = kernel.functions("vfs_read")
        symbols = Feature("kernel symbols", YES, "/proc/kallsyms")
    except SystemRefusal as refusal:
        functions = []
        symbols = Feature("kernel symbols", NO, refusal.message, refusal.hint or "")
    try:
        for function in functions:
            kernel.text(function.address, 1)
        text = Feature("kernel text", YES if functions else UNKNOWN, "/proc/kcore" if functions else "")
    except SystemRefusal as refusal:
        text = Feature("kernel text", NO, refusal.message, refusal.hint or "a kernel with CONFIG_PROC_KCORE")
    if os.access(_BLACKLIST, os.R_OK):
        blacklist = Feature("kprobes blacklist", YES, _BLACKLIST)
    else:
        remedy = "mount -t debugfs debugfs /sys/kernel/debug" if os.geteuid() == 0 else "run as root"
        blacklist = Feature("kprobes blacklist", NO, "functions that refuse probes are found by trying", remedy)
    return [symbols, text, blacklist]


def _debug_information() -> Feature:
    """What tells of source files and lines."""
    from klasy.kernel.live import LiveKernel

    name = "debug information"
    try:
        return Feature(name, YES, LiveKernel().debug_info.of(None).elf.path)
    except SystemRefusal as refusal:
        return Feature(
            name, NO, refusal.message, f"{refusal.hint} (needed for source files, lines and inlined functions alone)"
        )


def _debug_registers(kernel: LiveKernel) -> Feature:
    """What watches data: how many debug registers are free on each CPU, and who holds the others."""
    from klasy.match.datum import REGISTERS
    from klasy.weaver import watch
    from klasy.weaver.pinfs import PinFS

    name = "debug registers"
    try:
        found = kernel.functions("vfs_read")
        if not found:
            return Feature(name, UNKNOWN, "no address to try them on")
        free = min(watch.free_registers(found[0].address & ~7, cpu) for cpu in watch.online_cpus())
        detail = f"{free} of {REGISTERS} free on every CPU"
        if free < REGISTERS:
            detail += f": {watch.held_by(PinFS())}"
    except (SystemRefusal, OSError) as refusal:
        return Feature(name, NO, str(refusal), "data cannot be watched; all else can")
    return Feature(name, YES if free else NO, detail, "" if free else "take out an aspect that watches data")


def _print(features: list[Feature], lacking: list[Feature]) -> None:
    width = max(len(feature.name) for feature in features)
    colours = {"yes": "\x1b[32m", "no": "\x1b[31m", "unknown": "\x1b[33m"} if coloured(sys.stdout) else {}
    print(f"kernel {os.uname().release}")
    for feature in features:
        end = "\x1b[0m" if colours else ""
        mark = f"{colours.get(feature.state, '')}{_MARKS[feature.state]:9}{end}"
        print(f"  {feature.name:{width}}  {mark}  {feature.detail}".rstrip())
        if feature.remedy and feature.state != "yes":
            print(f"  {'':{width}}  {'':9}  remedy: {feature.remedy}")
    if lacking:
        print(f"klasy cannot weave here: {', '.join(feature.name for feature in lacking)} missing")
    else:
        print("klasy can weave here")
