"""The calls of functions that were asked for, kept from one command to the next while the kernel's text stays as it is.

To find the calls of a function all text must be read and searched. What was found is kept in a cache file, under a key
that tells whether text may have changed since: it changes with the boot, with modules that come and go, and where the
kernel rewrites static calls. (Jump labels stay within their function; probes and ftrace's calls are not part of text
as ``KernelImage.text`` gives it.) A static call is always rewritten together with its trampoline, so the trampolines'
bytes stand for all of them in the key (``__static_call_update`` in kernel/static_call_inline.c).
"""

from __future__ import annotations

from array import array

from klasy.kernel import caches
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from klasy.kernel.callsites import Reached

_VERSION = 1
_CALL = 0x80  # beside the length of the instruction, which has four bits
_MOST = 1 << 20  # calls; with more the file would cost more than it saves


class CallerIndex:
    """The kept calls of some functions, by the addresses of their entries.

    ``name`` is that of the file; what it holds counts only if it was stored under the same ``key``.
    """

    def __init__(self, name: str, key: bytes) -> None:
        self._name = name
        self._key = key
        self._targets, self._ends = array("Q"), array("Q")  # where each one's calls end among the calls of all
        self._addresses, self._codes = array("Q"), bytearray()
        self._load()
        self._place = {target: place for place, target in enumerate(self._targets)}

    def _load(self) -> None:
        data = caches.load(self._name, _VERSION)
        if data is None:
            return
        try:
            parts = caches.unpack(data)
            if parts["key"] != self._key:
                return
            targets, ends, addresses = (array("Q", bytes(parts[name])) for name in ("targets", "ends", "addresses"))
            codes = bytearray(parts["codes"])
        except (KeyError, ValueError):
            return
        if len(targets) == len(ends) and len(addresses) == len(codes) == (ends[-1] if ends else 0):
            self._targets, self._ends, self._addresses, self._codes = targets, ends, addresses, codes

    def __contains__(self, target: int) -> bool:
        return target in self._place

    def calls(self, targets: Iterable[int]) -> list[Reached]:
        """The calls of functions that it holds, by address."""
        found: list[Reached] = []
        several = 0
        for target in targets:
            place = self._place[target]
            low, high = self._ends[place - 1] if place else 0, self._ends[place]
            calls = zip(self._addresses[low:high], self._codes[low:high], strict=True)
            found += [(address, code & ~_CALL, code >= _CALL, target) for address, code in calls]
            several += 1
        if several > 1:
            found.sort()
        return found

    def add(self, targets: Collection[int], calls: Iterable[Reached]) -> None:
        """Hold all calls, given by address, of some more functions, and keep them for later commands."""
        found: dict[int, list[Reached]] = {target: [] for target in targets}
        for call in calls:
            found[call[3]].append(call)
        for target, its_calls in found.items():
            self._place[target] = len(self._targets)
            self._targets.append(target)
            self._addresses.extend([address for address, _, _, _ in its_calls])
            self._codes += bytes([length | _CALL if call else length for _, length, call, _ in its_calls])
            self._ends.append(len(self._addresses))
        if len(self._addresses) <= _MOST:
            arrays = {"targets": self._targets, "ends": self._ends, "addresses": self._addresses}
            parts = {name: numbers.tobytes() for name, numbers in arrays.items()}
            caches.store(self._name, _VERSION, caches.pack({"key": self._key, **parts, "codes": bytes(self._codes)}))
