"""``klasy lab``: run a command as root in a throw-away guest."""

from __future__ import annotations

import os
import signal

from klasy.cli.times import seconds
from klasy.errors import UsageError
from klasy.lab.kernels import DEFAULT, KERNELS, by_name
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

    from klasy.cli.options import Arguments, Parser

HELP = "Run a command as root in a throw-away virtual machine."
EXAMPLE = """\
  klasy lab -- uname -r
  klasy lab --kernel 6.12 -- klasy weave --for 10s examples/log_dequeue.asp
  klasy lab -- sh -c 'klasy weave log.asp && ping -c 1 localhost && klasy log'

The guest sees this machine's files copy-on-write: nothing it writes is kept. What the command prints and its exit
status are its own; 3 and a message say that the lab itself failed. KLASY_*, LANG, LC_*, TERM, NO_COLOR are handed on,
and KLASY_LAB is set to the kernel's name. KLASY_CACHE says where kernels are kept, KLASY_MIRROR which Debian mirror to
fetch them from.
"""


def configure(parser: Parser) -> None:
    """Declare the command's arguments."""
    names = [kernel.name for kernel in KERNELS]
    parser.add_argument(
        "--kernel", choices=names, default=DEFAULT.name, help=f"the guest's kernel (default: {DEFAULT.name})"
    )
    parser.add_argument(
        "--no-9p", action="store_true", help="without this machine's files: klasy, its checkout, busybox"
    )
    parser.add_argument("--timeout", metavar="TIME", help="kill the command after this time, and end with 3: 90s, 5m")
    parser.add_argument(
        "--fresh-boot", action="store_true", help="boot the kernel instead of beginning from a kept state"
    )
    parser.add_argument(
        "--debuginfo", action="store_true", help="with the kernel's debug information (fetches a gigabyte, once)"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="boot, and show the kernel's log on standard error"
    )
    parser.add_argument(
        "command", nargs="...", metavar="-- COMMAND ..", help="what to run, looked up on the guest's PATH"
    )


def run(args: Arguments) -> int:
    """Boot, run the command, and return its own exit status. Raises LabError when the lab fails."""
    from klasy.lab.guest import Guest
    from klasy.lab.machine import GuestDied

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("there is no command to run", hint="klasy lab -- COMMAND ..")
    timeout = seconds(args.timeout) if args.timeout is not None else None
    show = _Writer(2) if args.verbose else None
    if args.debuginfo and args.no_9p:
        raise UsageError("--debuginfo needs this machine's files: --no-9p shuts them out")
    guest = Guest(
        by_name(args.kernel),
        host_files=not args.no_9p,
        fresh_boot=args.fresh_boot,
        debug_info=args.debuginfo,
        on_console=show,
    )
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with guest:
            return guest.stream(command, _Writer(1), _Writer(2), stdin=_readable_stdin(), timeout=timeout)
    except GuestDied as error:
        if not args.verbose:
            _Writer(2)(error.console.encode(errors="replace"))
        raise
    except BrokenPipeError:
        # Whoever read our output has gone; end as a program that SIGPIPE kills would.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as interrupt:
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    finally:
        # No guest is left to be ended in an orderly way, and what comes after us would not expect the exception.
        while before:
            signal.signal(*before.popitem())


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """End the guest in an orderly way. Whoever expects no signal any more passes it on: ``klasy`` ends by it."""
    raise KeyboardInterrupt(number)


class _Writer:
    """Write all of each piece to a descriptor at once: another reader of the same pipe must see it as it comes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]


def _readable_stdin() -> int | None:
    """Our standard input, unless it is closed, or a terminal that another job has: reading that would stop us."""
    try:
        if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
            return None
        os.fstat(0)
    except OSError:
        return None
    return 0
