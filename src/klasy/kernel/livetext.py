"""The running kernel's text as it would be without probes, although probes come and go while it is read.

What lies under the probes the kernel's own record of them tells (see ``kprobes``). Text and record cannot be read at
one moment: a probe may be put, optimised or taken away between the two, by anybody. So the record is looked at before
a piece of text is read and once more behind it, and what both say of it must be the same. A kprobe is in the record
before anything of it is in text, and leaves text before it leaves the record (kernel/kprobes.c).

Text is rewritten for others too: the hooks of traced functions, jump labels, static calls, all by
text_poke_bp_batch() (arch/x86/kernel/alternative.c), which puts a breakpoint first, then the bytes behind it, then the
first byte. What is read in between is no code. While it is at work ``bp_desc.refs`` is not zero.
"""

from __future__ import annotations

import time

from klasy.btf.walk import member_offset
from klasy.errors import SystemRefusal
from klasy.kernel import arch_x86_64 as arch
from klasy.plain import TYPE_CHECKING, cached_property

if TYPE_CHECKING:
    from klasy.kernel.kprobes import Probes, ProbeTable
    from klasy.kernel.live import LiveKernel

TABLE, POKING = "kprobe_table", "bp_desc"  # symbols of the kernel's
TABLE_BYTES = 64 * 8  # KPROBE_TABLE_SIZE heads: 1 << KPROBE_HASH_BITS, which has always been 6
_PIECE = 1 << 18  # bytes read at a time: the less, the sooner it is read without a change in between
_PATIENCE, _PAUSE = 10.0, 0.001  # seconds


class LiveText:
    """Reads a kernel's text."""

    def __init__(self, kernel: LiveKernel) -> None:
        self._kernel = kernel

    @cached_property
    def probes(self) -> Probes | None:
        """What probes hide, as of the last look; None where nothing is probed."""
        return self._look()

    def read(self, address: int, size: int) -> bytes:
        """Text without probes. Raises SystemRefusal where it cannot be read, or is rewritten all the time."""
        ends = range(address, address + size, _PIECE)
        pieces = [self._piece(at, min(_PIECE, address + size - at)) for at in ends]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, address: int, size: int) -> bytes:
        until = 0.0
        while True:
            before, calm = self.probes, not self._is_rewriting()
            code = self._kernel.read(address, size)
            after = self.probes = self._look_again(before, address, size)
            if calm and not self._is_rewriting():
                healed = self.healed(address, code, after)
                if after is before or healed == self.healed(address, code, before):
                    return healed
            now = time.monotonic()
            until = until or now + _PATIENCE
            if now > until:
                raise SystemRefusal(
                    f"the kernel's text at {address:#x} was rewritten all the time for {_PATIENCE:.0f} s",
                    hint="other tracers put and take away probes without end",
                )
            time.sleep(_PAUSE)

    def healed(self, address: int, code: bytes, probes: Probes | None) -> bytes:
        """Code with probes' breakpoints, and the jumps of optimised ones, replaced by what was there."""
        if probes is None:
            return code
        changed: bytearray | None = None
        for place in probes.within(address, len(code)):
            offset, (first, jump, rest) = place - address, probes.covered[place]
            changed = changed or bytearray(code)
            if offset >= 0 and (first or code[offset] == arch.BREAKPOINT):
                changed[offset : offset + 1] = first or self._guess(place, code, offset)
            behind = slice(max(0, offset + 1), offset + 1 + len(jump))
            start = behind.start - offset - 1
            if rest and code[behind] == jump[start : start + len(code[behind])]:
                changed[behind] = rest[start : start + len(code[behind])]
        return bytes(changed) if changed else code

    def _guess(self, place: int, code: bytes, offset: int) -> bytes:
        """The first byte of a probed instruction where the kernel's record of it could not be read.

        A call, or a conditional jump, if the rest leads to an entry; a plain jump is then taken for a call.
        """
        rest = code[offset + 1 : offset + 6]
        if len(rest) < 5:
            rest = self._kernel.read(place + 1, 5)  # the instruction goes on behind what was asked for
        if len(rest) == 5 and rest[0] & 0xF0 == 0x80 and self._is_entry(place + 6 + _signed(rest[1:5])):
            return b"\x0f"
        if len(rest) >= 4 and self._is_entry(place + 5 + _signed(rest[:4])):
            return b"\xe8"
        return b"\xcc"

    def _is_entry(self, address: int) -> bool:
        holder = self._kernel.object_at(address)
        index = holder[1].at(address) if holder else None
        return holder is not None and index is not None and holder[1].address(index) == address

    # --- the record of kprobes

    @cached_property
    def _table(self) -> int | None:
        return self._kernel.place(TABLE)

    @cached_property
    def _record(self) -> ProbeTable | None:
        """None for a kernel whose record cannot be found."""
        btf, kernel = self._kernel.btf_of(None), self._kernel
        if btf is None or self._table is None:
            return None
        from klasy.kernel.kprobes import ProbeTable, Unsettled

        try:
            return ProbeTable(btf, self._table, kernel.read, lambda address: kernel.object_at(address) is not None)
        except Unsettled:
            return None

    def _look(self) -> Probes | None:
        if self._table is not None:
            if not any(self._kernel.read(self._table, TABLE_BYTES)):
                return None
            found = self._record.look() if self._record else None
            if found is not None:
                return found
        return self._kernel.listed_probes()

    def _look_again(self, before: Probes | None, address: int, size: int) -> Probes | None:
        if before is None:
            return self._look()
        if self._record is None:
            return before  # as listed
        found = self._record.look_again(before, address, size) if before.heads else self._record.look()
        return found or self._kernel.listed_probes()

    # --- what else rewrites text

    @cached_property
    def _poking(self) -> int | None:
        """Where the kernel counts who rewrites text; None where that is not known."""
        place, btf = self._kernel.place(POKING), self._kernel.btf_of(None)
        offset = member_offset(btf, "bp_patching_desc", "refs") if btf else None
        return None if place is None or offset is None else place + offset

    def _is_rewriting(self) -> bool:
        return self._poking is not None and any(self._kernel.read(self._poking, 4))


def _signed(distance: bytes) -> int:
    return int.from_bytes(distance, "little", signed=True)
