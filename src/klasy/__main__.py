"""The command ``klasy``, and ``python -m klasy``."""

import gc
import os
import sys

from klasy import startup


def entry_point() -> None:
    """Run the command line, importing from the pack of klasy's modules."""
    # Importing makes many objects and no garbage. Each 700 of them (the default) to look for some cost 11 of the 200
    # million instructions of a weave; 100,000 are some 20 MB at most that a long-running command keeps too long.
    gc.set_threshold(100_000)
    finder = startup.install()
    from klasy.cli.main import entry_point as run

    try:
        run()
    finally:
        # What a guest of the lab writes is thrown away with it; there the host keeps the pack.
        if finder.stale and not sys.dont_write_bytecode and "KLASY_LAB" not in os.environ:
            from klasy.pack import write_pack

            write_pack()


if __name__ == "__main__":
    entry_point()
