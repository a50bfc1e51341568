"""Numbers that the kernel's headers name by macros, of which its type information knows nothing.

Those that programs meet: errors, and the flags and choices of system calls, which never change. The kernel uses the
same ones inside, so they serve for its own structs as well: ``sk->sk_family == AF_INET``.
"""

from __future__ import annotations

import errno

from klasy.kernel import callwords
from klasy.plain import cache


@cache
def _all() -> dict[str, int]:
    """All names, with their numbers."""
    found = {name: number for name, number in vars(errno).items() if name.startswith("E") and isinstance(number, int)}
    found |= {name: number for number, (name, _) in callwords.INTERNAL_ERRORS.items()}
    tables = [each for each in vars(callwords).values() if isinstance(each, callwords.Words)]
    for words in [*tables, *callwords.WORDS.values()]:
        found |= {**words.choices, **words.flags}
    return found


def number(name: str) -> int | None:
    """What a macro of the headers stands for: ``ENOENT``, ``SIGKILL``, ``O_CREAT``, ``AF_INET``.

    Values are those of x86-64; None if it is not known.
    """
    return _all().get(name) if name.isupper() else None


def names() -> list[str]:
    """The names of all that are known."""
    return list(_all())
