"""What the lab asks of the machine it runs on: programs, and a way to say what went wrong with them."""

from __future__ import annotations

import shutil
import subprocess
import sys

from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LabError(SystemRefusal):
    """The lab itself failed: no QEMU, no kernel, no boot. Never the command that runs in it."""


def find_tool(name: str) -> str | None:
    """The path of a program, also where an unprivileged user's PATH does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def need_tool(name: str, package: str, what: str) -> str:
    """The path of a program that ``what`` needs. Raises LabError, whose hint names Debian's ``package``."""
    if found := find_tool(name):
        return found
    raise LabError(f"{what} needs {name}, which is not installed", hint=f"apt-get install {package}")


def checked(argv: list[str], what: str, *, cwd: Path | None = None, hint: str | None = None) -> str:
    """Run a program and return its output. Raises LabError with what it said when it fails; ``what`` names the step."""
    done = subprocess.run(
        argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{what} failed: {said or f'{argv[0]} ended with {done.returncode}'}", hint=hint)
    return done.stdout


def say(text: str) -> None:
    """Tell the user, on standard error, of something that takes long."""
    print(f"klasy lab: {text}", file=sys.stderr, flush=True)
