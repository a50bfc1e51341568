"""``klasy``: from the command line to an exit status.

Each command is a module here with HELP, EXAMPLE, ``configure(parser)`` and ``run(args)``; only the module of the
command that was asked for is imported, because a Python start counts when a weave has to be quick.
"""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper

from klasy import __version__
from klasy.cli.options import Arguments, Options
from klasy.errors import EXIT_OK, EXIT_SYSTEM, EXIT_USAGE, InputError, KlasyError
from klasy.plain import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, Protocol

    from klasy.cli.options import Parser
    from klasy.cli.usage import Parser as FullParser

    class Command(Protocol):
        """What a command's module offers."""

        HELP: str
        EXAMPLE: str
        # RUNS_COMMAND = True: what stands behind "--" is a command of the user's, the attribute ``command``

        def configure(self, parser: Parser) -> None:
            """Add the command's arguments."""

        def run(self, args: Arguments) -> int:
            """Do it; the exit status."""


COMMANDS = {
    "check": "parse and type-check aspects",
    "joinpoints": "the join points of a file (dry run) or of what is woven",
    "weave": "weave aspects into the running kernel",
    "unweave": "take aspects out again",
    "status": "what is woven: since when, join points, hits, losses, cost",
    "log": "read what woven aspects logged",
    "stat": "what their states hold: counters, tables, histograms",
    "doctor": "what this kernel can do, what is missing, and the remedy",
    "aspects": "the ready aspects that klasy brings along",
    "search": "find functions, data and types of the kernel",
    "bench": "measure what klasy costs here, against other tools",
    "lab": "run a command in a throw-away virtual machine",
}


EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h: none of the statuses that say something of the user's input or machine
_SIGINT, _SIGPIPE = 2, 13  # the module signal, and enum with it, costs a tenth of what a short command takes
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [
        "usage: klasy COMMAND [options]",
        "",
        "An aspect-oriented logger for the running Linux kernel.",
        "",
        *(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()),
        "",
        "'klasy COMMAND --help' explains a command, with an example.",
        "Exit status: 0 done, 1 the input is wrong, 2 wrong usage, 3 the kernel or the rights do not allow it.",
    ]
    return "\n".join(lines)


def _load(name: str) -> Command:
    module = f"klasy.cli.{name}"
    __import__(module)  # importlib.import_module would have to be imported first
    return sys.modules[module]  # a module fits the protocol


def _arguments(name: str, command: Command, words: Sequence[str]) -> Arguments:
    """What a command line says. Ends the process where it is wrong, or asks for help."""
    options = Options()
    _declare(options, command)
    behind: Sequence[str] | None = None
    runs_command = getattr(command, "RUNS_COMMAND", False)
    if runs_command and "--" in words:
        at = list(words).index("--")
        words, behind = words[:at], words[at + 1 :]
    arguments = options.read(words) or _parser(name, command).parse_args(words, Arguments())
    if runs_command:
        arguments.__dict__["command"] = behind
    return arguments


def _parser(name: str, command: Command) -> FullParser:
    from klasy.cli.usage import Parser

    parser = Parser(name, command.HELP, command.EXAMPLE)
    _declare(parser, command)
    if getattr(command, "RUNS_COMMAND", False):
        parser.usage = parser.format_usage().removeprefix("usage: ").rstrip().replace("%", "%%") + " [-- COMMAND ..]"
    return parser


def _declare(parser: Parser, command: Command) -> None:
    parser.add_argument("--debug", action="store_true", help="with an error, show where in klasy it came up")
    command.configure(parser)


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit status."""
    if len(argv) == 2 and argv[0] == "help" and argv[1] in COMMANDS:
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return EXIT_OK if argv else EXIT_USAGE
    if argv[0] in ("-V", "--version"):
        print(f"klasy {__version__}")
        return EXIT_OK
    name = argv[0]
    if name not in COMMANDS:
        from klasy.cli.table import shown
        from klasy.diag import suggest

        near = suggest(name, COMMANDS)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        print(f"klasy: no command '{shown(name)}'.{hint}\n\n{_overview()}", file=sys.stderr)
        return EXIT_USAGE
    command = _load(name)
    args = _arguments(name, command, argv[1:])
    try:
        return command.run(args)
    except KlasyError as error:
        if args.debug:
            import traceback

            traceback.print_exc()
        return report(error)


def report(error: KlasyError) -> int:
    """Show an error to the user; the exit status it calls for, be there somebody to read the error or not."""
    with suppress(OSError):
        _tell(error)
    return error.exit_status


def _tell(error: KlasyError) -> None:
    from klasy.cli.table import say, show_diagnostics

    if isinstance(error, InputError) and error.diagnostics:
        show_diagnostics(error.diagnostics)
        print(file=sys.stderr)
    say(error.message, error.hint)


def entry_point() -> NoReturn:
    """The console script: runs the command and ends the process with its status."""
    # What is shown may hold anything; a terminal or locale that cannot show all of it is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        status = 128 + (interrupt.args[0] if interrupt.args else _SIGINT)
    except BrokenPipeError:
        # The reader of our output went away (klasy log | head): no error, but nothing more can be written.
        _give_up_output()
        status = 128 + _SIGPIPE
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            status = _bug()
        else:
            _give_up_output()
            with suppress(OSError):  # it may have been standard error that could not be written
                print(f"klasy: cannot write the output: {error.strerror}", file=sys.stderr)
            status = EXIT_SYSTEM
    except Exception as error:
        # Python up to 3.11 makes a RuntimeError of what a __set_name__ raises: of Ctrl-C too, while it is importing.
        status = 128 + _SIGINT if isinstance(error.__cause__, KeyboardInterrupt) else _bug()
    try:
        sys.stderr.flush()
    except OSError:
        _to_nowhere(2)
    sys.exit(status)


def _give_up_output() -> None:
    """What could not be written must not be tried again when the interpreter ends."""
    _to_nowhere(sys.stdout.fileno())


def _to_nowhere(descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _bug() -> int:
    """Show what escaped as what it is."""
    import traceback

    traceback.print_exc()
    print(
        f"klasy: this is a fault of klasy {__version__} itself, on Linux {os.uname().release}; please report it",
        file=sys.stderr,
    )
    return EXIT_BUG
