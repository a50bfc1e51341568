"""The index of typed accesses: filled function by function as members are asked for, and kept for each build.

What was found in an object's text (the kernel proper's or a module's) belongs to its build and is cached by its build
id. A question about members looks only at functions that can hold such an access: their code has a displacement that
leads to the member (``candidates``), and what they are given and call leads to such objects (``reach``). Those that
were not looked at before are analysed, by as many processes as there are CPUs.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from functools import cached_property, partial
from itertools import pairwise

from klasy.flow import answers, candidates, cfg, engine, reach, sites
from klasy.flow import decode as d
from klasy.kernel import caches
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.access_x86_64 import READ, WRITE
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from klasy.flow.answers import Answer
    from klasy.flow.reach import Reach
    from klasy.flow.rows import Row
    from klasy.flow.sites import Member, Sites
    from klasy.kernel.image import KernelImage

    Progress = Callable[[int, int], None]  # functions done, of how many
    Where = Callable[[str | None, int], bool]  # whether a function is of interest: its module and address

_COLUMNS = "IIiiHHI"  # at, type, offset, shift, width, how, reason
_AT, _TYPE, _OFFSET, _SHIFT, _WIDTH, _HOW, _REASON = range(7)
_HEAD = struct.Struct("<3I")  # rows, units, bytes of reasons
_WIDEST = 0xFFFF
_FEW = 64  # functions that are looked at without a search for those that are worth it


class ObjectIndex:
    """What was found in one object. ``done``: the units looked at, by their offsets in the text."""

    def __init__(self) -> None:
        self.columns = [array(code) for code in _COLUMNS]
        self.done: set[int] = set()
        self.reasons: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self._by_type: dict[int, list[int]] | None = None

    def add(self, unit: int, rows: Iterable[Row]) -> None:
        """Add what was found in a unit."""
        self.done.add(unit)
        self._by_type = None
        for row in rows:
            number = self._numbers.get(row.reason)
            if number is None:
                number = self._numbers[row.reason] = len(self.reasons)
                self.reasons.append(row.reason)
            how = row.rw | row.register << 2 | row.percpu << 7 | row.moves << 8 | row.confidence << 9
            packed = (row.at, row.type_id, row.offset, row.shift, min(row.width, _WIDEST), how, number)
            for column, item in zip(self.columns, packed, strict=True):
                fits = -(1 << 31) <= item < 1 << (31 if column.typecode == "i" else 32)
                column.append(item if fits else 0)

    def merge(self, other: ObjectIndex) -> None:
        """Add what another process found."""
        self._by_type = None
        self.done |= other.done
        numbers = []
        for reason in other.reasons:
            number = self._numbers.get(reason)
            if number is None:
                number = self._numbers[reason] = len(self.reasons)
                self.reasons.append(reason)
            numbers.append(number)
        for mine, theirs in zip(self.columns[:_REASON], other.columns, strict=False):
            mine.extend(theirs)
        self.columns[_REASON].extend([numbers[i] for i in other.columns[_REASON]])

    def dump(self) -> bytes:
        """All of it, for ``load``."""
        reasons = "\n".join(self.reasons).encode()
        units = array("I", sorted(self.done))
        head = _HEAD.pack(len(self.columns[0]), len(units), len(reasons))
        return b"".join((head, units.tobytes(), *(column.tobytes() for column in self.columns), reasons))

    @classmethod
    def load(cls, data: memoryview) -> ObjectIndex:
        """What ``dump`` gave. Raises ValueError for anything else."""
        if len(data) < _HEAD.size:
            raise ValueError("too short")
        count, units, length = _HEAD.unpack_from(data)
        found = cls()
        widths = [4 * units] + [column.itemsize * count for column in found.columns] + [length]
        ends = [_HEAD.size]
        for width in widths:
            ends.append(ends[-1] + width)
        if len(data) != ends[-1]:
            raise ValueError("lengths do not agree")
        spans = list(pairwise(ends))
        found.done = set(data[slice(*spans[0])].cast("I") if units else ())
        for column, span in zip(found.columns, spans[1:-1], strict=True):
            column.frombytes(data[slice(*span)])
        found.reasons = str(data[slice(*spans[-1])], "utf-8").split("\n")
        found._numbers = {reason: number for number, reason in enumerate(found.reasons)}
        return found

    @property
    def by_type(self) -> dict[int, list[int]]:
        """The rows of each type; 0: of those whose type is unknown."""
        if self._by_type is None:
            self._by_type = {}
            for row, type_id in enumerate(self.columns[_TYPE]):
                self._by_type.setdefault(type_id, []).append(row)
        return self._by_type


class _Places:
    """Which of some members of one struct lie where: each is found by the bytes that an access touches."""

    def __init__(self, members: Sequence[Member], numbers: Sequence[int]) -> None:
        self._members = [(number, members[number]) for number in numbers]
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}

    def at(self, offset: int, width: int) -> tuple[int, ...]:
        """The members that an access of some bytes at an offset of the struct covers."""
        found = self._known.get((offset, width))
        if found is None:
            hit = [number for number, member in self._members if sites.covers(member, offset, width, -1)]
            found = self._known[offset, width] = tuple(hit)
        return found


class Index:
    """The index of a kernel. ``use_cache`` False neither reads nor writes what is kept; ``debug_info`` False does
    without debug information, even if it is installed."""

    def __init__(
        self, kernel: KernelImage, *, use_cache: bool = True, processes: int | None = None, debug_info: bool = True
    ) -> None:
        self.kernel = kernel
        self._use_cache = use_cache
        self._debug_info = debug_info
        self._processes = processes
        self._objects: dict[str | None, ObjectIndex] = {}
        self._engine: engine.Engine | None = None

    @property
    def engine(self) -> engine.Engine:
        """What analyses; made when first needed."""
        if self._engine is None:
            told = self._debug_info and any(self.kernel.debug_of(module) for module in self.kernel.symbols)
            self._engine = engine.Engine(self.kernel, debug_info=told)
        return self._engine

    # --- what is kept

    def _cache_name(self, module: str | None) -> str:
        """What an object's index is kept under: another name where debug information tells more of it."""
        told = self._debug_info and self.kernel.debug_of(module) is not None
        return f"{self._build(module)}-debug" if told else self._build(module)

    def _build(self, module: str | None) -> str:
        """The builds that an object's index is of. A module's type ids go on where the kernel's end: both builds count.

        A snapshot may hold a part of the text only, of which nothing must be taken for the whole: its text names it.
        """
        found: Callable[[str], str | None] | None = getattr(self.kernel, "module_id", None)
        if found is None:
            build = f"{zlib.crc32(self.kernel.object_text(module)):08x}"
            return f"flow-{self.kernel.build_id[:16]}-{module or 'kernel'}-{build}"
        if module is None:
            return f"flow-{self.kernel.build_id}"
        build_id = found(module) or f"{zlib.crc32(self.kernel.object_text(module)):08x}"  # linked without --build-id
        return f"flow-{self.kernel.build_id[:16]}-{build_id}"

    def object(self, module: str | None) -> ObjectIndex:
        """What is known so far of the kernel proper or of a module."""
        found = self._objects.get(module)
        if found is None:
            name = self._cache_name(module) if self._use_cache else None
            data = caches.load(name, answers.VERSION) if name else None
            try:
                found = ObjectIndex.load(data) if data else ObjectIndex()
            except ValueError:
                found = ObjectIndex()
            self._objects[module] = found
        return found

    def _keep(self, module: str | None) -> None:
        name = self._cache_name(module) if self._use_cache else None
        if name:
            caches.store(name, answers.VERSION, self._objects[module].dump())

    # --- filling

    def fill(
        self, wanted: dict[str | None, Sequence[int]], progress: Progress | None = None, within: Reach | None = None
    ) -> None:
        """Analyse functions, given by index in each object's symbols, that were not looked at before; ``within``: but
        those that it says can have no such object."""
        from klasy.flow import workers

        todo: list[tuple[str | None, int]] = []
        for module, indices in wanted.items():
            done, starts = self.object(module).done, self.kernel.symbols[module].starts
            todo += [(module, index) for index in indices if starts[index] not in done]
        if not todo:
            return
        if progress:
            progress(0, len(todo))
        if self.engine.debug is not None:
            self.engine.debug.prepare({module for module, _ in todo})
        self._find_callers(todo)
        if within is not None:
            within.prepare()
        changed: set[str | None] = set()
        try:
            for module, part in workers.run(partial(self._analyse, within), todo, self._processes, progress):
                self.object(module).merge(ObjectIndex.load(memoryview(part)))
                changed.add(module)
        finally:  # whoever loses patience goes on from there the next time
            for module in changed:
                self._keep(module)

    def _find_callers(self, todo: Sequence[tuple[str | None, int]]) -> None:
        """Find who calls the functions without prototypes, and whoever calls those."""
        by_module: dict[str | None, list[int]] = {}
        for module, index in todo:
            by_module.setdefault(module, []).append(index)
        for module, first in by_module.items():
            indices = first
            base = self.kernel.symbols[module].base
            starts = self.kernel.symbols[module].starts
            for _ in range(2):
                bare = [
                    index
                    for index in indices
                    if base + starts[index] not in self.engine.callers and not self.engine.has_prototype(module, index)
                ]
                if not bare:
                    break
                found = engine.find_callers(self.engine, module, bare)
                self.engine.callers.update({base + starts[index]: [] for index in bare} | dict(found))
                indices = sorted({caller for callers in found.values() for caller in callers})

    def _analyse(self, within: Reach | None, todo: Sequence[tuple[str | None, int]]) -> list[tuple[str | None, bytes]]:
        parts: dict[str | None, ObjectIndex] = {}
        for module, index in todo:
            part = parts.setdefault(module, ObjectIndex())
            unit = cfg.Unit(self.engine.text(module), index)
            if within is None or within.may(module, unit):
                part.add(unit.start, self.engine.rows(unit))
        return [(module, part.dump()) for module, part in parts.items()]

    # --- asking

    def accesses(
        self,
        members: Sequence[Member],
        progress: Progress | None = None,
        *,
        whole: bool = False,
        where: Where | None = None,
    ) -> Sites:
        """The instructions that access some members. ``whole``: look at all functions, not only likely ones;
        ``where``: only at those of which it is true."""
        answer = answers.load(self.kernel, self._builds, members, whole) if self._use_cache else None
        if answer is None:
            answer = self._answer(members, progress, whole, where)
            if self._use_cache and where is None:
                answers.store(self.kernel, self._builds, members, whole, answer)
        return answers.sites_of(self.kernel, members, answer, where)

    @cached_property
    def _builds(self) -> dict[str | None, str]:
        """What each object's index is kept under."""
        return {module: self._cache_name(module) for module in self.kernel.symbols}

    def _answer(self, members: Sequence[Member], progress: Progress | None, whole: bool, where: Where | None) -> Answer:
        looked_at: dict[str | None, Sequence[int]] = {}
        sought: dict[str | None, dict[int, int]] = {}
        total = 0
        for module in self.kernel.symbols:
            units: Sequence[int] = self.engine.text(module).units()
            total += len(units)
            if where is not None:
                symbols = self.kernel.symbols[module]
                units = [index for index in units if where(module, symbols.base + symbols.starts[index])]
            few = where is not None and len(units) <= _FEW
            if not whole and not few and (wanted := candidates.sought(self.engine, module, members)) is not None:
                sought[module] = wanted
                units = candidates.units(self.engine, module, units, members, wanted)
            looked_at[module] = units
        self.fill(looked_at, progress, None if whole else reach.Reach(self.engine, members, sought))
        answer = answers.Answer(sum(map(len, looked_at.values())), total)
        for module in self.kernel.symbols:
            self._select(module, members, answer)
        return answer

    def _select(self, module: str | None, members: Sequence[Member], answer: Answer) -> None:
        """Of what is known of an object, add the accesses of some members."""
        part = self.object(module)
        types = self.engine.seeds.types_of(module)
        offsets, widths = part.columns[_OFFSET], part.columns[_WIDTH]
        by_struct: dict[int, list[int]] = {}
        for number, member in enumerate(members):
            if member.module is None or member.module == module:
                by_struct.setdefault(member.struct, []).append(number)
        tables = {struct: _Places(members, numbers) for struct, numbers in by_struct.items()}
        wanted: dict[int, list[tuple[int, int]]] = {}  # row -> members, and where their struct lies in the type
        for type_id, rows in part.by_type.items():
            for wanted_struct, table in tables.items() if type_id else ():
                for place in types.embedded(type_id, wanted_struct):
                    for row in rows:
                        found = table.at(offsets[row] - place, widths[row])
                        if found:
                            wanted.setdefault(row, []).extend([(number, place) for number in found])
        text = self.engine.text(module)
        for row, pairs in wanted.items():
            at, type_id, offset, shift, width, how, reason = (column[row] for column in part.columns)
            length = insn.length(text.code, at)
            if length is None:
                continue
            code = text.code[at : at + length]
            touched = sites.touched_bits(code, d.decode(code))
            covered = [pair for pair in pairs if sites.covers(members[pair[0]], offset - pair[1], width, touched)]
            if covered:
                place = covered[0][1]
                numbers = sorted({number for number, _ in covered})
                answer.rows.append(
                    answers.Found(
                        module, at, length, shift - place, width, how, part.reasons[reason], numbers,
                        types.name(type_id), offset,
                    )
                )  # fmt: skip
        known = {found.at for found in answer.rows if found.module == module}
        starts = part.columns[_AT]
        unknown = {
            starts[row]: part.columns[_HOW][row] & (READ | WRITE)
            for row in part.by_type.get(0, ())
            if any(table.at(offsets[row], widths[row]) for table in tables.values())
        }
        # One that copies from one such object to another may be known of one of the two.
        answer.unknown += [(module, at, how) for at, how in unknown.items() if at not in known]
