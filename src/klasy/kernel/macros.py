"""Numbers that the kernel's headers name by macros, of which its type information knows nothing.

Errors, and the flags and choices of system calls, which never change (the kernel uses the same ones inside, so they
serve for its own structs as well: ``sk->sk_family == AF_INET``); and what :mod:`klasy.kernel.headernumbers` has.
"""

from __future__ import annotations

import errno

from klasy.kernel import callwords
from klasy.plain import TYPE_CHECKING, NamedTuple, cache

if TYPE_CHECKING:
    from klasy.kernel.model import Kernel


class Number(NamedTuple):
    """What a macro stands for: a literal. ``suffix``: C's, which gives it its type ("", U, L, UL)."""

    value: int
    suffix: str = ""


_COUNT = "_NR_BITS"  # of an enumerator that counts the others, of whom it is none


@cache
def _all(version: tuple[int, ...]) -> dict[str, Number]:
    """All names that are known for a kernel of this version, but for those that its enumerations tell."""
    from klasy.kernel import headernumbers as header

    found = {name: number for name, number in vars(errno).items() if name.startswith("E") and isinstance(number, int)}
    found |= {name: number for number, (name, _) in callwords.INTERNAL_ERRORS.items()}
    tables = [each for each in vars(callwords).values() if isinstance(each, callwords.Words)]
    for words in [*tables, *callwords.WORDS.values()]:
        found |= {**words.choices, **words.flags}
    named = {name: Number(number) for name, number in found.items()}
    inside = header.FIRST <= version <= header.LAST
    for suffix, numbers in (*header.FIXED.items(), *(header.INTERNAL.items() if inside else ())):
        named |= {name: Number(number, suffix) for name, number in numbers.items()}
    return named | {name: Number(number, "U") for name, number in header.OF_RELEASE.get(version, {}).items()}


def _version(kernel: Kernel) -> tuple[int, ...]:
    """``(6, 12)`` of ``6.12.95+deb12-amd64``."""
    return tuple(int(part) for part in kernel.release.split(".")[:2] if part.isdecimal())


def find(name: str, kernel: Kernel) -> Number | None:
    """What a macro of the kernel's headers stands for: ``ENOENT``, ``O_CREAT``, ``TASK_RUNNING``, ``ETH_P_IP``.

    Values are those of x86-64; None if it is not known.
    """
    if not name.isupper():
        return None
    known = _all(_version(kernel)).get(name)
    if known is not None:
        return known
    from klasy.kernel.headernumbers import DERIVED

    for start, prefix, end in DERIVED:
        if name.startswith(start) and not name.endswith(_COUNT):
            bits = {number for _, number in kernel.btf.find_constant(prefix + name.removeprefix(start) + end)}
            if len(bits) == 1:
                return Number(1 << bits.pop(), "UL")
    return None


def names(kernel: Kernel) -> list[str]:
    """The names of all that are known."""
    from klasy.kernel.headernumbers import DERIVED

    found = list(_all(_version(kernel)))
    for start, prefix, end in DERIVED:
        known = (each for each in kernel.btf.constant_names if each.startswith(prefix) and each.endswith(end))
        found += [start + each.removeprefix(prefix).removesuffix(end) for each in known if not each.endswith(_COUNT)]
    return found
