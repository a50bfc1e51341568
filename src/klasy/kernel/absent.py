"""What is known of a name for which the kernel has no function symbol. Nothing here is quick: it is for errors."""

from __future__ import annotations

import os
import re

from klasy.btf.types import Enum, Func, Fwd, Struct, Typedef, Union
from klasy.kernel import kallsyms
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.btf.btf import Btf
    from klasy.kernel.kallsyms import Symbols


def from_listing(name: str, listing: bytes) -> str | None:
    """What a listing of all symbols says of a name that is no function's."""
    for symbol, _ in kallsyms.lookup(listing, name):
        if kallsyms.is_data(symbol):
            return f"it is a variable of {symbol.module or 'the kernel'}, not a function"
        if symbol.kind in "tT" and not symbol.module:
            return "it runs only while the kernel boots, and its text is freed then"
    event = name.removeprefix("trace_")
    if kallsyms.lookup(listing, f"__tracepoint_{event}"):
        if event == name:  # kmalloc, which is inline as well: the tracepoint is not what was asked for, but may do
            return f"there is a tracepoint of this name: event(CATEGORY:{event}), which klasy search '*:{event}' shows"
        return f"it is the hook of a tracepoint, and inlined everywhere: event(CATEGORY:{event}) selects it"
    return None


def from_functions(name: str, symbols: Symbols) -> str | None:
    """Whether it names a system call, whose function is called otherwise."""
    call = re.sub(r"^(?:__do_sys_|__se_sys_|ksys_|sys_|SyS_|do_sys_)", "", name)
    function = f"__x64_sys_{call}"
    if symbols.named(function):
        return f"the system call {call} is the function {function} here"
    return None


def from_btf(name: str, btf: Btf) -> str | None:
    """What the kernel's types say of it."""
    if btf.find(name, Func):
        return "the kernel's types describe it, but it has no code now: it was inlined everywhere, or freed after boot"
    for type_id in btf.find(name, Struct, Union, Enum, Typedef, Fwd):
        return f"it is a type ({btf.c_name(type_id)}), not a function"
    if btf.find_constant(name):
        return "it is a constant, not a function"
    return None


def from_unloaded_modules(name: str, folder: str) -> str | None:
    """The module that exports it but is not loaded; ``folder``: /lib/modules of the running release."""
    try:
        with open(os.path.join(folder, "modules.symbols"), "rb") as file:
            found = re.search(rb"^alias symbol:" + re.escape(name.encode()) + rb" (\S+)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    if not found:
        return None
    module = found[1].decode()
    return f"it is in module {module}, which is not loaded (modprobe {module})"
