"""A kernel for unit tests, from a few lines of C and of who calls whom. No bytes of a real one are needed.

    kernel = FakeKernel(
        '''
        struct list { struct list *next; unsigned int len; };
        struct item *take(struct list *from);
        int use(struct list *from, int flags);
        ''',
        calls='''
        use: take take *          # two direct calls, one through a pointer
        use.cold: jmp:take        # a tail call; je:take is a conditional one
        ''',
    )

Functions lie one after the other, ``SIZE`` bytes each, in the order of their prototypes, then of the other names in
``calls``; modules' behind them. Names without a prototype (clones, assembly) have no BTF. The first call in a function
is at offset 0x10, the others 0x10 behind each other.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.write import write
from klasy.errors import KernelRefused
from klasy.kernel.debugfiles import NoDebugInfo
from klasy.kernel.model import CallKind, CallSite, Clone, DataSymbol, Function, Place, Refusal, Way
from klasy.kernel.tracepoints import Tracepoints
from klasy.match.glob import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from klasy.kernel.inlined import Inlined
    from klasy.kernel.references import Reference

START = 0xFFFF_FFFF_8100_0000
MODULE_START = 0xFFFF_FFFF_C000_0000
SIZE = 0x1000
FIRST_CALL = 0x10

_CONDITIONS = {"jo": 0, "jb": 2, "jae": 3, "je": 4, "jne": 5, "jbe": 6, "ja": 7, "js": 8}
_INTS = {
    "char": (1, True),
    "signed char": (1, True),
    "unsigned char": (1, False),
    "short int": (2, True),
    "short unsigned int": (2, False),
    "int": (4, True),
    "unsigned int": (4, False),
    "long int": (8, True),
    "long unsigned int": (8, False),
    "long long int": (8, True),
    "long long unsigned int": (8, False),
    "_Bool": (1, False),
}


class CTypes:
    """Declarations in a subset of C, as BTF. ``functions``: ids of the prototypes' Funcs, by name, in order."""

    def __init__(self, text: str, base: CTypes | None = None) -> None:
        self.functions: dict[str, int] = {}
        self._base = base
        self._known: dict[str, int] = dict(base._known) if base else {}
        self._sizes: dict[int, int] = dict(base._sizes) if base else {}
        self._list: list[t.Type] = []
        self._first = base.btf.end if base else 1
        self._words = _tokens(text)
        self._at = 0
        if base is None:
            for name, (size, signed) in _INTS.items():
                encoded = t.Int(name, size, signed, is_bool=name == "_Bool", bits=8 * size)
                self._sizes.setdefault(self._new(name, encoded), size)
        while self._at < len(self._words):
            self._declaration()
        own = base.btf if base else None
        self.btf = Btf(write(self._list, own), own)

    def _add(self, found: t.Type) -> int:
        self._list.append(found)
        return self._first + len(self._list) - 1

    def _new(self, key: str, found: t.Type) -> int:
        number = self._known[key] = self._add(found)
        return number

    def _next(self) -> str:
        self._at += 1
        return self._words[self._at - 1]

    def _peek(self) -> str:
        return self._words[self._at]

    def _take(self, word: str) -> bool:
        if self._peek() == word:
            self._at += 1
            return True
        return False

    def _need(self, word: str) -> None:
        got = self._next()
        if got != word:
            raise ValueError(f"fake kernel: {word!r} expected, not {got!r} (word {self._at})")

    def _declaration(self) -> None:
        if self._take("typedef"):
            base = self._base_type()
            name, number = self._declarator(base)
            self._need(";")
            size = self._sizes.get(number, 8)
            self._sizes[self._new(name, t.Typedef(name, number))] = size
            return
        base = self._base_type()
        if self._take(";"):
            return
        name, result = self._pointers(base)
        name = self._next()
        self._need("(")
        params, variadic = self._params()
        self._need(";")
        proto = self._add(t.FuncProto(result, tuple(params), variadic))
        self.functions[name] = self._add(t.Func(name, proto, 1))

    def _pointers(self, number: int) -> tuple[str, int]:
        while self._peek() in ("*", "const"):
            number = self._add(t.Ptr(number) if self._next() == "*" else t.Const(number))
            self._sizes[number] = 8
        return "", number

    def _declarator(self, number: int) -> tuple[str, int]:
        """A name with its pointers, dimensions, or as a pointer to a function."""
        _, number = self._pointers(number)
        if self._take("("):
            self._need("*")
            name = self._next()
            self._need(")")
            self._need("(")
            params, variadic = self._params()
            number = self._add(t.Ptr(self._add(t.FuncProto(number, tuple(params), variadic))))
            self._sizes[number] = 8
            return name, number
        name = self._next() if self._peek() not in (",", ")", ";", "[") else ""
        counts = []
        while self._take("["):
            counts.append(0 if self._peek() == "]" else int(self._next()))
            self._need("]")
        for count in reversed(counts):
            size = self._sizes.get(number, 8) * count
            number = self._add(t.Array(number, self._known["int"], count))
            self._sizes[number] = size
        return name, number

    def _params(self) -> tuple[list[t.Param], bool]:
        params: list[t.Param] = []
        if self._take(")"):
            return params, False
        if self._words[self._at : self._at + 2] == ["void", ")"]:
            self._at += 2
            return params, False
        while True:
            if self._take("..."):
                self._need(")")
                return params, True
            name, number = self._declarator(self._base_type())
            params.append(t.Param(name, number))
            if self._take(")"):
                return params, False
            self._need(",")

    def _base_type(self) -> int:
        const = volatile = False
        words: list[str] = []
        number: int | None = None
        while True:
            word = self._peek()
            if word == "const":
                const = True
            elif word == "volatile":
                volatile = True
            elif word in ("struct", "union", "enum") and number is None and not words:
                self._at += 1
                number = self._tagged(word)
                continue
            elif word in _BASIC_WORDS and number is None:
                words.append(word)
            elif number is None and not words and word in self._known:
                number = self._known[word]
            elif number is None and not words and word == "void":
                number = 0
            else:
                break
            self._at += 1
        if words:
            rest = [w for w in words if w != "int"] if len(words) > 1 else words
            number = self._known[_SPELLINGS[" ".join(sorted(rest))]]
        if number is None:
            raise ValueError(f"fake kernel: a type expected, not {self._peek()!r}")
        for wanted, cls in ((volatile, t.Volatile), (const, t.Const)):
            if wanted:
                size = self._sizes.get(number, 0)
                number = self._add(cls(number))
                self._sizes[number] = size
        return number

    def _tagged(self, keyword: str) -> int:
        name = self._next() if self._peek() != "{" else ""
        key = f"{keyword} {name}"
        if not self._take("{"):
            if key not in self._known:
                self._new(key, t.Fwd(name, keyword == "union"))
            return self._known[key]
        if keyword == "enum":
            values = []
            while not self._take("}"):
                constant = self._next()
                value = int(self._next(), 0) if self._take("=") else (values[-1][1] + 1 if values else 0)
                values.append((constant, value))
                self._take(",")
            number = self._add(t.Enum(name, 4, any(value < 0 for _, value in values), tuple(values)))
            self._sizes[number] = 4
            self._known[key] = number
            return number
        # The id is needed by members that point back, before the members are known.
        number = self._known.get(key, 0)
        if number < self._first:  # new, or a module's definition of what the kernel declares only
            number = self._new(key if name else "", t.Void())
        members: list[t.Member] = []
        offset = size = 0  # of what comes next and of the whole, in bits
        while not self._take("}"):
            base = self._base_type()
            if self._take(";"):
                found, member, bits = base, "", 0
            else:
                member, found = self._declarator(base)
                bits = int(self._next()) if self._take(":") else 0
                self._need(";")
            width = self._sizes.get(found, 8)
            align = min(8, 1 << max(0, (width & -width).bit_length() - 1)) if width else 1
            if keyword == "union":
                offset = 0
            elif not bits or offset // (8 * width) != (offset + bits - 1) // (8 * width):
                offset = -(-offset // (8 * align)) * 8 * align
            members.append(t.Member(member, found, offset, bits))
            offset += bits or 8 * width
            size = max(size, offset)
        size = -(-size // 8)
        size = -(-size // 8) * 8 if size > 8 else size
        cls = t.Union if keyword == "union" else t.Struct
        self._list[number - self._first] = cls(name, size, tuple(members))
        self._sizes[number] = size
        return number


_BASIC_WORDS = frozenset(("char", "short", "int", "long", "unsigned", "signed", "_Bool"))
_SPELLINGS = {
    "char": "char",
    "char signed": "signed char",
    "char unsigned": "unsigned char",
    "short": "short int",
    "short unsigned": "short unsigned int",
    "int": "int",
    "signed": "int",
    "unsigned": "unsigned int",
    "long": "long int",
    "long unsigned": "long unsigned int",
    "long long": "long long int",
    "long long unsigned": "long long unsigned int",
    "_Bool": "_Bool",
}


def _tokens(text: str) -> list[str]:
    words: list[str] = []
    for raw in text.splitlines():
        line = raw.split("//")[0]
        for mark in "*(){}[],;=:":
            line = line.replace(mark, f" {mark} ")
        words += line.split()
    return words


class FakeDebugInfo:
    """Debug information of a fake kernel: none without ``files``."""

    package = "linux-image-6.1.0-fake-dbg"

    def __init__(self, kernel: FakeKernel, files: Mapping[str, str] | None, lines: Mapping[str, str] | None) -> None:
        self._kernel, self._files, self._lines = kernel, files, dict(lines or {})

    def check(self) -> None:
        if self._files is None:
            raise NoDebugInfo("there is no debug information of the kernel", hint=f"apt-get install {self.package}")

    def within(self, fits: Callable[[str], bool]) -> Callable[[Function], bool]:
        return lambda function: fits((self._files or {}).get(function.base, ""))

    def has(self, fits: Callable[[str], bool]) -> bool:
        return any(map(fits, self.files()))

    def files(self) -> set[str]:
        return set((self._files or {}).values())

    def _addresses(self, places: str) -> list[int]:
        found = (place.partition("+") for place in places.split())
        return [
            self._kernel.function(name).address + int(offset or "0", 0) if name != "gone" else 1
            for name, _, offset in found
        ]

    def places(self, addresses: Iterable[int]) -> dict[int, Place]:
        known = {a: Place(*_file_line(key)) for key, places in self._lines.items() for a in self._addresses(places)}
        return {address: known[address] for address in addresses if address in known}

    def lines(self, file: str) -> set[int]:
        return {line for name, line in map(_file_line, self._lines) if name == file}

    def beginnings(self, file: str, line: int) -> list[int]:
        return self._addresses(self._lines.get(f"{file}:{line}", ""))


def _file_line(text: str) -> tuple[str, int]:
    file, _, line = text.rpartition(":")
    return file, int(line)


class FakeKernel:
    """See the module's docstring. Fulfils ``klasy.kernel.model.Kernel``.

    ``modules`` maps a module's name to its declarations; ``calls`` may say ``name[module]``. ``static`` names get as
    many functions of that name as said. ``refuse`` maps ``name``, ``name+0x10`` or ``name/way`` to a refusal.
    ``absent`` maps names to what is known of them. ``data`` maps variables to address and size (``percpu`` are those of
    them that each CPU has), ``memory`` addresses to what lies there. ``events`` are the texts of the formats of trace
    events, by category and name. ``files``: the source file of each function; ``lines``: by ``file:line``, the places
    where it begins, as ``name+0x10 name``.
    """

    release = "6.1.0-fake"
    build_id = "00" * 20
    symbols: Mapping[str | None, object] = {}  # no text in which accesses to members could be found

    def __init__(
        self,
        declarations: str = "",
        calls: str = "",
        *,
        modules: Mapping[str, str] | None = None,
        static: Mapping[str, int] | None = None,
        refuse: Mapping[str, Refusal] | None = None,
        absent: Mapping[str, str] | None = None,
        data: Mapping[str, tuple[int, int]] | None = None,
        percpu: Iterable[str] = (),
        memory: Mapping[int, bytes] | None = None,
        events: Mapping[tuple[str, str], str] | None = None,
        files: Mapping[str, str] | None = None,
        lines: Mapping[str, str] | None = None,
    ) -> None:
        self.inlined_functions: dict[str, Sequence[Inlined]] = {}
        self.tracepoints = Tracepoints(events)
        self.debug_info = FakeDebugInfo(self, files, lines)
        self._data = dict(data or {})
        self._percpu = frozenset(percpu)
        self._memory = dict(memory or {})
        self.hooked = False  # whether bodies() finds any
        self.named: list[Reference] = []  # what references() finds
        self._types = CTypes(declarations)
        self.btf = self._types.btf
        self._refuse = dict(refuse or {})
        self._absent = dict(absent or {})
        self._by_address: dict[int, Function] = {}
        self._by_name: dict[tuple[str, str | None], Function] = {}
        self._modules = {name: CTypes(text, self._types) for name, text in (modules or {}).items()}
        self._bytes: dict[int, bytes] = {}
        self.asked: list[str] = []  # which of the dear questions were asked, for tests of thrift
        lines = [line.split("#")[0].split(":", 1) for line in calls.splitlines() if ":" in line.split("#")[0]]
        mentioned = [_target(word) for caller, callees in lines for word in [caller.strip(), *callees.split()]]
        where: dict[str | None, dict[str, int | None]] = {None: dict(self._types.functions)}
        for module, found in self._modules.items():
            where[module] = dict(found.functions)
        for name, module in mentioned:
            names = where.setdefault(module, {})
            if name and name not in names:
                names[name] = None
        self._loaded = [module for module in where if module is not None]
        for module, names in where.items():
            address = START if module is None else MODULE_START + 0x10_0000 * list(where).index(module)
            btf = self.btf if module is None else self.module_btf(module)
            for name, proto in names.items():
                copies = (static or {}).get(name, 1)
                for _ in range(copies):
                    function = Function(name, address, SIZE, module, *_clone(name), copies, proto, btf)
                    self._by_address[address] = function
                    self._by_name.setdefault((name, module), function)
                    address += SIZE
        self._sites: list[CallSite] = []
        for caller, callees in lines:
            function = self._by_name[_target(caller.strip())]
            for number, word in enumerate(callees.split()):
                self._add_site(function, FIRST_CALL * (number + 1), word)
        self._sites.sort(key=lambda site: site.address)

    def _add_site(self, caller: Function, offset: int, word: str) -> None:
        address = caller.address + offset
        name, module = _target(word)
        if not name:
            self._sites.append(CallSite(address, 3, CallKind.INDIRECT, caller, None))
            return
        callee = self._by_name[name, module]
        jump = word.split(":", maxsplit=1)[0] if ":" in word else ""
        kind = CallKind.TAIL if jump else CallKind.DIRECT
        length = 6 if jump in _CONDITIONS else 5
        opcode = bytes([0x0F, 0x80 | _CONDITIONS[jump]]) if jump in _CONDITIONS else (b"\xe9" if jump else b"\xe8")
        self._bytes[address] = opcode + bytes(length - len(opcode))
        self._sites.append(CallSite(address, length, kind, caller, callee))

    def function(self, name: str, module: str | None = None) -> Function:
        """The (first) function of a name."""
        return self._by_name[name, module]

    def all_functions(self) -> list[Function]:
        """All of them, by address."""
        return sorted(self._by_address.values(), key=lambda f: f.address)

    def all_sites(self) -> list[CallSite]:
        """All call sites, by address."""
        return list(self._sites)

    def lengthen(self, site: CallSite, length: int) -> None:
        """Make a call instruction as long as said."""
        self._sites[self._sites.index(site)] = site._replace(length=length)

    # --- the protocol

    def inlined(self, name: str) -> Sequence[Inlined]:
        return self.inlined_functions.get(name, ())

    def source_lines(self, addresses: Sequence[int]) -> Mapping[int, Place]:
        return self.debug_info.places(addresses)

    def module_btf(self, module: str) -> Btf | None:
        found = self._modules.get(module)
        return found.btf if found else None

    def modules(self) -> Collection[str]:
        return self._loaded

    def function_names(self) -> Collection[str]:
        return {function.base for function in self._by_address.values()}

    def functions(self, pattern: str, modules: Collection[str] | None = None) -> list[Function]:
        named = [f for f in self.all_functions() if matches(pattern, f.base) or matches(pattern, f.name)]
        return [f for f in named if modules is None or f.module in modules]

    def function_at(self, address: int) -> Function | None:
        return next((f for f in self._by_address.values() if f.address <= address < f.end), None)

    def entered_at(self, address: int) -> Function | None:
        found = [f for f in self.functions("*") if f.address == address and f.clone is not Clone.COLD]
        return found[-1] if found else None

    def callers(self, callees: Iterable[Function]) -> list[CallSite]:
        self.asked.append("callers")
        wanted = {callee.address for callee in callees}
        return [site for site in self._sites if site.callee is not None and site.callee.address in wanted]

    def calls_in(self, functions: Iterable[Function]) -> list[CallSite]:
        self.asked.append("calls_in")
        wanted = {function.address for function in functions}
        return [site for site in self._sites if site.caller.address in wanted]

    def bodies(self, functions: Sequence[Function]) -> Mapping[int, int]:
        return {function.address: function.address + 5 for function in functions} if self.hooked else {}

    def only_from_before(self, places: Mapping[int, Function]) -> Collection[int]:
        return set()

    def may_fault(self, address: int, function: Function) -> bool:
        return False

    def text(self, address: int, size: int) -> bytes:
        return self._bytes.get(address, b"\x90" * size)[:size]

    def instruction_length(self, address: int) -> int | None:
        inside = (site for site in self._sites if site.address <= address < site.return_address)
        site = next(inside, None)
        return 1 if site is None else site.length if site.address == address else None

    def refusal(self, address: int, function: Function, way: Way) -> Refusal | None:
        offset = address - function.address
        names = [f"{function.name}+{offset:#x}"] if offset else [f"{function.name}+0", f"{function.name}/{way.value}"]
        for name in [*names, function.name]:
            if name in self._refuse:
                return self._refuse[name]
        if way in (Way.FENTRY, Way.FEXIT) and function.proto is None:
            return Refusal("no-btf", f"the kernel has no type information for {function.name}")
        if way in (Way.FENTRY, Way.FEXIT) and function.duplicates > 1:
            return Refusal("duplicate-name", f"{function.duplicates} functions are called {function.name}")
        return None

    def entry_refusals(self, functions: Iterable[Function]) -> dict[int, Refusal | None]:
        return {f.address: self.refusal(f.address, f, Way.KPROBE) for f in functions}

    def site_refusal(self, site: CallSite) -> Refusal | None:
        return self.refusal(site.address, site.caller, Way.KPROBE)

    def why_absent(self, name: str) -> str | None:
        return self._absent.get(name)

    def data_symbols(self, pattern: str) -> Sequence[DataSymbol]:
        found = [(name, place) for name, place in self._data.items() if matches(pattern, name)]
        return [DataSymbol(name, address, size, None, name in self._percpu) for name, (address, size) in found]

    def read(self, address: int, size: int) -> bytes:
        for start, content in self._memory.items():
            if start <= address and address + size <= start + len(content):
                return content[address - start : address - start + size]
        raise KernelRefused(f"read kernel memory at {address:#x}", errno.EFAULT)

    def references(self, address: int, size: int, per_cpu: int | None = None) -> list[Reference]:
        self.asked.append(f"references {address:#x} {size}")
        return list(self.named)

    def access_before(self, ip: int) -> Reference | None:
        return next((reference for reference in self.named if reference.end == ip), None)


def _target(word: str) -> tuple[str, str | None]:
    """``jmp:name[module]`` -> name, module. An indirect call is ``*``: no name."""
    word = word.rsplit(":", maxsplit=1)[-1]
    if word == "*":
        return "", None
    name, _, module = word.partition("[")
    return name, module.rstrip("]") or None


def _clone(name: str) -> tuple[str, Clone]:
    base, *suffixes = name.split(".")
    kinds = [Clone(s) for s in suffixes if s in {c.value for c in Clone}]
    if Clone.COLD in kinds:
        return base, Clone.COLD
    return base, (kinds[0] if kinds else (Clone.OTHER if suffixes else Clone.NONE))
