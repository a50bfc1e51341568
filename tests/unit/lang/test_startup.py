"""Reading a right aspect loads little: the start of every weave waits for it."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
before = set(sys.modules)
from klasy.source import SourceFile
from klasy.lang import load
text = 'aspect a { before(int x): call("int f(int x)") && if(x > 1) { u32 y = (u32)x; log("%d", y); } }'
load(SourceFile("a.asp", text))
print(*sorted(set(sys.modules) - before))
"""


def _loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_heavy_module_is_loaded() -> None:
    """Neither lark nor other costly modules, nor what only errors need, are loaded to read a right aspect."""
    heavy = {
        "lark", "dataclasses", "inspect", "difflib", "unicodedata", "json", "pickle", "logging", "klasy.lang.recover",
        "klasy.lang.syntax_help", "klasy.lang.rawtext", "klasy.lang.generate",
    }  # fmt: skip
    assert _loaded() & heavy == set()
