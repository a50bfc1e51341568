"""The command ``klasy``, and ``python -m klasy``."""

from __future__ import annotations

import os
import sys

from klasy import startup


def entry_point() -> None:
    """Run the command line, importing from the pack of klasy's modules."""
    finder = startup.install()
    from klasy.cli.main import entry_point as run

    try:
        run()
    finally:
        # What a guest of the lab writes is thrown away with it; there the host keeps the pack.
        if finder.stale and not sys.dont_write_bytecode and "KLASY_LAB" not in os.environ:
            startup.write_pack()


if __name__ == "__main__":
    entry_point()
