"""What the upper layers see of a kernel: functions, call sites, types, live text, and what cannot be probed.

``Kernel`` is a protocol: the running kernel and a saved snapshot both fulfil it. All of it is read-only.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, Enum, NamedTuple, Protocol, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from klasy.btf.btf import Btf
    from klasy.kernel.inlined import Inlined
    from klasy.kernel.references import Reference
    from klasy.kernel.tracepoints import Tracepoints


class Clone(Enum):
    """A copy or a piece of a function that the compiler made, told by the suffix of its symbol."""

    NONE = ""
    CONSTPROP = "constprop"  # a parameter was replaced by a constant: parameters may be missing
    ISRA = "isra"  # parameters were removed or replaced by parts of them
    PART = "part"  # a part of the body, split off for partial inlining
    COLD = "cold"  # unlikely blocks, moved away: no function of its own, has no entry
    OTHER = "other"  # any other suffix, e.g. .llvm.1234


@dataclass(frozen=True, slots=True)
class Function:
    """One function symbol of the kernel's text; or of a user program's, see :attr:`in_program`.

    ``address`` is where it is now and ``size`` runs to the next symbol, both in bytes. ``module`` is None for the
    kernel proper. ``base`` is the name in the source, without the suffix of a clone. ``proto`` is the id, in ``btf``,
    of the function's BTF_KIND_FUNC, or None where there is none (always so for clones: their parameters may differ).
    ``duplicates`` is how many functions of the same object (the kernel proper or a module)
    carry this very name, itself included.
    """

    name: str
    address: int
    size: int
    module: str | None
    base: str
    clone: Clone
    duplicates: int
    proto: int | None = None
    btf: Btf | None = field(default=None, compare=False, repr=False)

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size

    @property
    def in_program(self) -> bool:
        """Whether it is of a user program: ``module`` is then the path of the file that it is in, and the low 32 bits
        of ``address`` are its offset there; those above number the files of one aspect."""
        return self.module is not None and self.module.startswith("/")

    def __str__(self) -> str:
        return f"{self.name} [{self.module}]" if self.module else self.name


class CallKind(Enum):
    """How control reaches the callee."""

    DIRECT = "direct"  # call rel32
    TAIL = "tail"  # jmp or jcc rel32 to another function's entry
    INDIRECT = "indirect"  # call *reg, call *mem, or through a retpoline thunk
    INLINED = "inlined"  # none: a copy of the callee begins there, as debug information tells; it has no CallSite


class CallSite(NamedTuple):
    """One call instruction in live text.

    ``length`` in bytes; a DIRECT or INDIRECT call returns to ``address + length`` (``return_address``, which for a
    patched retpoline is behind the call itself, not behind its padding). ``callee`` is None for an INDIRECT one.
    """

    address: int
    length: int
    kind: CallKind
    caller: Function
    callee: Function | None

    @property
    def offset(self) -> int:
        """Bytes from the caller's entry."""
        return self.address - self.caller.address

    @property
    def return_address(self) -> int:
        """Where the callee returns to; meaningless for a TAIL call."""
        return self.address + self.length


class Way(Enum):
    """A way of probing, as far as refusals differ by it."""

    KPROBE = "kprobe"  # an instruction, by int3 or at a function's entry
    KRETPROBE = "kretprobe"
    FENTRY = "fentry"  # fentry and fexit: BPF trampolines
    FEXIT = "fexit"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be probed. ``code`` is stable (blacklist, notrace, bug, not-an-instruction,
    no-btf, duplicate-name, too-many-args, noreturn, variadic, asm, trace-internal ..); ``reason`` is for the user."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class DataSymbol:
    """A data symbol: a global variable. Size in bytes runs to the next symbol."""

    name: str
    address: int
    size: int
    module: str | None
    percpu: bool


class Place(NamedTuple):
    """A line of a source file, whose path is from the root of the kernel's sources."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SourcePlaces(Protocol):
    """Debug information of the kernel and its modules. Questions raise NoDebugInfo where there is none."""

    @property
    def package(self) -> str:
        """The Debian package that brings it along."""

    def check(self) -> None:
        """Raises NoDebugInfo where the kernel proper has none; that modules have none is no error."""

    def within(self, fits: Callable[[str], bool]) -> Callable[[Function], bool]:
        """Tells of a function whether the source file that it was compiled from fits."""

    def has(self, fits: Callable[[str], bool]) -> bool:
        """Whether some source file fits."""

    def files(self) -> set[str]:
        """The source files that the kernel and what is loaded of its modules were compiled from."""

    def lines(self, file: str) -> set[int]:
        """The lines of a file of which there is code."""

    def beginnings(self, file: str, line: int) -> list[int]:
        """Where a line begins: the first instruction in each function, and each inlined copy, that it is part of."""


class Kernel(Protocol):
    """A kernel to weave into, or a snapshot of one."""

    @property
    def release(self) -> str:
        """As ``uname -r`` gives it."""

    @property
    def build_id(self) -> str:
        """The GNU build id from /sys/kernel/notes, as hexadecimal digits."""

    @property
    def btf(self) -> Btf:
        """The types of the kernel proper. Raises KernelLacks where the kernel has no BTF."""

    def module_btf(self, module: str) -> Btf | None:
        """The types of a module (whose base is ``btf``), or None where it has none."""

    def modules(self) -> Collection[str]:
        """Names of the loaded modules."""

    def function_names(self) -> Collection[str]:
        """All distinct base names of functions: what a misspelt one is compared with."""

    def functions(self, pattern: str, modules: Collection[str] | None = None) -> list[Function]:
        """Functions whose base name or symbol matches a glob (only ``*`` is special), clones included, by address.

        ``modules``: those of these modules only. Raises SystemRefusal where the kernel hides its symbols.
        """

    def function_at(self, address: int) -> Function | None:
        """The function whose text holds an address."""

    def entered_at(self, address: int) -> Function | None:
        """The function, no piece without an entry, that begins at an address; of several names of one the last."""

    def callers(self, callees: Iterable[Function]) -> list[CallSite]:
        """All DIRECT and TAIL sites, in the kernel and its modules, that reach one of the functions' entries.

        Every site is confirmed to be an instruction's start by disassembling its function. By address.
        """

    def calls_in(self, functions: Iterable[Function]) -> list[CallSite]:
        """All call sites, INDIRECT ones included, in the text of the functions. By address."""

    def text(self, address: int, size: int) -> bytes:
        """Live text. Raises SystemRefusal where it cannot be read."""

    def instruction_length(self, address: int) -> int | None:
        """Length in bytes of the instruction at an address, None where none starts there."""

    def refusal(self, address: int, function: Function, way: Way) -> Refusal | None:
        """Why an address of a function cannot be probed that way; None when it is believed that it can."""

    def entry_refusals(self, functions: Iterable[Function]) -> Mapping[int, Refusal | None]:
        """What ``refusal`` says of kprobes at the entries of functions, by address: of many at once."""

    def site_refusal(self, site: CallSite) -> Refusal | None:
        """Why a call instruction, which is known to be one, cannot be probed; None when it is believed that it can."""

    def bodies(self, functions: Sequence[Function]) -> Mapping[int, int]:
        """By the address of its entry, for each function where it is sure that all executions pass it and nothing else
        does: the first instruction behind its hook for tracing, where a kprobe is put in a hundredth of the time."""

    def only_from_before(self, places: Mapping[int, Function]) -> Collection[int]:
        """Those of some places in functions that nothing leads to but the instruction before, for sure."""

    def may_fault(self, address: int, function: Function) -> bool:
        """Whether the kernel goes on elsewhere when an instruction of a function faults."""

    def why_absent(self, name: str) -> str | None:
        """What is known of a function name that has no symbol: inlined everywhere (BTF or another trace of it is
        there but no symbol), in a module that is not loaded, behind a configuration option; None: never heard of."""

    @property
    def debug_info(self) -> SourcePlaces:
        """What debug information tells. That there is none, its questions say."""

    def inlined(self, name: str) -> Sequence[Inlined]:
        """The functions of a name that were inlined in the kernel proper, as far as debug information tells."""

    def source_lines(self, addresses: Sequence[int]) -> Mapping[int, Place]:
        """The lines that instructions were made from, as far as debug information tells."""

    @property
    def tracepoints(self) -> Tracepoints:
        """Its trace events. Raises KernelLacks where they are not known (a snapshot's)."""

    def data_symbols(self, pattern: str) -> Sequence[DataSymbol]:
        """Global variables whose name matches a glob."""

    def read(self, address: int, size: int) -> bytes:
        """Memory as it is now. Raises SystemRefusal where it cannot be read."""

    def references(self, address: int, size: int, per_cpu: int | None = None) -> list[Reference]:
        """The instructions that name data's address; ``per_cpu``: its offset in a CPU's area, where it is a copy."""

    def access_before(self, ip: int) -> Reference | None:
        """The instruction whose access to data left the processor at ``ip``; None where that cannot be told."""
