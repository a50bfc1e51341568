"""The calls in a kernel's text: which instructions call or jump to functions, and which such jumps are tail calls."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import branches
from klasy.kernel.function import KernelFunction
from klasy.kernel.model import CallKind, CallSite, Clone
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from klasy.kernel.branches import Branch
    from klasy.kernel.image import KernelImage
    from klasy.kernel.model import Function

    Reached = tuple[int, int, bool, int]  # a branch: address, length, whether it is a call, address it leads to

# Ways to return and to call through a pointer that the kernel's mitigations put into the place of the instructions
RETURN_THUNKS = frozenset(
    ("__x86_return_thunk", "retbleed_return_thunk", "srso_return_thunk", "srso_alias_return_thunk", "its_return_thunk")
)
_INDIRECT_THUNK = "__x86_indirect_"


def callers(kernel: KernelImage, callees: Iterable[Function]) -> list[CallSite]:
    """All DIRECT and TAIL sites that reach one of the functions' entries. By address."""
    wanted = _by_entry(callees)
    found: list[CallSite] = []
    reached = kernel.branches_to(wanted.keys())
    for start, end, module in kernel.objects if reached else ():
        low, high = bisect_left(reached, (start,)), bisect_left(reached, (end,))
        found += _sites(kernel, module, reached[low:high], wanted)
    return found


def callers_within(kernel: KernelImage, module: str | None, callees: Iterable[Function]) -> list[CallSite]:
    """Those of ``callers`` that lie in the text of one object."""
    wanted = _by_entry(callees)
    return list(_sites(kernel, module, _branches_within(kernel, module, wanted), wanted))


def _by_entry(callees: Iterable[Function]) -> dict[int, Function]:
    """What can be called, by address; of several names of one entry the first."""
    wanted: dict[int, Function] = {}
    for callee in callees:
        if callee.clone is not Clone.COLD:
            wanted.setdefault(callee.address, callee)
    return wanted


def branches_to(kernel: KernelImage, targets: Collection[int]) -> list[Reached]:
    """The calls and jumps in all text that lead to one of some addresses. By address."""
    found: list[Reached] = []
    for _, _, module in kernel.objects if targets else ():
        found += _branches_within(kernel, module, targets)
    return found


def _branches_within(kernel: KernelImage, module: str | None, targets: Iterable[int]) -> Iterator[Reached]:
    """Those in the text of one object."""
    base, code = kernel.symbols[module].base, kernel.object_text(module)
    return confirmed(kernel, module, code, branches.candidates(code, [address - base for address in targets]))


def confirmed(
    kernel: KernelImage, module: str | None, code: bytes, places: Sequence[tuple[int, int]]
) -> Iterator[Reached]:
    """Those candidates in the text of an object, ``code``, that are calls and jumps.

    They are given by place; places and targets as offsets.
    """
    symbols = kernel.symbols[module]
    start, starts, sizes = symbols.base, symbols.starts, symbols.sizes
    here: list[tuple[int, int]] = []
    entry, behind = None, 0
    for place in [*places, (len(code), 0)]:
        if place[0] >= behind:
            if here and entry is not None:
                for at, length, call, target in branches.confirm(code, entry, here):
                    if target is not None:
                        yield start + at, length, call, start + target
            here = []
            index = bisect_right(starts, place[0]) - 1
            entry, behind = None, place[0] + 1
            if index >= 0 and place[0] < starts[index] + sizes[index]:
                entry, behind = starts[index], starts[index] + sizes[index]
        here.append(place)


def _sites(
    kernel: KernelImage, module: str | None, reached: Iterable[Reached], wanted: Mapping[int, Function]
) -> Iterator[CallSite]:
    """The call sites that branches in the text of the kernel proper or of a module are."""
    symbols, made = kernel.symbols[module], kernel.made(module)
    starts, base = symbols.starts, symbols.base
    direct, tail = CallKind.DIRECT, CallKind.TAIL
    caller, behind = None, 0
    for address, length, call, target in reached:
        if address >= behind or caller is None:
            index = bisect_right(starts, address - base) - 1
            if index and starts[index - 1] == starts[index]:
                index = symbols.first_at(index)
            caller = made.get(index)
            if caller is None:
                caller = made[index] = KernelFunction(kernel, module, symbols, index)
            behind = caller.end
        callee = wanted[target]
        if call:
            yield CallSite(address, length, direct, caller, callee)
        elif _is_tail_call(caller, callee):
            yield CallSite(address, length, tail, caller, callee)


def calls_in(kernel: KernelImage, functions: Iterable[Function]) -> list[CallSite]:
    """All call sites, INDIRECT ones included, in the text of the functions. By address."""
    found: dict[int, CallSite] = {}
    for function in functions:
        code = kernel.text(function.address, function.size)
        traced = tracer_call(kernel, function.address, code)
        for branch in branches.calls(code, 0, len(code)):
            site = _any_site(kernel, branch, function) if branch.at != traced else None
            if site is not None:
                found.setdefault(site.address, site)
    return sorted(found.values(), key=lambda site: site.address)


def tracer_call(kernel: KernelImage, start: int, code: bytes) -> int | None:
    """The offset of the call that a tracer put at the beginning of a function, or None.

    Told from an ordinary first call by where it goes: to ftrace's entry, or out of all known text.
    """
    found = arch.ftrace_offset(code)
    if found is None or found[1] is None:
        return None
    target = kernel.function_at(start + found[1])
    return found[0] if target is None or target.name in arch.FTRACE_ENTRIES else None


def _any_site(kernel: KernelImage, branch: Branch, caller: Function) -> CallSite | None:
    """The call site that a branch in a function is, or None where it stays within one function of the source."""
    address = caller.address + branch.at
    if branch.target is None:
        return CallSite(address, branch.length, CallKind.INDIRECT, caller, None)
    target = caller.address + branch.target
    callee = kernel.function_at(target)
    if callee is None or callee.address != target:
        return None
    if callee.name.startswith(_INDIRECT_THUNK):
        if not branch.call:
            return None  # a tail call through a pointer: it returns to the caller's caller
        return CallSite(address, branch.length, CallKind.INDIRECT, caller, None)
    if branch.call:
        return CallSite(address, branch.length, CallKind.DIRECT, caller, callee)
    return CallSite(address, branch.length, CallKind.TAIL, caller, callee) if _is_tail_call(caller, callee) else None


def _is_tail_call(caller: Function, callee: Function) -> bool:
    """Whether a jump leaves the function of the source."""
    if callee.clone is Clone.COLD or callee.name in RETURN_THUNKS or callee.address == caller.address:
        return False  # to a piece without an entry, a return, a loop around the whole function
    # from a piece back to the function
    return not (caller.clone is Clone.COLD and (caller.base, caller.module) == (callee.base, callee.module))
