"""klasy: an aspect-oriented logger for the running Linux kernel. The library's functions are those of klasy.api."""

TYPE_CHECKING = False  # typing is dear to import, and this package is imported by every command
if TYPE_CHECKING:
    from typing import Any

    from klasy.api import events, joinpoints, states, unweave, weave, woven

__version__ = "0.1.0"
__all__ = ["__version__", "events", "joinpoints", "states", "unweave", "weave", "woven"]


def __getattr__(name: str) -> "Any":
    """The functions of klasy.api, imported when first asked for: most parts of klasy need none of them."""
    if name in __all__:
        from importlib import import_module  # by name: who imports this package does not depend on all of klasy

        return getattr(import_module("klasy.api"), name)
    raise AttributeError(f"module 'klasy' has no attribute '{name}'")
