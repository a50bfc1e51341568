"""What the language adds to C, as tables: its functions, one module for each family, and its context names.

A function of the language is an entry with its usage and its check; neither the checker nor the lowering knows any of
them by name. What every log needs is imported with this package, the other families when one of theirs is called.
"""

from __future__ import annotations

import sys

from klasy.compiler.builtins.output import FUNCTIONS as OUTPUT
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.builtins.strings import FUNCTIONS as STRINGS

_AT_HAND: dict[str, Builtin] = {builtin.name: builtin for builtin in (*OUTPUT, *STRINGS)}

# The others, by the module that has them.
_FAMILIES: dict[str, tuple[str, ...]] = {
    "memory": ("buf",),
    "objects": ("watch", "unwatch"),
    "restraint": ("sample", "limit", "stop", "deny"),
    "stacks": ("stack", "ustack"),
    "percpu": ("per_cpu", "per_cpu_ptr"),
    "network": ("ip4", "ip6", "mac", "ntohs", "ntohl"),
}
_ELSEWHERE = {name: family for family, names in _FAMILIES.items() for name in names}

NAMES = frozenset((*_AT_HAND, *_ELSEWHERE))


def function(name: str) -> Builtin:
    """The function of a name. Raises KeyError where there is none."""
    if name not in _AT_HAND:
        module = f"{__name__}.{_ELSEWHERE[name]}"
        __import__(module)  # importlib.import_module would have to be imported first
        _AT_HAND.update((builtin.name, builtin) for builtin in sys.modules[module].FUNCTIONS)
    return _AT_HAND[name]
