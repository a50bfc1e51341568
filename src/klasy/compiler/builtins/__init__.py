"""What the language adds to C, as tables: its functions, one module for each family, and its context names.

A function of the language is an entry with its usage and its check; neither the checker nor the lowering knows any of
them by name.
"""

from __future__ import annotations

from klasy.compiler.builtins.output import FUNCTIONS as OUTPUT
from klasy.compiler.builtins.registry import Builtin
from klasy.compiler.builtins.strings import FUNCTIONS as STRINGS

FUNCTIONS: dict[str, Builtin] = {builtin.name: builtin for builtin in (*OUTPUT, *STRINGS)}
