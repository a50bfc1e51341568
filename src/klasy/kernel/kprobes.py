"""What lies under the kprobes of the running kernel: the kernel's own record of each, read from its memory.

A kprobe replaces the first byte of an instruction by a breakpoint, an optimised one five bytes by a jump. The kernel
keeps what was there: ``struct kprobe.opcode`` has the first byte, ``struct optimized_kprobe.optinsn.copied_insn`` the
four behind it (kernel/kprobes.c, arch/x86/kernel/kprobes/opt.c). All kprobes, whoever made them, hang in the hash
table ``kprobe_table``; where its structs have their members, BTF tells. So nothing has to be remembered by who puts a
probe, and text can be read as it was under everybody's.

The table is read while the kernel may change it. Whatever makes no sense raises Unsettled; then it is read again.
"""

from __future__ import annotations

from bisect import bisect_left

from klasy.btf.types import Struct
from klasy.btf.walk import find_member
from klasy.errors import SystemRefusal
from klasy.kernel.livetext import TABLE_BYTES
from klasy.plain import TYPE_CHECKING, NamedTuple, cached_property, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klasy.btf.btf import Btf

    Read = Callable[[int, int], bytes]

_MOST = 1 << 18  # more than this is a ring, not a chain
_FLAG_FTRACE = 8  # KPROBE_FLAG_FTRACE, include/linux/kprobes.h: no instruction is replaced
_FLAG_GONE = 1  # KPROBE_FLAG_GONE: its module was unloaded
_JUMP_BYTES = 5
_TRIES = 3


class Unsettled(Exception):
    """What was read is no table of kprobes: it was changed meanwhile, or is laid out in a way unknown here."""


class Covered(NamedTuple):
    """What a kprobe hides. ``first`` is the first byte of its instruction, None if it is not known.

    Where the live bytes behind the first are ``jump``, the kprobe is optimised, and ``rest`` are those it replaced.
    """

    first: bytes | None
    jump: bytes = b""
    rest: bytes = b""


class Probes:
    """The places where a kprobe lies over an instruction, with what it hides, as of one look at the record.

    What was read for it is kept: ``heads``, the table, and ``nodes``, the address of each kprobe's record with the
    place of the kprobe, None if it replaces nothing.
    """

    def __init__(self, covered: Mapping[int, Covered], nodes: Mapping[int, int | None], heads: bytes = b"") -> None:
        self.covered = covered
        self.nodes = nodes
        self.heads = heads
        self._places = sorted(covered)

    @property
    def guessed(self) -> bool:
        """Whether what lies under some probe is not known."""
        return any(covered.first is None for covered in self.covered.values())

    @cached_property
    def node_at(self) -> dict[int, int]:
        """The address of the record of each place's kprobe."""
        return {place: node for node, place in self.nodes.items() if place is not None}

    def within(self, address: int, size: int) -> list[int]:
        """The places that text has to do with: a jump is five bytes long, one that begins before may reach into it."""
        places = self._places
        return places[bisect_left(places, address - _JUMP_BYTES + 1) : bisect_left(places, address + size)]


class _Layout(NamedTuple):
    """Where the members lie, in bytes from where the kernel's chain points to."""

    link: int
    address: int
    opcode: int
    flags: int
    copied: int
    detour: int
    size: int


class ProbeTable:
    """The kernel's record. ``table`` is the address of ``kprobe_table``, ``read`` reads memory, ``is_text`` tells
    addresses of functions. Raises Unsettled where the types are not as known here."""

    def __init__(self, btf: Btf, table: int, read: Read, is_text: Callable[[int], bool]) -> None:
        self._layout = _layout(btf)
        self._table = table
        self._read = read
        self._is_text = is_text

    def look(self) -> Probes | None:
        """What lies under each kprobe that replaces an instruction; None where it is changed all the time."""
        for _ in range(_TRIES):
            with suppress(Unsettled, SystemRefusal):
                return self._since(Probes({}, {}))
        return None

    def look_again(self, before: Probes, address: int, size: int) -> Probes | None:
        """The same after another look, at what may have changed of it that has to do with a piece of text: at the
        kprobes that are there, and at new ones. ``before`` itself where nothing changed.

        What has gone elsewhere may still be in it. It hides nothing any more: the text is what it says.
        """
        with suppress(Unsettled, SystemRefusal):
            now = self._since(before)
            changed = {}
            for place in now.within(address, size):
                _, found, covered = self._kprobe(now.node_at[place])
                if found != place:
                    return self.look()
                if covered != now.covered[place]:
                    changed[place] = covered
            return Probes({**now.covered, **changed}, now.nodes, now.heads) if changed else now
        return self.look()

    def _since(self, before: Probes) -> Probes:
        """With the kprobes that are new: each becomes the first of its chain."""
        heads = self._read(self._table, TABLE_BYTES)
        if heads == before.heads:
            return before
        covered, nodes = dict(before.covered), dict(before.nodes)
        seen: set[int] = set()
        for bucket in range(0, len(heads), 8):
            node = _word(heads, bucket)
            while node:
                if node in seen or len(seen) > _MOST:
                    raise Unsettled("a ring")
                seen.add(node)
                following, place, hides = self._kprobe(node)
                if node in before.nodes and before.nodes[node] == place:
                    break
                nodes[node] = place
                if place is not None:
                    covered[place] = hides
                node = following
        return Probes(covered, nodes, heads)

    def _kprobe(self, node: int) -> tuple[int, int | None, Covered]:
        """What follows a kprobe in its chain, where it lies, None for one that replaces nothing, and what it hides."""
        layout = self._layout
        data = self._read(node - layout.link, layout.size)
        address = _word(data, layout.address)
        following = _word(data, layout.link)
        flags = int.from_bytes(data[layout.flags : layout.flags + 4], "little")
        if flags & (_FLAG_FTRACE | _FLAG_GONE):
            return following, None, Covered(None)
        if not self._is_text(address):
            raise Unsettled(f"a probe at {address:#x}")
        return following, address, _covered(data, address, layout)


def _layout(btf: Btf) -> _Layout:
    def member(struct: str, *path: str) -> int:
        ids = btf.find(struct, Struct)
        type_id, offset = (ids[0] if ids else 0), 0
        for name in path:
            found = find_member(btf, type_id, name)
            if found is None:
                raise Unsettled(f"struct {struct} has no {'.'.join(path)}")
            type_id, offset = found.type_id, offset + found.byte_offset
        return offset

    copied = member("optimized_kprobe", "optinsn", "copied_insn")
    detour = member("optimized_kprobe", "optinsn", "insn")
    return _Layout(
        link=member("kprobe", "hlist"),
        address=member("kprobe", "addr"),
        opcode=member("kprobe", "opcode"),
        flags=member("kprobe", "flags"),
        copied=copied,
        detour=detour,
        size=max(copied + _JUMP_BYTES - 1, detour + 8),
    )


def _covered(data: bytes, address: int, layout: _Layout) -> Covered:
    """A kprobe that was never optimised is shorter, and what is taken for a jump then is in no text."""
    jump = _word(data, layout.detour) - (address + _JUMP_BYTES)
    return Covered(
        data[layout.opcode : layout.opcode + 1],
        (jump & 0xFFFF_FFFF).to_bytes(4, "little"),
        data[layout.copied : layout.copied + _JUMP_BYTES - 1],
    )


def _word(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
