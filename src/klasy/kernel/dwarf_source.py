"""What debug information tells of one object of a kernel: the kernel proper, or a module.

The file is mapped, and of its hundreds of megabytes only what a question takes is read. Where the units of compilation
are, and of which files, is kept in ``caches``, by build id. Addresses are those of the running kernel: ``shift`` is how
far they are from where the file was linked to lie.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right

from klasy.dwarf import units as dw
from klasy.dwarf.elf import DwarfError
from klasy.dwarf.lines import Endings, LineTable
from klasy.dwarf.units import Unit, address_ranges, holder, unit_offsets
from klasy.kernel import caches
from klasy.kernel.model import Place
from klasy.plain import TYPE_CHECKING, NamedTuple, cached_property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from klasy.dwarf.elf import ElfFile

_VERSION = 1
_UNIT = struct.Struct("<QQI")
_RANGE = struct.Struct("<QQQ")
_NO_LINES = (1 << 64) - 1


class UnitFile(NamedTuple):
    """A unit of compilation: its place, that of its table of lines, and the file that was compiled.

    ``included``: other .c files whose text is part of it.
    """

    offset: int
    lines: int
    file: str
    included: tuple[str, ...] = ()


class ObjectDebug:
    """Debug information of one object. Questions raise DwarfError where the file is not as the format says."""

    def __init__(self, elf: ElfFile, shift: int, key: str = "") -> None:
        self.elf = elf
        self.shift = shift
        self.key = key
        self._read: dict[int, Unit] = {}
        self._by_row: dict[int, tuple[list[tuple[int, bool, int]], list[str]]] = {}
        self._tables: dict[int, tuple[LineTable, list[str]]] = {}

    # --- units

    @cached_property
    def _index(self) -> tuple[list[UnitFile], list[tuple[int, int, int]]]:
        kept = caches.load(f"units-{self.key}", _VERSION) if self.key else None
        if kept is not None:
            try:
                return _loaded(caches.unpack(kept))
            except (ValueError, KeyError, struct.error, IndexError):
                pass
        index = self._make_index()
        if self.key:
            caches.store(f"units-{self.key}", _VERSION, caches.pack(_dumped(*index)))
        return index

    def _make_index(self) -> tuple[list[UnitFile], list[tuple[int, int, int]]]:
        found = []
        endings = Endings(self.elf, ".c")
        for offset in unit_offsets(self.elf):
            unit = Unit(self.elf, offset)
            if unit.kind != 1:
                continue  # a unit of types, or of partial information
            top = unit.top
            name = unit.string(top, dw.NAME) or ""
            root = _root(unit.string(top, dw.COMP_DIR) or "")
            lines = top.number(dw.STMT_LIST)
            file = from_root(name, root)
            included: tuple[str, ...] = ()
            if lines is not None and (table := LineTable(self.elf, lines)).may_name(endings):
                named = {from_root(path, root) for path in table.files() if path[-2:] == ".c"}
                included = tuple(sorted(named - {file}))
            found.append(UnitFile(offset, _NO_LINES if lines is None else lines, file, included))
        return found, address_ranges(self.elf)

    @property
    def units(self) -> list[UnitFile]:
        """All units, by place."""
        return self._index[0]

    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """The text (start, end, as linked) with the place of its unit, by start."""
        return self._index[1]

    @cached_property
    def _offsets(self) -> list[int]:
        return [unit.offset for unit in self.units]

    def unit_at(self, address: int) -> UnitFile | None:
        """The unit whose text an address lies in."""
        offset = holder(self._index[1], address - self.shift)
        return self.unit_holding(offset) if offset is not None else None

    def unit_holding(self, place: int) -> UnitFile:
        """The unit that a place of .debug_info lies in."""
        return self.units[max(0, bisect_right(self._offsets, place) - 1)]

    def unit(self, offset: int) -> Unit:
        """A unit, to be read."""
        if offset not in self._read:
            if len(self._read) > 8:
                self._read.clear()  # each holds its bytes
            self._read[offset] = Unit(self.elf, offset)
        return self._read[offset]

    # --- files and lines

    def files(self) -> list[str]:
        """The files of which there is code: those that were compiled, and .c files that are included by such."""
        return sorted({file for unit in self.units for file in (unit.file, *unit.included) if file})

    def within(self, fits: Callable[[str], bool]) -> Callable[[int], bool]:
        """Tells of an address, the entry of a function, whether its file fits.

        What a header brought along counts as the file that includes it; what another .c file did, as that one.
        """
        verdicts = {u.offset: None if u.included else fits(u.file) for u in self.units}
        ranges = self._index[1]
        starts = [low for low, _, _ in ranges]
        shift = self.shift

        def lies(address: int) -> bool:
            place = address - shift
            index = bisect_right(starts, place) - 1
            if index < 0 or place >= ranges[index][1]:
                return False
            found = verdicts.get(ranges[index][2])
            return fits(self._included_file(ranges[index][2], place)) if found is None else found

        return lies

    def _included_file(self, offset: int, address: int) -> str:
        """The file of a function's entry in a unit that consists of several."""
        unit = self.unit_holding(offset)
        if offset not in self._by_row:
            try:
                table, files = self._table(unit)
                rows = sorted((row.address, row.end, row.file) for row in table.rows())
            except DwarfError:
                rows, files = [], []  # then the file that was compiled has to do
            self._by_row[offset] = rows, files
        rows, files = self._by_row[offset]
        index = bisect_right(rows, (address, True, 1 << 32)) - 1
        number = rows[index][2] if index >= 0 else -1
        file = files[number] if 0 <= number < len(files) else unit.file
        return file if file in unit.included else unit.file

    def places(self, addresses: Iterable[int]) -> dict[int, Place]:
        """The lines that instructions were made from; those that are not known are left out."""
        by_unit: dict[UnitFile, list[int]] = {}
        for address in addresses:
            unit = self.unit_at(address)
            if unit is not None and unit.lines != _NO_LINES:
                by_unit.setdefault(unit, []).append(address - self.shift)
        found = {}
        for unit, wanted in by_unit.items():
            table, files = self._table(unit)
            for address, (file, line) in table.at(wanted).items():
                found[address + self.shift] = Place(files[file] if file < len(files) else unit.file, line)
        return found

    def _table(self, unit: UnitFile) -> tuple[LineTable, list[str]]:
        """A unit's table of lines, and its files by number."""
        if unit.offset not in self._tables:
            if len(self._tables) > 64:
                self._tables.clear()
            table = LineTable(self.elf, unit.lines)
            root = _root(self.unit(unit.offset).string(self.unit(unit.offset).top, dw.COMP_DIR) or "")
            self._tables[unit.offset] = table, [from_root(path, root) for path in table.files()]
        return self._tables[unit.offset]

    def lines(self, file: str) -> dict[int, list[int]]:
        """The lines of a file at which statements begin: for each the addresses of its rows, as linked."""
        found: dict[int, list[int]] = {}
        for unit in self.units:
            if unit.file != file and file not in unit.included:
                continue
            if unit.lines == _NO_LINES:
                continue
            table, files = self._table(unit)
            numbers = {number for number, name in enumerate(files) if name == file}
            last: tuple[int, int] | None = None
            for row in table.rows():
                here = row.file, row.line
                if row.statement and not row.end and row.line and row.file in numbers and here != last:
                    found.setdefault(row.line, []).append(row.address)
                last = None if row.end else here
        return found

    def beginnings(self, addresses: Sequence[int]) -> list[int]:
        """Of the addresses (as linked) of a line the first in each function, and in each inlined copy; as they lie."""
        first: dict[tuple[int, int], int] = {}
        for address in sorted(addresses):
            unit = holder(self._index[1], address)
            if unit is not None:
                scope = self._scope(self.unit(unit), address)
                first.setdefault((unit, scope), address)
        return sorted(address + self.shift for address in first.values())

    def _scope(self, unit: Unit, address: int) -> int:
        """The innermost function or inlined copy at an address: the place of its entry."""
        for child in unit.children(unit.top):
            if child.tag == dw.SUBPROGRAM and _holds(unit, child, address):
                return self._innermost(unit, child, address)
        return 0

    def _innermost(self, unit: Unit, entry: dw.Entry, address: int) -> int:
        found, at, end = entry.offset, entry.end, unit.next(entry)
        while at < end:
            inner = unit.entry(at)
            if inner.tag == dw.INLINED:
                if _holds(unit, inner, address):
                    found, end, at = inner.offset, unit.next(inner), inner.end
                else:
                    at = unit.next(inner)
            else:
                at = inner.end
        return found


def _holds(unit: Unit, entry: dw.Entry, address: int) -> bool:
    return any(low <= address < high for low, high in unit.ranges(entry))


def _root(folder: str) -> str:
    """The root of the sources, from the folder that the compiler ran in: Debian builds in one beneath them."""
    return folder.partition("/debian/build/")[0]


def from_root(path: str, root: str) -> str:
    """A file's path from the root of the sources."""
    if root and path.startswith(root + "/"):
        path = path[len(root) + 1 :]
    return os.path.normpath(path) if path.startswith(".") or "/./" in path or "/../" in path else path


def _dumped(units: list[UnitFile], ranges: list[tuple[int, int, int]]) -> dict[str, bytes]:
    return {
        "units": b"".join([_UNIT.pack(unit.offset, unit.lines, len(unit.included)) for unit in units]),
        "names": "\n".join([name for unit in units for name in (unit.file, *unit.included)]).encode(),
        "ranges": b"".join([_RANGE.pack(*each) for each in ranges]),
    }


def _loaded(parts: dict[str, memoryview]) -> tuple[list[UnitFile], list[tuple[int, int, int]]]:
    names = iter(str(parts["names"], "utf-8").split("\n"))
    units = []
    for offset, lines, included in _UNIT.iter_unpack(parts["units"]):
        own = next(names)
        units.append(UnitFile(offset, lines, own, tuple([next(names) for _ in range(included)])))
    return units, list(_RANGE.iter_unpack(parts["ranges"]))
