"""One function at a time: from its text to the rows of its accesses. ``index`` asks for many, and keeps them.

A function whose prototype BTF has not (a clone, whose parameters the compiler changed) takes the types of its
arguments from its callers, where they all agree: ``Engine.callers`` says who they are.
"""

from __future__ import annotations

from klasy.flow import cfg, infer, seeds, transfer
from klasy.flow.lattice import NOT_YET, is_small, meet
from klasy.flow.rows import rows_of
from klasy.flow.state import FIRST, SHIFT
from klasy.kernel import callsites
from klasy.kernel.kallsyms import clone_of
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klasy.flow.debuginfo import DebugFacts
    from klasy.flow.lattice import Known
    from klasy.flow.members import Place
    from klasy.flow.rows import Row
    from klasy.kernel.image import KernelImage

_DEEPEST = 2  # callers of callers

# Global variables whose type BTF does not tell, though everybody knows it
_GLOBALS = {
    "init_task": "task_struct",
    "init_net": "net",
    "init_mm": "mm_struct",
    "init_user_ns": "user_namespace",
    "init_pid_ns": "pid_namespace",
    "init_cred": "cred",
    "init_files": "files_struct",
    "init_fs": "fs_struct",
}


class Engine:
    """Analyses functions of one kernel. ``callers``: for functions without a prototype, by address, their callers'.

    ``debug_info``: with what the kernel's debug information tells of their variables, where it is installed.
    """

    def __init__(self, kernel: KernelImage, *, debug_info: bool = False) -> None:
        self.kernel = kernel
        self.seeds = seeds.Seeds(kernel)
        self.debug = self._debug_facts() if debug_info else None
        self.callers: dict[int, list[int]] = {}
        self._texts: dict[str | None, cfg.Text] = {}
        self._arguments: dict[int, dict[int, Place]] = {}
        types = self.seeds.types_of(None)
        self.percpu = self.seeds.percpu(types)
        self.percpu_offsets = self._find_percpu_offsets()
        self.variables = self._find_globals()

    def _debug_facts(self) -> DebugFacts:
        from klasy.flow.debuginfo import DebugFacts

        return DebugFacts(self.kernel, self.seeds)

    def _find_percpu_offsets(self) -> frozenset[int]:
        """Where the distances of the per-CPU sections stand: this CPU's, and the table of all."""
        found = []
        for name in ("this_cpu_off", "__per_cpu_offset"):
            for symbol in self.kernel.data_symbols(name):
                found.append(symbol.address if symbol.percpu else symbol.address - (1 << 64))
        return frozenset(found)

    def _find_globals(self) -> list[tuple[int, int, int]]:
        """Known variables: (address as a signed number, the one behind it, struct)."""
        found: list[tuple[int, int, int]] = []
        for symbol in self.kernel.data_symbols("init_*"):
            type_id = self.seeds.by_name(_GLOBALS[symbol.name]) if symbol.name in _GLOBALS else 0
            if type_id and symbol.module is None and not symbol.percpu:
                start = symbol.address - (1 << 64)
                found.append((start, start + self.seeds.types_of(None).size(type_id), type_id))
        return found

    def text(self, module: str | None) -> cfg.Text:
        """The text of the kernel proper or of a module."""
        found = self._texts.get(module)
        if found is None:
            found = self._texts[module] = cfg.Text(self.kernel, module)
        return found

    def unit_of(self, module: str | None, index: int) -> int | None:
        """The unit that a function symbol belongs to: the function that an unlikely piece is of, else itself."""
        symbols = self.kernel.symbols[module]
        name = symbols.name(index)
        if ".cold" not in name:
            return symbols.at(symbols.address(index))
        whole = symbols.named(name[: name.index(".cold")])
        return min(whole, key=lambda i: abs(symbols.starts[i] - symbols.starts[index])) if whole else None

    def has_prototype(self, module: str | None, index: int) -> bool:
        """Whether the parameters of a function are known."""
        return self.seeds.callee(self.kernel.symbols[module].address(index)).known

    def infer(self, unit: cfg.Unit, depth: int = 0) -> infer.Inference:
        """The types of the values in a function."""
        text, module, index = unit.text, unit.text.module, unit.index
        address = text.base + unit.start
        callee = self.seeds.callee(address)
        evidence: dict[int, str] = {}
        if callee.known:
            arguments = {place: (target, 0) for place, target in enumerate(callee.parameters) if target}
        else:
            arguments = self._from_callers(module, address, depth)
            evidence = dict.fromkeys(arguments, ", as all callers give it")
        name = clone_of(text.symbols.name(index))[0]
        return infer.Inference(
            transfer.Flow(unit, self.seeds),
            self.seeds,
            arguments=arguments,
            variables=self.variables,
            percpu=self.percpu,
            percpu_offsets=self.percpu_offsets,
            result=callee.result,
            name=name,
            evidence=evidence,
            facts=self.debug.of(unit) if self.debug is not None else None,
        )

    def _from_callers(self, module: str | None, address: int, depth: int) -> dict[int, Place]:
        """What the arguments of a function without a prototype point to, by its callers."""
        found = self._arguments.get(address)
        if found is not None:
            return found
        if depth >= _DEEPEST:
            return {}
        self._arguments[address] = {}  # for what calls itself
        types = self.seeds.types_of(module)
        agreed: dict[int, Known] = {}
        for caller in self.callers.get(address, ()):
            known = self.infer(cfg.Unit(self.text(module), caller), depth + 1)
            for _, target, direct, arguments in known.flow.calls:
                if direct and target == address:
                    for place, number in enumerate(arguments):
                        here = known.place_of(number)
                        if number >> SHIFT < FIRST and here is None and is_small(number):
                            continue
                        agreed[place] = meet(types, agreed[place], here) if place in agreed else here
        found = {place: known for place, known in agreed.items() if known is not None and known != NOT_YET}
        if depth == 0:
            self._arguments[address] = found
        else:
            del self._arguments[address]
        return found

    def rows(self, unit: cfg.Unit) -> list[Row]:
        """The accesses of a function."""
        return rows_of(self.infer(unit))


def find_callers(engine: Engine, module: str | None, indices: Iterable[int]) -> Mapping[int, list[int]]:
    """Of functions of an object, by address, the units that call them directly."""
    symbols = engine.kernel.symbols[module]
    functions = [f for i in indices if (f := engine.kernel.function_at(symbols.address(i))) is not None]
    found: dict[int, set[int]] = {}
    for site in callsites.callers_within(engine.kernel, module, functions):
        assert site.callee is not None
        index = symbols.at(site.caller.address)
        unit = engine.unit_of(module, index) if index is not None else None
        if unit is not None:
            found.setdefault(site.callee.address, set()).add(unit)
    return {address: sorted(units) for address, units in found.items()}
