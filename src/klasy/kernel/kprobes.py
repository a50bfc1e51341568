"""What lies under the kprobes of the running kernel: the kernel's own record of each, read from its memory.

A kprobe replaces the first byte of an instruction by a breakpoint, an optimised one five bytes by a jump. The kernel
keeps what was there: ``struct kprobe.opcode`` has the first byte, ``struct optimized_kprobe.optinsn.copied_insn`` the
four behind it (kernel/kprobes.c, arch/x86/kernel/kprobes/opt.c). All kprobes, whoever made them, hang in the hash
table ``kprobe_table``; where its structs have their members, BTF tells. So nothing has to be remembered by who puts a
probe, and text can be read as it was under everybody's.

The table is read while the kernel may change it. Whatever makes no sense raises Unsettled; then it is read again.
"""

from __future__ import annotations

from klasy.btf.types import Struct
from klasy.btf.walk import find_member
from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.btf.btf import Btf

    Read = Callable[[int, int], bytes]

_BUCKETS = 64  # KPROBE_TABLE_SIZE: 1 << KPROBE_HASH_BITS, which has always been 6
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


class _Layout(NamedTuple):
    """Where the members lie, in bytes from where the kernel's chain points to."""

    link: int
    address: int
    opcode: int
    flags: int
    copied: int
    detour: int
    size: int


def covered(btf: Btf, table: int, read: Read, is_text: Callable[[int], bool]) -> dict[int, Covered] | None:
    """What lies under each kprobe that replaces an instruction, by address; None where it cannot be found out.

    ``table`` is the address of ``kprobe_table``, ``read`` reads memory, ``is_text`` tells addresses of functions.
    """
    layout = None
    for _ in range(_TRIES):
        try:
            heads = read(table, 8 * _BUCKETS)
            if not any(heads):
                return {}
            layout = layout or _layout(btf)
            return _walk(heads, layout, read, is_text)
        except (Unsettled, SystemRefusal):
            continue
    return None


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


def _walk(heads: bytes, layout: _Layout, read: Read, is_text: Callable[[int], bool]) -> dict[int, Covered]:
    found: dict[int, Covered] = {}
    seen: set[int] = set()
    for bucket in range(0, len(heads), 8):
        node = _word(heads, bucket)
        while node:
            if node in seen or len(seen) > _MOST:
                raise Unsettled("a ring")
            seen.add(node)
            data = read(node - layout.link, layout.size)
            flags = int.from_bytes(data[layout.flags : layout.flags + 4], "little")
            if not flags & (_FLAG_FTRACE | _FLAG_GONE):
                address = _word(data, layout.address)
                if not is_text(address):
                    raise Unsettled(f"a probe at {address:#x}")
                found[address] = _covered(data, address, layout)
            node = _word(data, layout.link)
    return found


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
