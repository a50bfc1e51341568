"""``klasy check``: parse and type-check aspects."""

from __future__ import annotations

import sys

from klasy.cli.sources import STDIN, read_source
from klasy.cli.table import plural, say, show_diagnostics, shown
from klasy.errors import EXIT_INPUT, EXIT_OK, InputError, SystemRefusal, UsageError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.cli.options import Arguments, Parser
    from klasy.diag import Diagnostic
    from klasy.kernel.model import Kernel
    from klasy.lang.ast import Aspect
    from klasy.source import SourceFile

HELP = (
    "Parse and type-check aspects against the running kernel, without weaving them. All errors are shown. "
    "Who may not see the kernel's addresses can still have everything checked that needs none."
)
EXAMPLE = "  klasy check log_dequeue.asp other.asp\n  klasy check - < log_dequeue.asp"


def configure(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="an .asp file, a ready aspect (klasy aspects), or -")


def run(args: Arguments) -> int:
    """Check each file; all errors of all files are shown. 0 if none has any."""
    from klasy.cli.main import report

    if args.files.count(STDIN) > 1:
        raise UsageError("- (standard input) can be given once")
    failed = 0
    refusal = None
    for name in args.files:
        try:
            refusal = _check(read_source(name)) or refusal
        except InputError as error:
            if failed:
                print(file=sys.stderr)
            report(error)
            failed += 1
    if refusal is not None:
        why = "which join points there are, and whether they can be probed"
        say(f"not checked: {why}: {refusal.message}", refusal.hint)
    return EXIT_INPUT if failed else EXIT_OK


def _check(source: SourceFile) -> SystemRefusal | None:
    """Check a file, and say what it holds; why not all could be checked. Raises InputError with all that is wrong."""
    from klasy.weaver.kept import Shelf  # first: it stands for all that is imported with it, see klasy.pack

    shelf = Shelf([source])
    from klasy.weaver.build import build

    try:
        built = build(source)
    except SystemRefusal as refusal:
        _check_names_and_types(source)
        return refusal
    for artifact in built:
        plan = artifact.plan
        show_diagnostics(plan.diagnostics)
        missing = f", {len(plan.unreached)} not reached" if plan.unreached else ""
        points = plural(len(plan.joinpoints), "join point")
        print(f"{shown(source.name)}: aspect {plan.aspect.name}: {points}{missing}")
    shelf.keep_for_a_weave(built)
    return None


def _check_names_and_types(source: SourceFile) -> None:
    """Check what can be checked where the kernel does not show its addresses or text."""
    from klasy import lang
    from klasy.compiler import check_aspect
    from klasy.diag import DiagnosticBag
    from klasy.kernel.hidden import NamesOnly

    aspects = lang.load(source)
    kernel = NamesOnly()
    bag = DiagnosticBag()
    for aspect in aspects:
        bag.items += _signatures(aspect, kernel)
        bag.add_unsaid(check_aspect(aspect, kernel))
    bag.raise_if_errors()
    show_diagnostics(bag.items)
    for aspect in aspects:
        print(f"{shown(source.name)}: aspect {aspect.name}: sound, as far as names and types tell")


def _signatures(aspect: Aspect, kernel: Kernel) -> list[Diagnostic]:
    """What is wrong with the signatures of an aspect's pointcuts, as far as names and prototypes tell."""
    from klasy.diag import DiagnosticBag
    from klasy.lang import ast
    from klasy.match.pointcut import normal_form
    from klasy.match.signature import Signatures

    bag = DiagnosticBag()
    signatures = Signatures(kernel, bag)
    for advice in aspect.advice:
        form = normal_form(advice.pointcut, bag)
        if form is None:
            continue
        wanted = {literal.leaf for conjunct in form.conjuncts for literal in conjunct if literal.positive}
        for index, leaf in enumerate(form.leaves):
            if isinstance(leaf, ast.User):
                signatures.programs.resolve(leaf, advice)
            elif isinstance(leaf, ast.Call | ast.Execution | ast.Within):
                signatures.resolve(leaf.signature, negative=index not in wanted)
    kept: dict[tuple[object, ...], Diagnostic] = {}
    for item in bag.items:  # advice that share a pointcut find the same faults in it
        place = (item.span.start, item.span.end) if item.span else None
        kept.setdefault((item.code, item.message, place), item)
    return list(kept.values())
