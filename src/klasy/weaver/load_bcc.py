"""Compiles advice in C by bcc (Debian's python3-bpfcc), and nothing else: klasy loads and pins what comes out.

bcc wants the kernel's headers. It gets a folder that looks like them and holds one file, which keeps its own headers
out: all declarations are klasy's, made from the kernel's BTF. So kernel headers are never needed.
"""

from __future__ import annotations

import os
import re
import tempfile

from klasy.backend.c.emit import MAGIC, emit
from klasy.bpf.insn import Reg, decode, load_map
from klasy.bpf.uapi import BPF_PSEUDO_MAP_FD
from klasy.diag import DiagnosticBag
from klasy.errors import KernelLacks
from klasy.plain import TYPE_CHECKING
from klasy.source import Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from klasy.backend.artifact import Rows
    from klasy.backend.c.emit import Unit
    from klasy.bpf.insn import Instruction
    from klasy.compiler import tree
    from klasy.kernel.model import Kernel
    from klasy.state import State

PACKAGES = "/usr/lib/python3/dist-packages"  # Debian's; an environment of one's own may not have it
_FLAGS = ("-Wno-everything", "-Werror=implicit-function-declaration", "-Werror=int-conversion",
          "-Werror=incompatible-pointer-types", "-Werror=uninitialized", "-fno-color-diagnostics")  # fmt: skip
# What bcc puts in front of every text is left out; of it bcc's last lines need this.
_INSTEAD = """\
#define __LINUX_BPF_H__
#define _UAPI__LINUX_BPF_H__
#define __BPF_HELPERS_H
#define BCC_SEC(NAME) __attribute__((section(NAME), used))
"""
_MESSAGE = re.compile(
    r"^(?P<file>[^\n]*?):(?P<line>\d+):(?P<column>\d+): (?:fatal )?error: (?P<text>.*)$", re.MULTILINE
)
_LD_IMM64 = 0x18


def compile_c(
    advice: Sequence[tree.Advice], states: Sequence[State], kernel: Kernel, counters: Rows
) -> Mapping[int, tuple[Instruction, ...]]:
    """The instructions of each advice in C, by its index. ``counters``: how these lie in their map.

    Raises InputError with what the compiler says of the text, KernelLacks where bcc is not installed.
    """
    unit = emit(advice, states, kernel, counters)
    lib, ct = _library()
    code, said = _compile(unit, lib, ct)
    if code is None:
        raise _errors(unit, said)
    return {function.advice: _linked(code[function.name], unit.maps) for function in unit.functions}


def _library() -> tuple[Any, Any]:
    """bcc's library, and the module by which it is called."""
    from klasy.startup import find_packages

    find_packages()
    import sys

    known = list(sys.path)
    try:
        if PACKAGES not in sys.path:
            sys.path.append(PACKAGES)
        from bcc.libbcc import ct, lib
    except (ImportError, OSError) as error:
        raise KernelLacks(
            f"advice in C is compiled by bcc, which is not installed ({error})",
            hint="apt-get install python3-bpfcc (kernel headers are not needed)",
        ) from None
    finally:
        sys.path[:] = known
    return lib, ct


def _compile(unit: Unit, lib: Any, ct: Any) -> tuple[dict[str, bytes] | None, str]:
    """The code of each function, or None with what the compiler says on the standard error."""
    with tempfile.TemporaryDirectory(prefix="klasy-c-") as folder, tempfile.TemporaryFile() as said:
        os.makedirs(f"{folder}/include/linux")
        with open(f"{folder}/include/linux/kconfig.h", "w", encoding="utf-8") as file:
            file.write(_INSTEAD)
        options = (*_FLAGS, "-funsigned-char") if unit.unsigned_char else _FLAGS
        flags = (ct.c_char_p * len(options))(*[flag.encode() for flag in options])
        before = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = folder
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            module = lib.bpf_module_create_c_from_string(unit.text.encode(), 0, flags, len(options), True, None)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before
        said.seek(0)
        text = said.read().decode(errors="replace")
        if not module:
            return None, text
        try:
            return {f.name: _code(lib, ct, module, f.name.encode()) for f in unit.functions}, text
        finally:
            lib.bpf_module_destroy(module)


def _code(lib: Any, ct: Any, module: Any, name: bytes) -> bytes:
    return bytes(ct.string_at(lib.bpf_function_start(module, name), lib.bpf_function_size(module, name)))


def _linked(code: bytes, maps: Sequence[str]) -> tuple[Instruction, ...]:
    """The instructions, with the names of maps where their numbers stand."""
    found = []
    for instruction in decode(code):
        new = instruction
        number = (instruction.imm & 0xFFFFFFFF) - MAGIC
        if instruction.opcode == _LD_IMM64 and instruction.src == BPF_PSEUDO_MAP_FD and 0 <= number < len(maps):
            new = load_map(Reg(instruction.dst), maps[number])
        found.append(new)
    return tuple(found)


# --- what the compiler says -----------------------------------------------------------------------------------------


def _errors(unit: Unit, said: str) -> Exception:
    """The compiler's errors, each at its place in the aspect."""
    bag = DiagnosticBag()
    for found in _MESSAGE.finditer(said):
        span = _place(unit, found["file"], int(found["line"]), int(found["column"]))
        message = re.sub(r" \[-W[\w,=-]+\]$", "", found["text"]).replace("struct tracepoint__klasy_", "struct klasy_")
        member = re.match(r"no member named '(\w+)'", message)
        hints = []
        if member and member[1] in unit.bit_fields:
            hints.append(
                f"'{member[1]}' is a bit-field of '{unit.bit_fields[member[1]]}': only klasy's own language reads those"
            )
        if message.startswith("use of undeclared identifier"):
            hints.append("most constants that are macros in the kernel's source are not known: write the number")
        bag.error("c-error", message, span, hints=hints)
    if not bag.errors:
        rest = " ".join(said.split())[:300] or "it does not say why"
        bag.error("c-error", f"bcc does not take this advice: {rest}", unit.functions[0].code.span)
    try:
        bag.raise_if_errors()
    except Exception as error:
        return error
    raise AssertionError("an error was added")


def _place(unit: Unit, file: str, line: int, column: int) -> Span:
    """A place that the compiler names, in the aspect."""
    for function in unit.functions:
        code = function.code
        source = code.span.file
        first, last = source.position(code.start)[0], source.position(code.span.end)[0]
        if file != unit.source_name or not first <= line <= last:
            continue
        for where, behind, moved in sorted(function.shifts, reverse=True):
            if where == line and column >= behind + moved:
                column -= moved
        start = source.line_starts[line - 1] + min(column - 1, len(source.line(line)))
        word = re.match(r"\w+", source.text[start : code.span.end])
        return Span(source, start, start + (len(word[0]) if word else 1))
    return unit.functions[0].code.span
