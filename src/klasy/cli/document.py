"""JSON documents of thousands of rows, printed as ``json.dumps(.., indent=2)`` prints them and ten times as fast.

The standard library's encoder is written in C only for documents on one line.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Row = Mapping[str, str | int | float | bool | None]

_ITEMS = ",\n      "  # between the members of a row, which stand three levels deep
_ROWS = "\n    },\n    {\n      "


def dumps(tables: Mapping[str, Sequence[Row]], others: Mapping[str, Any] | None = None) -> str:
    """One object: tables, whose rows are objects without others inside, and then whatever else."""
    import json

    members = [f"{json.dumps(name)}: {_table(rows)}" for name, rows in tables.items()]
    for name, value in (others or {}).items():
        members.append(f"{json.dumps(name)}: {json.dumps(value, indent=2)}".replace("\n", "\n  "))
    return "{\n  " + ",\n  ".join(members) + "\n}"


def _table(rows: Sequence[Row]) -> str:
    import json

    if not rows:
        return "[]"
    # What separates members separates rows, too. A line never ends inside a string, where it would be "\n".
    line = json.dumps(list(rows), separators=(_ITEMS, ": "))
    return "[\n    {\n      " + line[2:-2].replace("}" + _ITEMS + "{", _ROWS) + "\n    }\n  ]"
