"""Which instructions access the members of structs: types propagated over live machine code.

``accesses`` finds, in a kernel's text and its modules', the instructions that read or write given members. It reads a
kernel model (``klasy.kernel``), its BTF, and, where the kernel's debug information is installed, where the variables of
the functions are that it looks at; it weaves nothing, and knows neither pointcuts nor eBPF. Unknown types give no site:
they are counted. The parts, each upon those before it:

    decode, operands, opcodes, opcodes_0f    what one instruction does
    cfg                which instructions follow which
    members            where the parts of structs lie
    seeds              prototypes, per-CPU variables
    state, transfer    values of registers and slots, and their flow through a function
    debuginfo          which of the values are variables, where debug information is installed
    lattice            what can be known of a value's type, and what two values have in common
    derivation         how sure a type is, and in words where it comes from
    hints              what values are given to, which says what they are
    webs, enlarge      variables, and the objects that what is known of them is a part of
    infer              types of values: forward from what is known, back from hints, and out to whole variables
    rows               the accesses of a function, typed
    engine             one function; what has no prototype asks its callers
    index, workers     many functions, in several processes, kept by build id
    candidates, reach  which functions are worth a look
    answers, sites     what was asked, and what is handed out
    disasm             text of instructions

How much of it is right was measured on 6.1 in two ways that owe it nothing. Against DWARF (every access whose base
register holds, by a location list, a pointer to a struct): of the accesses typed 99.9 % agree in a sample of 260 source
files, and 84 % of all that DWARF types are typed; in the core of network, scheduler and files 92 %. Against debug
registers on members of live objects see tests/oracle. What is missed, most of all: entries of lists known by their head
only, ``void *`` that is given to nobody, headers found by an offset in a packet, pointers to members
(``&prev->nvcsw``), accesses by a routine that is handed a part of the object (mutex_lock).
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.flow.sites import Member, Sites
    from klasy.kernel.image import KernelImage

    Where = Callable[[str | None, int], bool]


def accesses(
    kernel: KernelImage,
    members: Sequence[Member],
    progress: Callable[[int, int], None] | None = None,
    *,
    use_cache: bool = True,
    whole: bool = False,
    where: Where | None = None,
) -> Sites:
    """The instructions that access some members (``sites.member`` makes them from BTF and a path).

    ``progress`` hears how many functions are done, of how many, while any are analysed. ``whole`` looks at all
    functions, not only at those whose code can reach the members; ``where``, told a module and a function's address,
    says which are of interest at all. Raises SystemRefusal where text, symbols or types
    cannot be read.
    """
    from klasy.flow.index import Index

    return Index(kernel, use_cache=use_cache).accesses(members, progress, whole=whole, where=where)
