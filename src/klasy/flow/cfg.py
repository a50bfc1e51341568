"""Functions as basic blocks: which instructions follow which.

A function here is a *unit*: its own text and the unlikely pieces (``.cold``) that it jumps to, which have no entry of
their own. Jump labels, which the kernel rewrites as it runs, count as going both ways. Indirect jumps end a unit: the
kernels klasy knows are built without jump tables (retpolines forbid them); the few there are lie in assembly.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate

from klasy.errors import SystemRefusal
from klasy.flow import decode as d
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.callsites import RETURN_THUNKS
from klasy.kernel.kallsyms import clone_of
from klasy.kernel.model import Clone
from klasy.kernel.patchsites import PatchSites
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.flow.decode import Op
    from klasy.kernel.image import KernelImage

# Functions that never return; the compiler lets nothing follow a call of them.
NO_RETURN = frozenset(
    (
        *("__stack_chk_fail", "panic", "vpanic", "nmi_panic", "fortify_panic", "__fortify_panic", "usercopy_abort"),
        *("do_exit", "do_group_exit", "make_task_dead", "rewind_stack_and_make_dead", "kthread_exit"),
        *("kthread_complete_and_exit", "__module_put_and_kthread_exit", "__invalid_creds", "machine_real_restart"),
        *("stop_this_cpu", "cpu_startup_entry", "start_secondary", "cpu_bringup_and_idle", "arch_cpu_idle_dead"),
        *("hlt_play_dead", "play_dead", "native_play_dead", "snp_abort", "sev_es_terminate"),
    )
)

_BY_DISTANCE = frozenset((d.CALL, d.JUMP, d.BRANCH))

# Bytes of a function. The kernel's largest has 15 kB; a return thunk's symbol may have a megabyte of padding behind it.
_LARGEST = 1 << 18


class Text:
    """The text of the kernel proper or of a module, and what must be known to follow its jumps.

    Offsets are from ``base``. ``labels`` maps the offset of a jump label to that of its target.
    """

    def __init__(self, kernel: KernelImage, module: str | None) -> None:
        symbols = kernel.symbols[module]
        self.kernel = kernel
        self.module = module
        self.base = symbols.base
        self.symbols = symbols
        self.code = kernel.object_text(module)
        self.starts = symbols.starts
        sites = PatchSites(kernel, module)
        self.labels = _labels(sites, self.base)
        self.bugs = _bugs(sites, self.base)

    def function_index(self, offset: int) -> int | None:
        """The function that holds an offset; of several names of one, the first."""
        return self.symbols.at(self.base + offset)

    def is_cold(self, index: int) -> bool:
        """Whether a function symbol is that of an unlikely piece."""
        return clone_of(self.symbols.name(index))[1] is Clone.COLD

    def units(self) -> list[int]:
        """The functions that are units, by index: one name of each address, no unlikely pieces, no padding."""
        found = []
        last = -1
        names = self.symbols.all_names()
        for index, start in enumerate(self.starts):
            if start != last and ".cold" not in names[index] and 0 < self.symbols.sizes[index] <= _LARGEST:
                found.append(index)
            last = start
        return found


def _labels(sites: PatchSites, base: int) -> dict[int, int]:
    """The offsets of the jump labels and of where they lead; where they cannot be read, none."""
    try:
        return {place - base: target - base for place, target in sites.jumps.items()}
    except SystemRefusal:
        return {}


def _bugs(sites: PatchSites, base: int) -> frozenset[int]:
    """The offsets of the ud2 instructions behind which nothing follows; where they cannot be read, none."""
    try:
        return frozenset([address - base for address in sites.bugs])
    except SystemRefusal:
        return frozenset()


class Block:
    """Instructions from ``first`` up to ``last`` (indices of the unit's lists), one after the other.

    ``next`` are the offsets of the blocks that may follow.
    """

    __slots__ = ("first", "last", "next", "start")

    def __init__(self, start: int, first: int, last: int) -> None:
        self.start = start
        self.first = first
        self.last = last
        self.next: list[int] = []


class Unit:
    """A function's instructions and blocks. ``at[i]`` and ``end[i]`` are offsets in the text, ``ops[i]`` what it does.

    ``leaves``: where calls and jumps lead that leave the piece that they stand in. ``order`` holds the reachable blocks
    so that, loops apart, a block stands behind those before it. Blocks are made when they are first asked for: of most
    functions that a question looks at, the instructions already tell that there is nothing to be found.
    """

    __slots__ = ("_blocks", "_order", "_pieces", "at", "end", "index", "leaves", "ops", "start", "text")

    def __init__(self, text: Text, index: int) -> None:
        self.text = text
        self.index = index
        self.start = text.starts[index]
        self.at: list[int] = []
        self.end: list[int] = []
        self.ops: list[Op] = []
        self.leaves: set[int] = set()
        self._pieces: list[int] = []  # where they begin
        self._blocks: dict[int, Block] | None = None
        self._order: list[Block] | None = None
        self._read(index)

    @property
    def blocks(self) -> dict[int, Block]:
        """The blocks, by their offsets."""
        if self._blocks is None:
            self._blocks = self._cut()
        return self._blocks

    @property
    def order(self) -> list[Block]:
        """The blocks that can be reached, in reverse postorder."""
        if self._order is None:
            self._order = self._reverse_postorder()
        return self._order

    def _read(self, index: int) -> None:
        text = self.text
        pieces = [index]
        at = 0
        while at < len(pieces):
            start = text.starts[pieces[at]]
            end = start + text.symbols.sizes[pieces[at]]
            at += 1
            for target in self._sweep(start, end):
                outside = text.function_index(target)
                if outside is not None and outside not in pieces and text.is_cold(outside):
                    pieces.append(outside)

    def _sweep(self, start: int, end: int) -> list[int]:
        """Decode a piece; where it jumps out of itself."""
        raws = insn.whole(self.text.code, start, end)
        known = d.known.get
        ops = [known(raw) or d.decode(raw) for raw in raws]
        ends = list(accumulate(map(len, raws), initial=start))
        self._pieces.append(start)
        self.ops += ops
        self.at += ends[:-1]
        del ends[0]
        self.end += ends
        outside: list[int] = []
        for behind, op in zip(ends, ops, strict=True):
            if op[0] in _BY_DISTANCE and not start <= (target := behind + op[5]) < end:
                self.leaves.add(target)
                if op[0] != d.CALL:
                    outside.append(target)
        return outside

    def _follow(self) -> tuple[set[int], dict[int, tuple[int, ...]]]:
        """Where blocks begin, and where those go that do not simply go on: by the index of their last instruction."""
        labels = self.text.labels
        leaders: set[int] = {self.start, *self._pieces}
        stops: dict[int, tuple[int, ...]] = {}
        for here, (place, behind, op) in enumerate(zip(self.at, self.end, self.ops, strict=True)):
            if op[0] >= d.FIRST_TRANSFER:
                self._transfer(op, here, leaders, stops)
            elif place in labels:
                leaders.update((labels[place], behind))
                stops[here] = (labels[place], behind)
        return leaders, stops

    def _transfer(self, op: Op, here: int, leaders: set[int], stops: dict[int, tuple[int, ...]]) -> None:
        """Note where a transfer of control goes."""
        kind, place, behind = op[0], self.at[here], self.end[here]
        if kind in (d.BRANCH, d.JUMP):
            target = behind + op[5]
            label = self.text.labels.get(place)
            goes = (target, behind) if kind == d.BRANCH or label is not None else (target,)
            leaders.update(goes)
            leaders.add(behind)
            stops[here] = goes
        elif kind == d.CALL:
            if self._never_returns(behind + op[5]):
                leaders.add(behind)
                stops[here] = ()
        elif kind in (d.RETURN, d.STOP, d.JUMP_INDIRECT) or (kind == d.TRAP and place in self.text.bugs):
            leaders.add(behind)
            stops[here] = ()

    def _never_returns(self, target: int) -> bool:
        return callee_name(self.text, target) in NO_RETURN

    def _cut(self) -> dict[int, Block]:
        """Cut the instructions into blocks."""
        leaders, stops = self._follow()
        blocks: dict[int, Block] = {}
        ats, ends = self.at, self.end
        count = len(ats)
        first = 0
        for here in range(count):
            following = ends[here]
            last = here + 1 == count or ats[here + 1] != following
            if here in stops or last or following in leaders:
                block = Block(ats[first], first, here + 1)
                if here in stops:
                    block.next = list(stops[here])
                elif not last:
                    block.next = [following]
                blocks[block.start] = block
                first = here + 1
        for block in blocks.values():
            block.next = [target for target in block.next if target in blocks]
        return blocks

    def _reverse_postorder(self) -> list[Block]:
        order: list[Block] = []
        blocks = self.blocks
        if self.start not in blocks:
            return order
        seen = {self.start}
        stack = [(blocks[self.start], 0)]
        while stack:
            block, branch = stack.pop()
            if branch < len(block.next):
                stack.append((block, branch + 1))
                target = block.next[branch]
                if target not in seen:
                    seen.add(target)
                    stack.append((blocks[target], 0))
            else:
                order.append(block)
        order.reverse()
        return order


_names: dict[tuple[int, int], str] = {}


def callee_name(text: Text, target: int) -> str:
    """The name of the function that begins at an offset, empty where none does."""
    key = text.base, target
    found = _names.get(key)
    if found is None:
        found = ""
        symbols, offset = text.symbols, target
        if not 0 <= target < len(text.code):
            holder = text.kernel.object_at(text.base + target)
            if holder is None:
                return _names.setdefault(key, "")
            symbols = holder[1]
            offset = text.base + target - symbols.base
        place = bisect_right(symbols.starts, offset) - 1
        if place >= 0 and symbols.starts[place] == offset:
            index = symbols.at(symbols.base + offset)
            found = symbols.name(index) if index is not None else ""
        _names[key] = found
    return found


_THUNK = re.compile(r"__x86_indirect_(?:call_|jump_)?(?:its_)?thunk_(r\w+)")
_LONG_NAMES = {f"r{name}": number for number, name in enumerate(d.REGISTERS[:8])} | {f"r{n}": n for n in range(8, 16)}


def thunk_register(name: str) -> int | None:
    """The register through which a retpoline thunk calls; None for another function."""
    found = _THUNK.match(name)
    return _LONG_NAMES.get(found[1]) if found else None


def is_return(name: str) -> bool:
    """Whether a function is what mitigations jump to in the place of a return."""
    return name in RETURN_THUNKS
