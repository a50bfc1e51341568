"""What a question about members was answered, kept so that the same question costs no analysis the second time.

An answer belongs to the builds of the kernel and of all modules that are loaded, and to the members asked for; both
are written in it and compared. Addresses are offsets in each object's text.
"""

from __future__ import annotations

import zlib

from klasy.flow import decode as d
from klasy.flow import sites
from klasy.kernel import caches
from klasy.kernel.access_x86_64 import READ, WRITE
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klasy.flow.index import Where
    from klasy.flow.sites import Member, Sites
    from klasy.kernel.image import KernelImage

VERSION = 8  # of all that is kept, and of the analysis: another one may find other sites
_NO_REGISTER = 31


class Found(NamedTuple):
    """An access as it is kept; ``how`` as in ``index``: READ | WRITE, register << 2, per CPU << 7, moves << 8,
    confidence << 9. ``members``: numbers of those asked for."""

    module: str | None
    at: int
    length: int
    base_offset: int
    width: int
    how: int
    reason: str
    members: list[int]
    placed_in: str
    place_offset: int


class Answer:
    """Accesses, those of fitting offset whose object is not known (where, READ | WRITE), and how many functions were
    looked at."""

    def __init__(self, functions: int, total: int) -> None:
        self.rows: list[Found] = []
        self.unknown: list[tuple[str | None, int, int]] = []
        self.functions = functions
        self.total = total


def _question(builds: Mapping[str | None, str], members: Sequence[Member], whole: bool) -> str:
    objects = sorted(f"{module or ''} {build}" for module, build in builds.items())
    asked = [f"{m.module or ''} {m.struct} {m} {m.bit_offset} {m.bits}" for m in members]
    return "\\n".join((*objects, "", *asked, str(whole)))


def _name(kernel: KernelImage, question: str) -> str:
    return f"flow-answer-{kernel.build_id[:16]}-{zlib.crc32(question.encode()):08x}"


def load(
    kernel: KernelImage, builds: Mapping[str | None, str], members: Sequence[Member], whole: bool
) -> Answer | None:
    """The answer that was kept, if one was."""
    import json

    question = _question(builds, members, whole)
    data = caches.load(_name(kernel, question), VERSION)
    if data is None:
        return None
    try:
        kept = json.loads(bytes(data))
        if kept["question"] != question:
            return None
        answer = Answer(kept["functions"], kept["total"])
        answer.unknown = [(module, at, how) for module, at, how in kept["unknown"]]
        answer.rows = [Found(*row) for row in kept["rows"]]
    except (ValueError, KeyError, TypeError):
        return None
    return answer


def store(
    kernel: KernelImage,
    builds: Mapping[str | None, str],
    members: Sequence[Member],
    whole: bool,
    answer: Answer,
) -> None:
    """Keep an answer."""
    import json

    question = _question(builds, members, whole)
    kept = {
        "question": question,
        "functions": answer.functions,
        "total": answer.total,
        "unknown": answer.unknown,
        "rows": answer.rows,
    }
    caches.store(_name(kernel, question), VERSION, json.dumps(kept).encode())


def sites_of(kernel: KernelImage, members: Sequence[Member], answer: Answer, where: Where | None = None) -> Sites:
    """An answer in terms of the kernel as it is now, of the functions of which ``where`` is true."""
    found = [site for row in answer.rows if (site := _site(kernel, members, row)) is not None]
    if where is not None:
        found = [site for site in found if where(site.function.module, site.function.address)]
    found.sort(key=lambda access: access.address)
    bases = {module: symbols.base for module, symbols in kernel.symbols.items()}
    unknown = [
        sites.Unknown(bases[module] + at, bool(how & READ), bool(how & WRITE)) for module, at, how in answer.unknown
    ]
    if where is not None:
        unknown = [one for one in unknown if (f := kernel.function_at(one.address)) and where(f.module, f.address)]
    unknown.sort()
    return sites.Sites(found, unknown, answer.functions, answer.total)


def _site(kernel: KernelImage, members: Sequence[Member], row: Found) -> sites.Access | None:
    address = kernel.symbols[row.module].base + row.at
    function = kernel.function_at(address)
    if function is None:
        return None
    code = kernel.text(address, row.length)
    op = d.decode(code)
    m = op[4]
    register = row.how >> 2 & 31
    moves = bool(row.how >> 8 & 1) and m is not None
    index, scale = d.NONE, 1
    if moves:
        assert m is not None
        index, scale = (m[1], m[2]) if m[1] != register else (m[0], 1)
    return sites.Access(
        address=address,
        length=row.length,
        function=function,
        code=code,
        reads=bool(row.how & READ),
        writes=bool(row.how & WRITE),
        width=row.width,
        members=tuple(members[number] for number in row.members),
        base=d.NONE if register == _NO_REGISTER else register,
        base_offset=row.base_offset,
        index=index,
        scale=scale,
        per_cpu=bool(row.how >> 7 & 1),
        source=sites.source_of(op),
        touched=sites.touched_bits(code, op),
        confidence=row.how >> 9,
        derivation=row.reason,
        placed_in=row.placed_in,
        place_offset=row.place_offset,
    )
