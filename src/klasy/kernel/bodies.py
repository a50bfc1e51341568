"""Places that only one way leads to, so that a kprobe there tells of it: above all where a function's own instructions
begin, behind its hook for tracing.

A kprobe at a function's entry is put there by ftrace, which walks over all its tens of thousands of hooks each time one
is added or taken away: 40 to 75 ms each on Linux 6.1 in an emulated guest. A kprobe on the instruction behind the hook
is a breakpoint (or, after a while, a jump) like any other, and takes a hundredth of that. The registers and the stack
are there what they are at the entry, as the hook leaves all as it was.

What must be sure is that the place is passed once by each execution, so that nothing else leads there. A loop around a
whole function may: its head is the same instruction. So whatever may jump there is looked for in live text:

- direct calls and jumps, in all text of the kernel and its modules, the function itself included;
- what the kernel makes a jump of as it runs (the targets of jump labels);
- where the kernel goes on after a fault (fixups of the exception table);
- jumps through a table: any jump through memory or a register in the function, since its targets are not known.
"""

from __future__ import annotations

from klasy.errors import SystemRefusal
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import branches, callsites
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.model import Clone, Way
from klasy.kernel.patchsites import PatchSites
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klasy.kernel.image import KernelImage
    from klasy.kernel.model import Function

_GROUP5 = 0xFF  # an opcode; 4 and 5 in its ModRM byte are jumps


def bodies(kernel: KernelImage, functions: Iterable[Function]) -> dict[int, int]:
    """The address of the first instruction behind the hook, by that of the entry, of the functions where it will do."""
    found: dict[int, int] = {}
    try:
        for function in functions:
            at = _behind_hook(kernel, function)
            if at is not None:
                found[function.address] = at
        others = jumped_to(kernel, set(found.values())) | _made_jumps(
            kernel, {f.module for f in functions if f.address in found}
        )
    except SystemRefusal:
        return {}  # some text cannot be read: a snapshot of a part of it
    return {entry: at for entry, at in found.items() if at not in others}


def only_from_before(kernel: KernelImage, places: Mapping[int, Function]) -> set[int]:
    """Those of some places in functions that nothing leads to but the instruction before, for sure."""
    open_to_all: dict[int, bool] = {}
    try:
        for function in places.values():
            if function.address not in open_to_all:
                code = kernel.text(function.address, function.size)
                open_to_all[function.address] = function.clone is Clone.COLD or _jumps_anywhere(code, 0)
        found = {address for address, function in places.items() if not open_to_all[function.address]}
        return found - _targets(kernel, found, {function.module for function in places.values()})
    except SystemRefusal:
        return set()


def _targets(kernel: KernelImage, places: set[int], modules: set[str | None]) -> set[int]:
    """Where jumps lead to: of some places in the text of ``modules`` those, and others. Raises SystemRefusal."""
    return {target for *_, target in kernel.branches_to(places)} | _made_jumps(kernel, modules)


def _made_jumps(kernel: KernelImage, modules: set[str | None]) -> set[int]:
    """Where the kernel itself may jump to in the text of the kernel proper and of ``modules``."""
    found: set[int] = set()
    for module in {None, *modules}:
        sites = PatchSites(kernel, module)
        found.update(sites.jumps.values(), sites.fixups)
    return found


def jumped_to(kernel: KernelImage, places: set[int]) -> set[int]:
    """Those of some places behind hooks that a branch in any text leads to. Raises SystemRefusal.

    What leads there from afar is known of all functions, for it takes a look at all text. A jump with a distance of 8
    bits is near by.
    """
    found = places.intersection(kernel.far_into_bodies()) if places else set()
    for place in places - found:
        holder = kernel.object_at(place)
        if holder is None:
            continue
        low = max(holder[1].base, place - branches.SHORT_REACH)
        window = kernel.text(low, min(holder[1].end, place + branches.SHORT_REACH) - low)
        if any(_is_jump(kernel, low + at, place) for at in branches.short_candidates(window, place - low)):
            found.add(place)
    return found


def _is_jump(kernel: KernelImage, opcode: int, target: int) -> bool:
    """Whether what looks like a jump to a place is an instruction of a function."""
    function = kernel.function_at(opcode)
    if function is None:
        return False
    start = function.address
    return bool(branches.confirm(kernel.text(start, function.size), 0, [(opcode - start, target - start)]))


def far_into_bodies(kernel: KernelImage) -> set[int]:
    """Where branches with a 32-bit distance lead to behind the hooks of functions. Raises SystemRefusal.

    All places are looked at where a hook could end, be there one or not.
    """
    wanted: set[int] = set()
    for start, _, module in kernel.objects:
        for behind in (arch.FENTRY_CALL_BYTES, arch.ENTRY_BYTES):
            wanted.update(map((start + behind).__add__, kernel.symbols[module].starts))
    targets, found = frozenset(wanted), set()
    for start, _, module in kernel.objects:
        code = kernel.object_text(module)
        places = sorted({(at, target - start) for at, target in branches.far_candidates(code, targets, start)})
        found.update([target for *_, target in callsites.confirmed(kernel, module, code, places)])
    return found


def _behind_hook(kernel: KernelImage, function: Function) -> int | None:
    """The first instruction behind a function's hook, if it can be probed and no jump of unknown target is there."""
    if function.clone is Clone.COLD or not kernel.has_hook(function):
        return None
    code = kernel.text(function.address, function.size)
    hook = arch.ftrace_offset(code)
    if hook is None:
        return None
    behind = hook[0] + arch.FENTRY_CALL_BYTES
    if behind >= len(code) or kernel.refusal(function.address + behind, function, Way.KPROBE) is not None:
        return None
    return None if _jumps_anywhere(code, behind) else function.address + behind


def _jumps_anywhere(code: bytes, start: int) -> bool:
    """Whether a jump through a register or memory is in the code of a function from ``start`` on."""
    at, known = code.find(_GROUP5, start), start  # an instruction begins there
    while 0 <= at < len(code) - 1:
        if code[at + 1] >> 3 & 7 in (4, 5):
            known = insn.boundary(code, known, at)
            if known == at or insn.only_prefixes(code, known, at):
                return True
        at = code.find(_GROUP5, at + 1)
    return False
