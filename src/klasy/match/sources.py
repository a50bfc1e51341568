"""What pointcuts ask of source files: ``withinfile(GLOB)`` and ``at("file.c:123")``. Debug information answers.

A join point lies in the file that its function was compiled from: what a header brought along counts as the file that
includes it.
"""

from __future__ import annotations

from klasy.diag import did_you_mean
from klasy.dwarf.elf import DwarfError
from klasy.errors import KernelLacks
from klasy.match.glob import is_glob, matches
from klasy.match.near import near
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from klasy.diag import DiagnosticBag
    from klasy.kernel.model import Function, Kernel
    from klasy.lang import ast
    from klasy.match.matcher import AdviceMatcher
    from klasy.source import Span

_SHOWN = 3
_NEAR = 40  # lines


def is_there(kernel: Kernel, bag: DiagnosticBag, span: Span, without: str) -> bool:
    """Whether there is debug information; else the error says what to do, and what can be done ``without``."""
    try:
        kernel.debug_info.check()
    except KernelLacks as error:
        bag.error("no-debug-information", error.message, span, hints=[error.hint or "", without])
        return False
    return True


def check_file(matcher: AdviceMatcher, leaf: ast.WithinFile, negative: bool) -> bool:
    """Whether a ``withinfile`` can be answered, and some file is meant."""
    if not is_there(
        matcher.kernel,
        matcher.bag,
        leaf.span,
        "without it: withinmodule(..) asks for the module, within(..) a function",
    ):
        return False
    if matcher.kernel.debug_info.has(lambda file: matches(leaf.glob, file)):
        return True
    message = f"no source file of this kernel {'matches' if is_glob(leaf.glob) else 'is'} '{leaf.glob}'"
    if negative:
        matcher.bag.warning("empty-exclusion", f"{message}, so this excludes nothing", leaf.span)
        return True
    matcher.bag.error("unknown-file", message, leaf.span, hints=_hints(leaf.glob, matcher.kernel))
    return False


def _hints(name: str, kernel: Kernel) -> list[str]:
    known = kernel.debug_info.files()
    if name.endswith((".h", ".h*")):
        return ["code of a header counts as that of the file which includes it: name that"]
    last = name.rpartition("/")[2]
    close = sorted(file for file in known if matches(last, file.rpartition("/")[2])) if last.strip("*%") else []
    close = close or near(name, known)
    return [did_you_mean(close[:_SHOWN]), "a file is named from the root of the kernel's sources, as in net/ipv4/tcp.c"]


def within(kernel: Kernel, glob: str) -> Callable[[Function], bool]:
    """Tells of a function whether it was compiled from a matching file."""
    return kernel.debug_info.within(lambda file: matches(glob, file))


def beginnings(matcher: AdviceMatcher, node: ast.At) -> dict[int, Function]:
    """The instructions at which a source line begins, by address. Errors go to the bag."""
    kernel, bag = matcher.kernel, matcher.bag
    file, line = node.file or "", node.line
    if not is_there(kernel, bag, node.span, "without it: at(f+0x1c) names an instruction, execution(f) a function"):
        return {}
    if not kernel.debug_info.has(lambda known: known == file):
        bag.error("unknown-file", f"no source file of this kernel is '{file}'", node.span, hints=_hints(file, kernel))
        return {}
    found = {}
    gone = 0
    try:
        addresses = kernel.debug_info.beginnings(file, line)
    except DwarfError as error:
        bag.error("no-debug-information", f"the debug information of {file} cannot be read: {error}", node.span)
        return {}
    for address in addresses:
        function = kernel.function_at(address)
        if function is None or kernel.instruction_length(address) is None:
            gone += 1  # of the beginning, which is freed when the kernel has booted; or rewritten when it did
        else:
            found[address] = function
    if not found:
        _report_line(matcher, node, gone)
    return found


def _report_line(matcher: AdviceMatcher, node: ast.At, gone: int) -> None:
    where = f"{node.file}:{node.line}"
    if gone:
        matcher.bag.error(
            "no-instruction", f"the code of {where} is no longer there: it ran when the kernel booted", node.span
        )
        return
    lines = matcher.kernel.debug_info.lines(node.file or "")
    before = max((line for line in lines if node.line - _NEAR <= line < node.line), default=None)
    behind = min((line for line in lines if node.line < line <= node.line + _NEAR), default=None)
    near_by = [str(line) for line in (before, behind) if line is not None]
    hints = [f"the nearest with code: {' and '.join(near_by)}"] if near_by else []
    if not near_by and lines:
        hints = [f"there is code of its lines {min(lines)} to {max(lines)}"]
    hints.append(f"lines are counted in the sources of this very kernel, {matcher.kernel.release}")
    matcher.bag.error("no-instruction", f"no instruction was made from {where}", node.span, hints=hints)
