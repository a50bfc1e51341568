"""The exceptions klasy raises on purpose, each with the exit status of the command it ends.

    KlasyError
    ├── InputError          1  the user's input is wrong: carries rendered-ready diagnostics
    ├── UsageError          2  the command line is wrong
    └── SystemRefusal       3  the kernel, the rights or the machine do not allow it
        ├── NotRoot
        ├── KernelLacks         a feature the running kernel was built or booted without
        └── KernelRefused       a system call failed; names it, its errno and the remedy if one is known

Anything else that escapes is a bug in klasy, and is shown as one.
"""

from __future__ import annotations

import errno as errno_names
import os

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.diag import Diagnostic

EXIT_OK = 0
EXIT_INPUT = 1
EXIT_USAGE = 2
EXIT_SYSTEM = 3

# Where a number has two names Python tells the one that neither the kernel nor its manual pages use.
_ERROR_NAMES = {**errno_names.errorcode, errno_names.EOPNOTSUPP: "EOPNOTSUPP", errno_names.EDEADLK: "EDEADLK"}


def errno_name(number: int) -> str | None:
    """The name of an error's number, as the kernel's manual pages have it; None where it has none."""
    return _ERROR_NAMES.get(number)


def one_line(text: str) -> str:
    """Text that the user, a file's name say, may have brought: a message it is put in stays what it is."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


class KlasyError(Exception):
    """Base of all errors meant for the user. ``exit_status`` is what the command ends with."""

    exit_status = EXIT_INPUT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(KlasyError):
    """An aspect is wrong. ``diagnostics`` holds everything found, in source order."""

    exit_status = EXIT_INPUT

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.diagnostics = tuple(diagnostics)


class UsageError(KlasyError):
    """The command line is wrong."""

    exit_status = EXIT_USAGE


class SystemRefusal(KlasyError):
    """The kernel, the caller's rights or the machine do not allow what was asked."""

    exit_status = EXIT_SYSTEM


class NotRoot(SystemRefusal):
    """The operation needs root (CAP_SYS_ADMIN, CAP_BPF, CAP_PERFMON, CAP_SYSLOG)."""


class KernelLacks(SystemRefusal):
    """The running kernel was built or booted without a feature that is needed."""


class KernelRefused(SystemRefusal):
    """A system call failed. ``errno`` is its error number."""

    def __init__(self, what: str, errno: int, *, hint: str | None = None) -> None:
        name = errno_name(errno) or errno
        super().__init__(f"{what}: {os.strerror(errno)} ({name})", hint=hint)
        self.what = what
        self.errno = errno
