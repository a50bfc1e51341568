"""Function symbols, as /proc/kallsyms lists them: names and addresses of what the kernel and its modules hold as text.

A listing has 100,000 lines and more, of which a command needs a few. ``Symbols`` therefore keeps the functions of one
object (the kernel or a module) as a few arrays and one block of names, which can be saved: built once for each build
of a kernel, searched by C's routines, and valid wherever the object is loaded.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from itertools import accumulate, compress, groupby, pairwise, repeat

from klasy.errors import SystemRefusal
from klasy.kernel.model import Clone, DataSymbol
from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

_HEAD = struct.Struct("<III")
_FEW_LOOKUPS = 16  # each runs over a megabyte of names; with more a dictionary of all pays off
# Bytes of a piece of code that the kernel has made: nothing tells their sizes. ftrace's trampolines and copies of
# instructions have a page; behind them may be code of a module that is gone.
_MOST_GENERATED, _MOST_BUILTIN = 1 << 16, 1 << 12
_TEXT_TYPES = frozenset((b"t", b"T", b"w", b"W"))

# Symbols in text that are no functions: the padding in front of functions, and places that the linker script names.
_PADDING = (b"__pfx_", b"__cfi_")
_SECTIONS = ["noinstr", "entry", "sched", "lock", "cpuidle", "kprobes", "irqentry", "softirqentry", "static_call"]
_PLACES = frozenset(
    [b"_text", b"_stext", b"_etext", b"_sinittext", b"_einittext", b"__indirect_thunk_start", b"__indirect_thunk_end"]
    + [f"__{section}_text_{edge}".encode() for section in _SECTIONS for edge in ("start", "end")]
)

_CLONES = (
    ("cold", Clone.COLD),  # first: a cold piece of a clone has no entry either
    ("part", Clone.PART),
    ("constprop", Clone.CONSTPROP),
    ("isra", Clone.ISRA),
)


class SymbolsHidden(SystemRefusal):
    """The kernel shows no addresses of its symbols to this process."""


def clone_of(name: str) -> tuple[str, Clone]:
    """The name in the source of a function symbol, and what the suffix says the compiler made of it."""
    base, dot, suffix = name.partition(".")
    if not dot or not base:
        return name, Clone.NONE
    parts = suffix.split(".")
    return base, next((kind for word, kind in _CLONES if word in parts), Clone.OTHER)


class Symbols:
    """The functions of one object, by address; several names of one address in the kernel's own order.

    ``base`` is where the object is now. For the i-th function: ``starts[i]`` its offset from there, ``sizes[i]`` its
    size to the next symbol of any kind, ``shares[i]`` how many functions of the object carry its name. ``listed[i]`` is
    1 where ftrace lists that name as traceable, else 0; ``listed`` is None where the list was not to be had.
    """

    __slots__ = ("_asked", "_firsts", "base", "listed", "names", "places", "shares", "sizes", "starts")

    def __init__(self, base: int, arrays: Sequence[memoryview], names: bytes) -> None:
        self.base = base
        self.starts, self.sizes, self.shares, self.places = arrays
        self.names = names  # each between zero bytes; self.places: where each begins
        self.listed: bytes | None = None
        self._asked = 0
        self._firsts: dict[bytes, int] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def build(cls, base: int, addresses: list[int], ends: list[int], names: list[bytes]) -> Symbols:
        """From addresses in ascending order, the next different symbol's address behind each, and names."""
        from array import array
        from collections import Counter
        from operator import sub

        counts = Counter(names)
        blob = b"\0" + b"\0".join(names) + b"\0"
        arrays = (
            map(sub, addresses, repeat(base)),
            map(sub, ends, addresses),
            map(counts.__getitem__, names),
            accumulate([len(name) + 1 for name in names[:-1]], initial=1) if names else (),
        )
        return cls(base, [memoryview(array("I", numbers)) for numbers in arrays], blob)

    def note_listed(self, traceable: Container[bytes]) -> None:
        """Note which functions' names are among those that ftrace lists as traceable."""
        names = self.names[1:-1].split(b"\0") if len(self) else []
        self.listed = bytes(map(traceable.__contains__, names))

    def dump(self) -> bytes:
        """All but ``base``, as bytes for ``load``."""
        arrays = (self.starts, self.sizes, self.shares, self.places)
        listed = self.listed or b""
        head = _HEAD.pack(len(self.starts), len(self.names), len(listed))
        return b"".join((head, *(part.tobytes() for part in arrays), listed, self.names))

    @classmethod
    def load(cls, data: memoryview, base: int) -> Symbols:
        """What ``dump`` gave, for an object that is now at ``base``. Raises ValueError where lengths do not agree."""
        if len(data) < _HEAD.size:
            raise ValueError("too short")
        count, length, listed = _HEAD.unpack_from(data)
        if len(data) != _HEAD.size + 16 * count + listed + length or listed not in (0, count):
            raise ValueError("lengths do not agree")
        ends = [_HEAD.size + 4 * count * i for i in range(5)]
        arrays = [data[a:b].cast("I") for a, b in pairwise(ends)]
        found = cls(base, arrays, bytes(data[ends[4] + listed :]))
        if listed:
            found.listed = bytes(data[ends[4] : ends[4] + listed])
        return found

    def name(self, index: int) -> str:
        """The name of a function."""
        start = self.places[index]
        return self.names[start : self.names.index(0, start)].decode("latin-1")

    def address(self, index: int) -> int:
        """Where a function is now."""
        return self.base + self.starts[index]

    @property
    def end(self) -> int:
        """The address behind the last function."""
        return self.base + self.starts[-1] + self.sizes[-1] if self.starts else self.base

    def at(self, address: int) -> int | None:
        """The function whose text holds an address; of several names of one, the first."""
        offset = address - self.base
        if not 0 <= offset < 1 << 32:
            return None
        index = bisect_right(self.starts, offset) - 1
        if index < 0 or offset >= self.starts[index] + self.sizes[index]:
            return None
        return bisect_left(self.starts, self.starts[index], 0, index + 1)

    def names_between(self, start: int, end: int) -> list[str]:
        """The names of the functions that begin from one address up to another."""
        low, high = max(0, start - self.base), max(0, end - self.base)
        first, last = bisect_left(self.starts, low), bisect_left(self.starts, high)
        return [self.name(index) for index in range(first, last)]

    def first_named(self, name: str) -> int | None:
        """The first function with exactly this name. Quick for who asks for many, each of which may not be there."""
        self._asked += 1
        if self._asked <= _FEW_LOOKUPS:
            return min(self.named(name), default=None)
        if self._firsts is None:
            names = self.names[1:-1].split(b"\0") if len(self) else []
            self._firsts = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))
        return self._firsts.get(name.encode())

    def first_at(self, index: int) -> int:
        """Of the names of one place the first, which the kernel itself uses."""
        starts = self.starts
        while index and starts[index - 1] == starts[index]:
            index -= 1
        return index

    def named(self, name: str) -> list[int]:
        """The functions with exactly this name."""
        wanted = name.encode()
        return [self._index(place) for place in self._places_of(wanted) if self._ends(place + len(wanted))]

    def matching(self, pattern: str) -> list[int]:
        """The functions whose name, or name without a clone's suffix, matches a glob; only ``*`` is special."""
        if pattern.strip("*") == "":
            return list(range(len(self))) if pattern else []
        if "*" not in pattern:
            literal = pattern.encode()
            return [self._index(p) for p in self._places_of(literal) if self._ends(p + len(literal), b"\0.")]
        if pattern.find("*") == len(pattern) - 1:
            return [self._index(place) for place in self._places_of(pattern[:-1].encode())]
        import re  # here and below, not in the head: what is named exactly, or by its beginning, needs none of it

        parts = pattern.encode().split(b"*")
        text = rb"[^\0]*".join(map(re.escape, parts)) + rb"(?:\.[^\0]*)?"
        if parts[0]:  # a name begins behind a zero, and ends before one: all are found in one pass
            places, at, indices = self.places, 0, []
            for hit in re.finditer(rb"\0" + text + rb"(?=\0)", self.names):
                at = bisect_left(places, hit.start() + 1, at)
                indices.append(at)
            return indices
        whole = re.compile(text)
        names, found, done = self.names, [], 0
        for hit in re.finditer(re.escape(max(parts, key=len)), names):
            if hit.start() < done:
                continue
            start = names.rindex(0, 0, hit.start() + 1) + 1
            done = names.index(0, hit.end())
            if whole.fullmatch(names, start, done):
                found.append(self._index(start))
        return found

    def _places_of(self, prefix: bytes) -> Iterator[int]:
        """Where names begin that begin with some bytes."""
        wanted = b"\0" + prefix
        if not prefix:
            return
        at = self.names.find(wanted)
        while at >= 0:
            yield at + 1
            at = self.names.find(wanted, at + 1)

    def _ends(self, place: int, by: bytes = b"\0") -> bool:
        return self.names[place] in by

    def _index(self, place: int) -> int:
        return bisect_left(self.places, place)

    def all_names(self) -> list[str]:
        """The names of all functions, by address."""
        return self.names[1:-1].decode("latin-1").split("\0") if len(self) else []


# --- the listing ----------------------------------------------------------------------------------------------------


def holding(tables: Mapping[str | None, Symbols], address: int) -> tuple[str | None, Symbols, int] | None:
    """Of tables of symbols by object the first that holds an address: the object, its table, and the symbol's place."""
    for name, table in tables.items():
        if table.base <= address < table.end and (index := table.at(address)) is not None:
            return name, table, index
    return None


def text_start(listing: bytes) -> int | None:
    """The address of ``_text``, where the kernel's text begins, from (the beginning of) a listing; None: not there."""
    end = listing.find(b" T _text\n")
    return int(listing[listing.rfind(b"\n", 0, end) + 1 : end], 16) if end >= 0 else None


def _refuse_hidden() -> SymbolsHidden:
    return SymbolsHidden(
        "the kernel hides the addresses of its symbols",
        hint="run as root, in a container as the machine's; if that was it: sysctl kernel.kptr_restrict=1 shows them",
    )


def kernel_symbols(listing: bytes) -> Symbols:
    """The functions of the kernel proper, from ``_text`` to ``_etext``, from a listing.

    Raises SymbolsHidden where the addresses are zero or missing.
    """
    if not text_start(listing) or (found := _text_between(listing, b" T _text\n", b" T _etext\n")) is None:
        raise _refuse_hidden()
    return found


def init_symbols(listing: bytes) -> Symbols | None:
    """The kernel's initialising functions, from a listing. Their memory is freed when the kernel has started, and their
    addresses are used for nothing else.
    """
    return _text_between(listing, b" T _sinittext\n", b" T _einittext\n")


def _text_between(listing: bytes, first: bytes, last: bytes) -> Symbols | None:
    """The functions from where one symbol is up to another; None where one of the two is not listed."""
    begins, ends = listing.find(first), listing.find(last)
    if begins < 0 or ends < 0:
        return None
    start, end = (listing[listing.rfind(b"\n", 0, at) + 1 : at] for at in (begins, ends))
    fields = _without_padding(listing[listing.find(start + b" ") : ends + len(last)]).split()
    return _functions(int(start, 16), int(end, 16), _numbers(fields[0::3]), fields[1::3], fields[2::3])


def module_symbols(listing: bytes, bases: Mapping[str, int]) -> dict[str, Symbols]:
    """The functions of modules, by module, from a listing. ``bases``: where each is, as /proc/modules says."""
    start = listing.rfind(b"\n", 0, max(listing.find(b"\t["), 0)) + 1
    fields = _without_padding(listing[start:]).split()  # from here on every line names its module
    addresses, modules = _numbers(fields[0::4]), fields[3::4]
    tables = {}
    at = 0
    for label, lines in groupby(modules):
        length = sum(1 for _ in lines)
        here = range(at, at + length)
        at += length
        name = label[1:-1].decode()
        base = bases.get(name)
        if base is None or name in tables:
            # Not a module: BPF programs, trampolines, probed instructions. Or a module's second block: what ftrace
            # remembers of initialising functions whose memory the kernel has long freed.
            continue
        order = sorted(here, key=addresses.__getitem__)
        types = [fields[4 * i + 1] for i in order]
        text = [addresses[i] for i, kind in zip(order, types, strict=True) if kind in _TEXT_TYPES]
        # The kernel ends a module's last function where the module's text ends, which is a page's end.
        end = (max(text, default=base) | 0xFFF) + 1
        inside = [i for i in order if base <= addresses[i] < end]
        types = [fields[4 * i + 1] for i in inside]
        names = [fields[4 * i + 2] for i in inside]
        tables[name] = _functions(base, end, [addresses[i] for i in inside], types, names)
    return {name: tables.get(name) or _functions(base, base, [], [], []) for name, base in bases.items()}


def generated_symbols(listing: bytes) -> dict[str | None, Symbols]:
    """The code that the kernel has made while it runs, from a listing, by who made it: BPF's programs and trampolines
    (``bpf``), trampolines of ftrace, copies of probed instructions (``__builtin__ftrace``, ``__builtin__kprobes``).
    """
    places: dict[str, list[tuple[int, bytes]]] = {}
    for part in (b"\t[bpf]", b"\t[__builtin__"):
        for start, end in _lines_with(listing, part):
            address, _, name, label = listing[start:end].split()
            places.setdefault(label[1:-1].decode(), []).append((int(address, 16), name))
    tables: dict[str | None, Symbols] = {}
    for maker, found in places.items():
        addresses, names = [list(column) for column in zip(*sorted(found), strict=True)]
        most = _MOST_BUILTIN if maker.startswith("__builtin__") else _MOST_GENERATED
        behind = [*addresses[1:], addresses[-1] + most]
        ends = [min(end, start + most) for start, end in zip(addresses, behind, strict=True)]
        tables[maker] = Symbols.build(addresses[0], addresses, ends, names)
    return tables


def _without_padding(lines: bytes) -> bytes:
    """The lines with another type for padding, which so counts as a boundary and not as a function."""
    for prefix in _PADDING:
        for kind in (b" t ", b" T "):
            lines = lines.replace(kind + prefix, b" - " + prefix)
    return lines


def _numbers(digits: list[bytes]) -> list[int]:
    """Numbers from their 16 hexadecimal digits."""
    from array import array

    numbers = array("Q", bytes.fromhex(b"".join(digits).decode()))
    numbers.byteswap()  # the digits stand with the highest first
    return numbers.tolist()


def _functions(base: int, end: int, addresses: list[int], types: list[bytes], names: list[bytes]) -> Symbols:
    """The functions among symbols given by address, in an object whose text ends at ``end``.

    Every step runs over the whole list in C: a loop here would cost a second in an emulated guest.
    """
    is_text = list(map(_TEXT_TYPES.__contains__, types))
    if any(map(_PLACES.__contains__, names)):
        is_text = [text and name not in _PLACES for text, name in zip(is_text, names, strict=True)]
    return _chosen(base, end, addresses, names, is_text)


def _chosen(base: int, end: int, addresses: list[int], names: list[bytes], wanted: list[bool]) -> Symbols:
    """Those symbols that are wanted, each up to the next one of all."""
    kept = list(compress(addresses, wanted))
    boundaries = [*addresses, end]
    behind = map(bisect_right, repeat(addresses), kept)
    return Symbols.build(base, kept, list(map(boundaries.__getitem__, behind)), list(compress(names, wanted)))


def note_traceable(tables: Mapping[str | None, Symbols], available: bytes) -> None:
    """Note which functions ftrace can trace, from what its available_filter_functions lists: names, not addresses."""
    if not available:
        return
    own: set[bytes] = set()
    modules: dict[str, set[bytes]] = {}
    module = available.find(b" [")  # most lines are before that of the first
    first = available.rfind(b"\n", 0, module) + 1 if module >= 0 else len(available)
    own.update(available[:first].splitlines())
    for line in available[first:].splitlines():
        name, space, label = line.partition(b" [")
        if space:
            modules.setdefault(label[:-1].decode(), set()).add(name)
        else:
            own.add(name)
    for module_name, symbols in tables.items():
        symbols.note_listed(own if module_name is None else modules.get(module_name, frozenset()))


def places(listing: bytes, names: Iterable[str]) -> dict[str, int]:
    """The addresses of some symbols of the kernel proper, whatever they are, as far as a listing has them."""
    found = {}
    for name in names:
        wanted = b" %s\n" % name.encode()
        at = listing.find(wanted)
        while at >= 0:
            digits, _, kind = listing[listing.rfind(b"\n", 0, at) + 1 : at].partition(b" ")
            if len(kind) == 1:
                found[name] = int(digits, 16)
            at = listing.find(wanted, at + 1)
    return found


# --- other symbols --------------------------------------------------------------------------------------------------

_DATA_TYPES = frozenset((b"d", b"D", b"b", b"B", b"r", b"R", b"v", b"V"))


@dataclass(frozen=True, slots=True)
class Symbol:
    """A line of a listing: ``kind`` is the type's letter, as nm(1) has it."""

    address: int
    kind: str
    name: str
    module: str | None


def _parse(line: bytes) -> Symbol:
    fields = line.split()
    module = fields[3][1:-1].decode() if len(fields) > 3 else None
    return Symbol(int(fields[0], 16), fields[1].decode(), fields[2].decode(), module)


def _lines_with(listing: bytes, part: bytes) -> Iterator[tuple[int, int]]:
    """Where the lines begin and end that hold some bytes."""
    at = listing.find(part)
    while 0 <= at < len(listing):
        start = listing.rfind(b"\n", 0, at) + 1
        end = listing.find(b"\n", at)
        end = len(listing) if end < 0 else end
        yield start, end
        at = listing.find(part, end + 1)


def lookup(listing: bytes, pattern: str) -> list[tuple[Symbol, int]]:
    """All symbols whose name matches a glob (only ``*`` is special), and where in the listing their lines end."""
    import re

    first, *others = re.sub(rb"\*+", b"*", pattern.encode()).split(b"*")
    line = re.compile(rb"\S+ \S " + rb"\S*".join(map(re.escape, (first, *others))) + rb"(\s.*)?")
    # What a line must hold for sure. A name ends where its line does, or where that of its module begins.
    sure = [max(b" " + first, *others, key=len)] if others else [b" %b\n" % first, b" %b\t" % first]
    places = sorted({place for part in sure for place in _lines_with(listing, part)})
    return [(_parse(listing[start:end]), end) for start, end in places if line.fullmatch(listing, start, end)]


def is_data(symbol: Symbol) -> bool:
    """Whether a symbol is a variable's (per-CPU ones have another type)."""
    return symbol.kind.encode() in _DATA_TYPES


def data_symbols(listing: bytes, pattern: str) -> list[DataSymbol]:
    """The variables in a listing whose name matches a glob, by address.

    Per-CPU variables are those between ``__per_cpu_start`` and ``__per_cpu_end``; their address is an offset.
    """
    edges = [found[0][0].address for name in ("__per_cpu_start", "__per_cpu_end") if (found := lookup(listing, name))]
    percpu = range(*edges) if len(edges) == 2 else range(0)
    data = []
    for symbol, end in lookup(listing, pattern):
        here = symbol.module is None and symbol.address in percpu
        if here or is_data(symbol):
            behind = _behind(listing, symbol, end)
            data.append(DataSymbol(symbol.name, symbol.address, behind - symbol.address, symbol.module, here))
    return sorted(data, key=lambda symbol: symbol.address)


def data_tables(listing: bytes) -> dict[str | None, Symbols]:
    """All variables, but for per-CPU ones, of the kernel proper (None) and of each module, from a listing.

    Each reaches to the next symbol; where that is another's, for sections of modules are scattered, to its page's end.
    """
    module = listing.find(b"\t[")
    modules = listing.rfind(b"\n", 0, module) + 1 if module >= 0 else len(listing)
    tables: dict[str | None, Symbols] = {}
    edge = listing.find(b" T _etext\n")
    if edge >= 0:
        fields = listing[listing.rfind(b"\n", 0, edge) + 1 : modules].split()
        addresses = _numbers(fields[0::3])
        is_data = list(map(_DATA_TYPES.__contains__, fields[1::3]))
        tables[None] = _chosen(addresses[0], addresses[-1], addresses, fields[2::3], is_data)
    fields = listing[modules:].split()
    addresses, kinds, names, owners = _numbers(fields[0::4]), fields[1::4], fields[2::4], fields[3::4]
    owner_at = dict(zip(addresses, owners, strict=True))
    behind = dict(pairwise(sorted(owner_at)))
    found: dict[bytes, list[tuple[int, int, bytes]]] = {}
    for i in sorted(range(len(addresses)), key=addresses.__getitem__):
        if kinds[i] in _DATA_TYPES:
            start, owner = addresses[i], owners[i]
            page = (start | 0xFFF) + 1
            end = behind.get(start, page)
            found.setdefault(owner, []).append((start, end if owner_at.get(end) == owner else min(end, page), names[i]))
    for owner, rows in found.items():
        starts, ends = [start for start, _, _ in rows], [end for _, end, _ in rows]
        tables[owner[1:-1].decode()] = Symbols.build(starts[0], starts, ends, [name for _, _, name in rows])
    return tables


def _behind(listing: bytes, symbol: Symbol, at: int) -> int:
    """The next higher address behind a symbol, whose line ends at ``at``; the lines of a module are not in order."""
    if symbol.module is None:
        lines: Iterable[bytes] = _following(listing, at)
    else:
        lines = (listing[start:end] for start, end in _lines_with(listing, f"\t[{symbol.module}]".encode()))
    higher = (found for line in lines if (found := int(line[:16], 16)) > symbol.address)
    if symbol.module is None:
        return next(higher, symbol.address)
    return min(higher, default=symbol.address)


def _following(listing: bytes, at: int) -> Iterator[bytes]:
    while 0 <= at < len(listing) - 1:
        end = listing.find(b"\n", at + 1)
        yield listing[at + 1 : end if end >= 0 else len(listing)]
        at = end
