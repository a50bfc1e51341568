"""From the name of a global, or a path from one, to its place in this kernel's memory and its type.

A path is evaluated when the aspect is matched: pointers on the way are read from live memory. Types come from BTF for
per-CPU variables; of others BTF knows nothing, so their type is written in the pointcut, or in the reviewed table
:mod:`klasy.kernel.known_globals`. Either is compared with the room that the symbol has.
"""

from __future__ import annotations

from klasy.btf.types import Datasec, Fwd, Struct, Union, Var
from klasy.btf.walk import find_member, member_names
from klasy.diag import did_you_mean
from klasy.errors import SystemRefusal
from klasy.kernel import member_macros
from klasy.kernel.known_globals import KNOWN, fits
from klasy.lang import ast
from klasy.match.datum import DataType, Datum
from klasy.match.glob import is_glob
from klasy.match.typeref import TypeRefError, base_in, spelled
from klasy.plain import TYPE_CHECKING, dataclass, replace
from klasy.source import SourceFile, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.btf.btf import Btf
    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import DataSymbol, Function, Kernel

# How many letters at its beginning a misspelt name has in common with the one that is meant: fewer if more find none.
_ALIKE = (4, 3)
_WORD = 8
_INT = 4  # bytes of how many CPUs there can be

NO_PER_CPU = "no-per-cpu", "this kernel does not tell where its per-CPU variables lie"


class NoData(Exception):
    """The path cannot be followed; what is wrong was reported."""


def find_data(pattern: ast.DataPattern, kernel: Kernel, bag: DiagnosticBag) -> list[Datum]:
    """What a data pattern that names a global means: one datum, or each CPU's copy of a per-CPU variable.

    Empty where an error was reported. Raises SystemRefusal where symbols or memory cannot be read.
    """
    try:
        return Finder(pattern, kernel, bag).find()
    except NoData:
        return []


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path has led to so far."""

    text: str
    address: int
    type: DataType
    followed: tuple[tuple[str, int], ...] = ()


class Finder:
    """Follows one pattern."""

    def __init__(self, pattern: ast.DataPattern, kernel: Kernel, bag: DiagnosticBag) -> None:
        self.pattern = pattern
        self.kernel = kernel
        self.bag = bag
        named = pattern.name is not None and not pattern.path  # unsigned long jiffies
        self.path = (pattern.name or "",) if named else pattern.path
        self.declared = pattern.type if named else pattern.declared
        self.name = self.path[0]

    def fail(self, code: str, message: str, *hints: str, span: Span | None = None) -> NoData:
        """Report an error; the exception to raise."""
        self.bag.error(code, message, span or self.pattern.span, hints=hints)
        return NoData()

    def find(self) -> list[Datum]:
        """What the pattern means. Raises NoData."""
        if any(is_glob(step.strip("[]->")) for step in self.path):
            raise self.fail(
                "bad-data", f"'{self.pattern.span.text}': the name of a global has no wildcards",
                "four debug registers watch four places; name each",
            )  # fmt: skip
        symbol = self._symbol()
        start = self._type(symbol)
        if symbol.percpu:
            return [self._follow(symbol, start, cpu, base) for cpu, base in self._cpus()]
        if self.pattern.cpu is not None:
            raise self.fail("not-per-cpu", f"'{self.name}' is no per-CPU variable: there is one of it")
        return [self._follow(symbol, start, None, 0)]

    # --- the variable

    def _symbol(self) -> DataSymbol:
        found = [symbol for symbol in self.kernel.data_symbols(self.name) if symbol.name == self.name]
        if not found:
            raise self._absent()
        if not any(symbol.address for symbol in found) and not found[0].percpu:
            self.kernel.functions(self.name)  # addresses are hidden: this says so, and what to do
        if len({symbol.address for symbol in found}) > 1:
            raise self.fail("ambiguous-data", *namesakes("variables", self.name, found))
        return found[0]

    def _absent(self) -> NoData:
        name = self.name
        if self.kernel.functions(name):
            return self.fail(
                "not-data", f"'{name}' is a function", f"its calls are call({name}), its body is execution({name})"
            )
        btf = self.kernel.btf
        keyword = "struct" if btf.find(name, Struct) else "union" if btf.find(name, Union) else ""
        if keyword or btf.find(name):
            rest = "".join(step if step[0] in "-[" else f".{step}" for step in self.path[1:]) or ".member"
            return self.fail(
                "not-data", f"'{name}' is a type and no variable",
                f"the member of every such object is '{keyword} {name}{rest}'" if keyword
                else "the member of every object of a struct is 'struct NAME.member'",
            )  # fmt: skip
        close = alike(self.kernel, name)
        return self.fail(
            "unknown-data", f"this kernel has no variable '{name}'",
            did_you_mean(close),
            "" if close else "static variables and those of modules that are loaded are known, too; macros are no data",
        )  # fmt: skip

    # --- its type

    def _type(self, symbol: DataSymbol) -> DataType:
        known = type_of(self.kernel, symbol)
        if self.declared is None:
            if known is None:
                raise self._untyped(symbol)
            return known
        declared = self.written(self.declared, symbol.module)
        if self.path[1:2] and self.path[1].startswith("[") and declared.element() is None and declared.size:
            # unsigned long avenrun[0]: what is written is the type of an element
            declared = replace(declared, counts=(symbol.size // declared.size, *declared.counts))
        if known is not None and not _agree(declared, known):
            raise self.fail(
                "wrong-data-type", f"'{self.name}' is '{known.name}', not '{spelled(self.declared)}'",
                "leave the type out: klasy knows it",
            )  # fmt: skip
        if known is None and not 0 < declared.size <= symbol.size:
            raise self.fail(
                "wrong-data-type",
                f"'{spelled(self.declared)}' has {declared.size} bytes, and '{self.name}' has {symbol.size}",
                "the next variable begins there" if declared.size else "",
            )
        return known or declared

    def written(self, ref: ast.TypeRef, module: str | None = None) -> DataType:
        """A type as it is written of what is a module's. Raises NoData."""
        try:
            return _typed(self.kernel, ref, module)
        except TypeRefError as error:
            error.report(self.bag)
            raise NoData from None

    def _untyped(self, symbol: DataSymbol) -> NoData:
        rest = self.pattern.text.removeprefix(self.name) if self.pattern.path else ""
        example = f"{'struct TYPE' if rest else example_type(symbol)} {self.name}{rest}"
        return self.fail(*untyped(symbol), f'write its type in front, as its source declares it: "{example}"')

    # --- the way to it

    def _cpus(self) -> list[tuple[int, int]]:
        """The CPUs whose copy is meant, with where each one's area lies."""
        found = per_cpu_areas(self.kernel)
        if found is None:
            raise self.fail(*NO_PER_CPU)
        table, number = found
        count = most_cpus(self.kernel, number)
        wanted = range(count) if self.pattern.cpu is None else [self.pattern.cpu]
        if wanted[-1] >= count:
            raise self.fail(*no_such_cpu(wanted[-1], count))
        offsets = self.kernel.read(table, _WORD * count)
        return [(cpu, int.from_bytes(offsets[_WORD * cpu : _WORD * cpu + _WORD], "little")) for cpu in wanted]

    def _follow(self, symbol: DataSymbol, start: DataType, cpu: int | None, base: int) -> Datum:
        text = self.name if cpu is None else f"per_cpu({self.name}, {cpu})"
        place = Place(text, (symbol.address + base) & (1 << 64) - 1, start)
        for step in self.path[1:]:
            if step.startswith("["):
                place = self.element(place, int(step[1:-1]))
            elif step.startswith("->"):
                place = self.step(self._pointed(place, step), step[2:], step)
            else:
                place = self.step(place, step, f".{step}")
        if not place.type.size:
            raise self.fail("no-size", f"'{place.text}' is of type '{place.type.name}': there is nothing to watch")
        offset = place.address - base & (1 << 64) - 1 if cpu is not None and not place.followed else None
        return Datum(place.text, place.address, place.type, symbol.module, offset, place.followed)

    def step(self, place: Place, name: str, step: str) -> Place:
        """The member ``name`` of a struct. Raises NoData."""
        struct = self.complete(place.type)
        if struct is None:
            hint = f"write '{place.text}->{name}'" if place.type.target() is not None else ""
            raise self.fail("not-a-struct", f"'{place.text}' is of type '{place.type.name}', and has no members", hint)
        btf, type_id = struct
        found = find_member(btf, type_id, name) or member_macros.find(btf, type_id, name)
        if found is None:
            from klasy.match.near import near

            close = near(name, member_names(btf, type_id))
            hint = did_you_mean(close)
            raise self.fail("unknown-member", f"'{btf.c_name(type_id)}' has no member '{name}'", hint)
        if found.bitfield_size:
            raise self.fail(
                "bit-field", f"'{name}' is a bit-field: what accesses it accesses its neighbours, too",
                "a debug register cannot tell them apart",
            )  # fmt: skip
        text = f"{place.text}{step}"
        return Place(text, place.address + found.byte_offset, DataType(btf, found.type_id), place.followed)

    def complete(self, kind: DataType) -> tuple[Btf, int] | None:
        """The struct or union that a type is; the definition where only its name is given."""
        found = kind.resolved
        if isinstance(found, Struct):
            return kind.btf, kind.btf.resolve(kind.type_id)
        if isinstance(found, Fwd):
            defined = self.kernel.btf.find(found.name, Struct)
            if len(defined) == 1:
                return self.kernel.btf, defined[0]
        return None

    def _pointed(self, place: Place, step: str) -> Place:
        target = place.type.target()
        if target is None:
            hint = f"write '{place.text}.{step[2:]}'" if self.complete(place.type) else ""
            raise self.fail("not-a-pointer", f"'{place.text}' is of type '{place.type.name}', no pointer", hint)
        return self._at(place, target, 0)

    def _at(self, place: Place, target: DataType, offset: int) -> Place:
        """Where a pointer leads to, now."""
        try:
            address = int.from_bytes(self.kernel.read(place.address, _WORD), "little")
        except SystemRefusal as refusal:
            raise self.fail("path-ends", f"'{place.text}' cannot be read: {refusal.message}") from None
        if not address >> 63:
            raise self.fail(
                "path-ends", f"'{place.text}' is {f'{address:#x}' if address else 'NULL'} now: the path ends there",
                "a path is followed when the aspect is woven",
            )  # fmt: skip
        return Place(place.text, address + offset, target, (*place.followed, (place.text, address)))

    def element(self, place: Place, index: int) -> Place:
        """An element of an array, or of what a pointer leads to. Raises NoData."""
        text = f"{place.text}[{index}]"
        found = place.type.element()
        if found is not None:
            kind, count = found
            if index >= count:
                raise self.fail("out-of-bounds", f"'{place.text}' has {count} elements, 0 to {count - 1}")
            return Place(text, place.address + index * kind.size, kind, place.followed)
        target = place.type.target()
        if target is None or not target.size:
            raise self.fail("not-an-array", f"'{place.text}' is of type '{place.type.name}', and has no elements")
        there = self._at(place, target, index * target.size)
        return Place(text, there.address, there.type, there.followed)


def namesakes(what: str, name: str, found: Sequence[DataSymbol | Function]) -> tuple[str, str]:
    """The message, and the hint, for a name that several variables or functions have."""
    where = ", ".join(f"{s.address:#x}" + (f" [{s.module}]" if s.module else "") for s in found[:5])
    return f"{len(found)} {what} are named '{name}': {where}", "those of one name cannot be told apart by it"


def untyped(symbol: DataSymbol) -> tuple[str, str]:
    """The code and the message for a variable whose type nobody knows."""
    unknown = f"of what type '{symbol.name}' is, the kernel's type information does not say ({symbol.size} bytes)"
    return "unknown-data-type", unknown


def example_type(symbol: DataSymbol) -> str:
    """A type that a variable of its size may have, as an example."""
    return {8: "unsigned long", 4: "int", 2: "short", 1: "char"}.get(symbol.size, "struct TYPE")


def per_cpu_areas(kernel: Kernel) -> tuple[int, int] | None:
    """The addresses of the table of where each CPU's variables lie, and of how many CPUs there can be (an int).

    None where the kernel does not tell: NO_PER_CPU is what to say.
    """
    table, number = kernel.data_symbols("__per_cpu_offset"), kernel.data_symbols("nr_cpu_ids")
    return (table[0].address, number[0].address) if table and number else None


def most_cpus(kernel: Kernel, number: int) -> int:
    """How many CPUs there can be, by where the kernel keeps it. Raises SystemRefusal where that cannot be read."""
    return int.from_bytes(kernel.read(number, _INT), "little")


def no_such_cpu(cpu: int, count: int) -> tuple[str, str]:
    """The code and the message for a CPU that there cannot be."""
    return "no-such-cpu", f"this machine has no CPU {cpu}: they are 0 to {count - 1}"


def alike(kernel: Kernel, name: str) -> list[str]:
    """The variables that may have been meant, of those that begin alike.

    Among all of them the search would take minutes: how far each reaches is looked up for it.
    """
    from klasy.match.near import near

    for letters in _ALIKE:
        if found := near(name, sorted({symbol.name for symbol in kernel.data_symbols(f"{name[:letters]}*")})):
            return found
    return []


def type_of(kernel: Kernel, symbol: DataSymbol) -> DataType | None:
    """The type of a variable; None where neither BTF nor the table knows it."""
    return _of_percpu(kernel, symbol) if symbol.percpu else _of_table(kernel, symbol)


def _of_percpu(kernel: Kernel, symbol: DataSymbol) -> DataType | None:
    """BTF describes the per-CPU variables: by name, and by the offset in the section."""
    btf = kernel.btf
    first = kernel.data_symbols("__per_cpu_start")
    start = first[0].address if first else 0
    for section in btf.find(".data..percpu", Datasec):
        found = btf.type(section)
        assert isinstance(found, Datasec)
        for variable in found.variables:
            described = btf.type(variable.type_id)
            same = isinstance(described, Var) and described.name == symbol.name
            if same and variable.offset == symbol.address - start:
                assert isinstance(described, Var)
                return DataType(btf, described.type_id)
    return None


def _of_table(kernel: Kernel, symbol: DataSymbol) -> DataType | None:
    """The table's word for it, where it fits this kernel."""
    if symbol.module is not None or symbol.name not in KNOWN:
        return None
    text, count = KNOWN[symbol.name]
    words = text.replace("*", " ").split()
    tag = ast.TagKind(words[0]) if words[0] in ("struct", "union", "enum") else ast.TagKind.NONE
    name = " ".join(words[1:] if tag is not ast.TagKind.NONE else words)
    span = Span(SourceFile("known_globals", text), 0, len(text))
    ref = ast.TypeRef(span, tag, name, text.count("*"), (count,) if count else ())
    try:
        known = _typed(kernel, ref)
    except TypeRefError:
        return None
    return known if fits(known.size, symbol.size) else None


def _typed(kernel: Kernel, ref: ast.TypeRef, module: str | None = None) -> DataType:
    """A type as written. Raises TypeRefError."""
    return DataType(*base_in(kernel, ref, module), ref.pointers, tuple(count or 0 for count in ref.array))


def _agree(written: DataType, known: DataType) -> bool:
    """Whether a type that was written can be the one that is known: of its size, and a struct only if it is the one."""
    one_element, other_element = written.element(), known.element()
    if one_element and other_element:
        return _agree(one_element[0], other_element[0])
    if written.size != known.size:
        return False
    one, other = written.resolved, known.resolved
    if isinstance(one, Struct) or isinstance(other, Struct):
        return written.btf.resolve(written.type_id) == known.btf.resolve(known.type_id)
    return True
