"""What every kernel model has in common: functions, call sites and types, worked out from symbols, text and BTF.

``KernelImage`` does the work; where the bytes come from, its subclasses say: ``live`` takes them from the running
kernel, ``snapshot`` from a file.
"""

from __future__ import annotations

import os
from bisect import bisect_right

from klasy.btf.btf import Btf
from klasy.errors import KernelLacks
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel.function import KernelFunction
from klasy.kernel.model import Clone
from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from klasy.kernel.callsites import Reached
    from klasy.kernel.debugfiles import DebugInfo
    from klasy.kernel.dwarf_source import ObjectDebug
    from klasy.kernel.inlined import Inlined
    from klasy.kernel.kallsyms import Symbols
    from klasy.kernel.model import CallSite, DataSymbol, Function, Place, Refusal, Way
    from klasy.kernel.references import Reference
    from klasy.kernel.traceable import Traceability
    from klasy.kernel.tracepoints import Tracepoints

_MANY_NAMES = 2_000


class KernelImage:
    """A ``Kernel`` over symbols, memory and BTF.

    ``release`` and ``build_id`` are as in ``Kernel``. ``trampoline_registers``: how many argument registers a BPF
    trampoline saves; 6 before Linux 6.6 (commit 473e3150e30a, "bpf, x86: allow function arguments up to 12 for
    TRACING"). Who can probe the running kernel sets it; here no version is compared.
    """

    trampoline_registers = 6

    def __init__(self, release: str, build_id: str) -> None:
        self.release = release
        self.build_id = build_id
        self._functions: dict[str | None, dict[int, KernelFunction]] = {}
        self._btfs: dict[str | None, Btf | None] = {}
        self._texts: dict[str | None, bytes] = {}
        self._data: dict[str, Sequence[DataSymbol]] = {}

    # --- what subclasses provide

    @cached_property
    def symbols(self) -> Mapping[str | None, Symbols]:
        """The functions of the kernel proper (None) and of each module. Raises SystemRefusal where they are hidden."""
        raise NotImplementedError

    def read(self, address: int, size: int) -> bytes:
        """Memory as it is now. Raises SystemRefusal where it cannot be read."""
        raise NotImplementedError

    def load_btf(self, module: str | None, base: Btf | None) -> Btf | None:
        """The types of the kernel proper or of a module."""
        raise NotImplementedError

    def unprobed(self, address: int, size: int) -> bytes:
        """Text as it would be without probes, read now. Raises SystemRefusal where it cannot be read."""
        return self.read(address, size)

    def blacklist(self) -> bytes:
        """/sys/kernel/debug/kprobes/blacklist, empty where there is none."""
        raise NotImplementedError

    @property
    def tracepoints(self) -> Tracepoints:
        """The trace events. Raises KernelLacks where there are none."""
        raise NotImplementedError

    def place(self, name: str) -> int | None:
        """The address of a symbol of the kernel proper that need not be a function's."""
        raise NotImplementedError

    def module_sections(self, module: str) -> Mapping[str, int]:
        """Where the sections of a module begin, by their names."""
        raise NotImplementedError

    def module_section(self, module: str, name: str) -> int | None:
        """Where one section of a module begins, None where it has no such."""
        return self.module_sections(module).get(name)

    def build_id_of(self, module: str) -> str | None:
        """The build id of a module, as hexadecimal digits; None where it is not known."""
        return None

    @cached_property
    def debug_info(self) -> DebugInfo:
        """What debug information tells, where it is installed."""
        from klasy.kernel.debugfiles import DebugInfo

        return DebugInfo(self)

    @cached_property
    def _may_have_debug_info(self) -> bool:
        """Whether it is worth to load what reads debug information: ``debugfiles`` knows the places well."""
        build_id, release = self.build_id, self.release
        places = (
            f"/usr/lib/debug/boot/vmlinux-{release}",
            f"/usr/lib/debug/lib/modules/{release}",
            f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug",
            f"/lib/modules/{release}/build/vmlinux",
            f"/boot/vmlinux-{release}",
        )
        return any(map(os.path.exists, places))

    def debug_of(self, module: str | None) -> ObjectDebug | None:
        """The debug information of the kernel proper or of a module; None where none of this build is installed."""
        return self.debug_info.installed(module) if self._may_have_debug_info else None

    def seek_debug_info(self, root: str) -> None:
        """Look for debug information in another folder than the one that packages of such put theirs in."""
        from klasy.kernel.debugfiles import DebugInfo

        self.debug_info, self._may_have_debug_info = DebugInfo(self, root), True

    def inlined(self, name: str) -> Sequence[Inlined]:
        """The functions of a name that were inlined in the kernel proper, as far as debug information tells.

        Raises NoDebugInfo where what is installed is damaged.
        """
        if not self._may_have_debug_info:
            return ()
        return self.debug_info.inlined(name)

    def source_lines(self, addresses: Sequence[int]) -> Mapping[int, Place]:
        """The lines that instructions were made from, as far as installed debug information tells: asking is cheap."""
        if not self._may_have_debug_info:
            return {}
        from klasy.dwarf.elf import DwarfError

        try:
            return self.debug_info.places(addresses)
        except DwarfError:
            return {}

    def data_symbols(self, pattern: str) -> Sequence[DataSymbol]:
        """Global variables whose name matches a glob, by address."""
        found = self._data.get(pattern)
        if found is None:
            found = self._data[pattern] = self.find_data(pattern)
        return found

    def find_data(self, pattern: str) -> Sequence[DataSymbol]:
        """The same, looked up anew."""
        raise NotImplementedError

    def why_absent(self, name: str) -> str | None:
        """What is known of a function name that has no symbol."""
        raise NotImplementedError

    # --- accesses to data

    def references(self, address: int, size: int, per_cpu: int | None = None) -> list[Reference]:
        """The instructions that name data's address."""
        from klasy.kernel import references

        return references.direct(self, address, size, per_cpu=per_cpu)

    def access_before(self, ip: int) -> Reference | None:
        """The instruction whose access to data left the processor at ``ip``."""
        from klasy.kernel import references

        return references.before(self, ip)

    # --- types

    @property
    def btf(self) -> Btf:
        """The types of the kernel proper. Raises KernelLacks where it has no BTF."""
        found = self.btf_of(None)
        if found is None:
            raise KernelLacks(
                "this kernel does not describe its types (BTF)",
                hint="it was built without CONFIG_DEBUG_INFO_BTF: /sys/kernel/btf/vmlinux is missing",
            )
        return found

    def module_btf(self, module: str) -> Btf | None:
        """The types of a module (whose base is ``btf``), or None where it has none."""
        return self.btf_of(module)

    def btf_of(self, module: str | None) -> Btf | None:
        """The types of the kernel proper (None) or of a module; None where it has none."""
        if module not in self._btfs:
            base = self.btf_of(None) if module else None
            self._btfs[module] = None if module and base is None else self.load_btf(module, base)
        return self._btfs[module]

    def find_proto(self, function: KernelFunction) -> int | None:
        """The id of the Func of a function; None for clones, and where several of one name differ in type."""
        btf = self.btf_of(function.module)
        if btf is None or function.clone is not Clone.NONE:
            return None
        return btf.find_one_func(function.name)

    # --- functions

    def modules(self) -> Collection[str]:
        """Names of the loaded modules."""
        return [name for name in self.symbols if name is not None]

    @cached_property
    def _base_names(self) -> frozenset[str]:
        return frozenset(
            [name.partition(".")[0] or name for symbols in self.symbols.values() for name in symbols.all_names()]
        )

    def function_names(self) -> Collection[str]:
        """All distinct base names of functions."""
        return self._base_names

    def functions(self, pattern: str, modules: Collection[str] | None = None) -> list[Function]:
        """Functions whose base name or symbol matches a glob, clones included, by address; of ``modules`` if given."""
        found: list[Function] = []
        for _, _, module in self.objects:
            if modules is None or module in modules:
                found += self._functions_at(module, self.symbols[module].matching(pattern))
        return found

    def _functions_at(self, module: str | None, indices: Sequence[int]) -> list[KernelFunction]:
        """Functions of the kernel proper or a module by their places in its table. Of one place there is one object."""
        made, symbols = self.made(module), self.symbols[module]
        names = symbols.all_names() if len(indices) > _MANY_NAMES else None  # all at once are quicker than one by one
        found = []
        for index in indices:
            function = made.get(index)
            if function is None:
                name = names[index] if names is not None else None
                function = made[index] = KernelFunction(self, module, symbols, index, name)
            found.append(function)
        return found

    def made(self, module: str | None) -> dict[int, KernelFunction]:
        """The functions of the kernel proper or a module that there are objects of so far, by their places."""
        return self._functions.setdefault(module, {})

    def _function(self, module: str | None, index: int) -> KernelFunction:
        return self._functions_at(module, (index,))[0]

    @cached_property
    def objects(self) -> list[tuple[int, int, str | None]]:
        """Where the text of the kernel and of each module lies."""
        return sorted((s.base, s.end, module) for module, s in self.symbols.items() if len(s))

    def object_at(self, address: int) -> tuple[str | None, Symbols] | None:
        """The kernel proper (None) or the module whose text holds an address."""
        for start, end, module in self.objects:
            if start <= address < end:
                return module, self.symbols[module]
        return None

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address; of several names of one, the kernel's own first choice."""
        holder = self.object_at(address)
        index = holder[1].at(address) if holder else None
        return None if holder is None or index is None else self._function(holder[0], index)

    def entered_at(self, address: int) -> Function | None:
        """The function, no piece without an entry, that begins at an address; of several names of one the last."""
        module, symbols = self.object_at(address) or (None, self.symbols[None])
        starts, offset = symbols.starts, address - symbols.base
        index = bisect_right(starts, offset) - 1
        while index >= 0 and starts[index] == offset:
            function = self._function(module, index)
            if function.clone is not Clone.COLD:
                return function
            index -= 1
        return None

    def first_name(self, function: Function) -> str:
        """The name that the kernel gives to a function that has several."""
        if isinstance(function, KernelFunction):
            symbols, index = function.first
            return symbols.name(index)
        found = self.function_at(function.address)
        return found.name if found else function.name

    # --- text

    def text(self, address: int, size: int) -> bytes:
        """Text as it would be without probes, whoever put them there."""
        holder = self.object_at(address)
        if holder and address + size <= holder[1].end and holder[0] in self._texts:
            start = address - holder[1].base
            return self._texts[holder[0]][start : start + size]
        return self.unprobed(address, size)

    def object_text(self, module: str | None) -> bytes:
        """The whole text of the kernel proper or of a module, as ``text`` gives it."""
        if module not in self._texts:
            symbols = self.symbols[module]
            size = symbols.end - symbols.base
            self._texts[module] = self.unprobed(symbols.base, size) if size else b""
        return self._texts[module]

    def instruction_length(self, address: int) -> int | None:
        """Length in bytes of the instruction at an address, None where none starts there."""
        from klasy.kernel import insn_x86_64 as insn

        function = self.function_at(address)
        if function is None:
            return None
        code = self.text(function.address, function.size)
        offset = address - function.address
        return insn.length(code, offset) if insn.boundary(code, 0, offset) == offset else None

    # --- calls

    def callers(self, callees: Iterable[Function]) -> list[CallSite]:
        """All DIRECT and TAIL sites that reach one of the functions' entries. By address."""
        from klasy.kernel import callsites

        return callsites.callers(self, callees)

    def branches_to(self, targets: Collection[int]) -> list[Reached]:
        """The calls and jumps in all text that lead to one of some addresses. By address."""
        from klasy.kernel import callsites

        return callsites.branches_to(self, targets)

    def calls_in(self, functions: Iterable[Function]) -> list[CallSite]:
        """All call sites, INDIRECT ones included, in the text of the functions. By address."""
        from klasy.kernel import callsites

        return callsites.calls_in(self, functions)

    # --- what can be probed

    @cached_property
    def traceability(self) -> Traceability:
        """What can be probed."""
        from klasy.kernel.traceable import Traceability

        return Traceability(self)

    def refusal(self, address: int, function: Function, way: Way) -> Refusal | None:
        """Why an address of a function cannot be probed that way; None when it is believed that it can."""
        return self.traceability.refusal(address, function, way)

    def entry_refusals(self, functions: Iterable[Function]) -> Mapping[int, Refusal | None]:
        """What ``refusal`` says of kprobes at the entries of many functions, by address."""
        from klasy.kernel.entries import entry_refusals

        return entry_refusals(self, functions)

    def site_refusal(self, site: CallSite) -> Refusal | None:
        """Why a call instruction, which is known to be one, cannot be probed; None when it is believed that it can."""
        return self.traceability.site_refusal(site)

    def bodies(self, functions: Sequence[Function]) -> Mapping[int, int]:
        """Where the own instructions of functions begin, by their entries: see klasy.kernel.bodies."""
        from klasy.kernel.bodies import bodies

        return bodies(self, functions)

    def far_into_bodies(self) -> Collection[int]:
        """Of the places behind the hooks of functions those that a branch with a 32-bit distance leads to."""
        from klasy.kernel.bodies import far_into_bodies

        return far_into_bodies(self)

    def only_from_before(self, places: Mapping[int, Function]) -> Collection[int]:
        """Those of some places in functions that nothing leads to but the instruction before, for sure."""
        from klasy.kernel.bodies import only_from_before

        return only_from_before(self, places)

    def may_fault(self, address: int, function: Function) -> bool:
        """Whether the kernel goes on elsewhere when an instruction of a function faults."""
        return self.traceability.may_fault(address, function)

    def has_ftrace_site(self, address: int) -> bool:
        """Whether the function that begins at an address can be traced by ftrace.

        Its first bytes say so, with a few exceptions that begin with the same bytes for other reasons (a jump label, an
        alternative). ftrace's own list knows those, but not which of several functions of a name it means.
        """
        holder = self.object_at(address)
        index = holder[1].at(address) if holder else None
        return self._hooked(address, None if index is None or holder is None else (holder[1], index))

    def has_hook(self, function: Function) -> bool:
        """Whether a function can be traced by ftrace."""
        if isinstance(function, KernelFunction):
            return self._hooked(function.address, function.first)
        return self.has_ftrace_site(function.address)

    def _hooked(self, address: int, place: tuple[Symbols, int] | None) -> bool:
        if place is not None:
            symbols, index = place
            if symbols.listed is not None and (not symbols.listed[index] or symbols.shares[index] == 1):
                return bool(symbols.listed[index])  # no other function can be meant
        code = self.text(address, arch.ENTRY_BYTES)
        found = arch.ftrace_offset(code)
        if found is None or found[1] is None:
            return found is not None
        from klasy.kernel.callsites import tracer_call

        return tracer_call(self, address, code) is not None
