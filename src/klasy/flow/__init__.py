"""Which instructions access the members of structs: types propagated over live machine code.

``accesses`` finds, in a kernel's text and its modules', the instructions that read or write given members. It reads a
kernel model (``klasy.kernel``) and its BTF; it weaves nothing, and knows neither pointcuts nor eBPF. Unknown types give
no site: they are counted. The parts, each upon those before it:

    decode     what one instruction does           cfg        which instructions follow which
    members    where the parts of structs lie      seeds      prototypes, per-CPU variables
    state      values of registers and slots       transfer   their flow through a function
    infer      types of values                     enlarge    container_of
    engine     one function                        index      many, in parallel, kept by build id
    sites      what is handed out                  disasm     text of instructions
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.flow.sites import Member, Sites
    from klasy.kernel.image import KernelImage


def accesses(
    kernel: KernelImage,
    members: Sequence[Member],
    progress: Callable[[int, int], None] | None = None,
    *,
    use_cache: bool = True,
    whole: bool = False,
) -> Sites:
    """The instructions that access some members (``sites.member`` makes them from BTF and a path).

    ``progress`` hears how many functions are done, of how many, while any are analysed. ``whole`` looks at all
    functions, not only at those whose code can reach the members. Raises SystemRefusal where text, symbols or types
    cannot be read.
    """
    from klasy.flow.index import Index

    return Index(kernel, use_cache=use_cache).accesses(members, progress, whole=whole)
