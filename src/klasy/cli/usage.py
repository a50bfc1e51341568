"""``--help`` and wrong usage, by argparse: only for command lines that are not plainly right (see options.py)."""

from __future__ import annotations

import argparse
import sys

from klasy.errors import EXIT_USAGE
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """Reports wrong usage with status 2 and a hint where to look."""

    def __init__(self, command: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"klasy {command}",
            description=description,
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
        )

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Raises OSError where the help cannot be written, which argparse keeps to itself."""
        (file or sys.stdout).write(self.format_help())

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process. Raises OSError where what was written cannot leave it."""
        if not message:
            sys.stdout.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """End the process."""
        from klasy.cli.table import shown

        self.exit(EXIT_USAGE, f"{self.prog}: {shown(message)}\nTry '{self.prog} --help'.\n")
