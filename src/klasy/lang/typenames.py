"""C's own type words: which there are, and one name for each way of writing a basic type."""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TAGS = frozenset({"struct", "union", "enum"})
USER = "__user"  # what a pointer to it leads to lies in the memory of the process
QUALIFIERS = frozenset({"const", "volatile", USER})
BASIC_WORDS = frozenset({"void", "char", "short", "int", "long", "signed", "unsigned", "_Bool", "float", "double"})

# What a prototype copied from the kernel's source may hold besides, and means nothing here.
DROPPED_WORDS = frozenset({
    "static", "extern", "inline", "register", "restrict", "asmlinkage", "noinline", "notrace", "noinline_for_stack",
    "__inline", "__restrict", "__always_inline", "__must_check", "__init", "__exit", "__sched", "__weak", "__visible",
    "__cold", "__kernel", "__iomem", "__percpu", "__rcu", "__force", "__private", "__bpf_kfunc",
    "__bitwise", "__nocast", "__randomize_layout",
})  # fmt: skip

# All words that C reserves: never the name of anything.
RESERVED_WORDS = TAGS | QUALIFIERS | BASIC_WORDS | {
    "auto", "break", "case", "continue", "default", "do", "else", "extern", "for", "goto", "if", "inline", "register",
    "restrict", "return", "sizeof", "static", "switch", "typedef", "while",
}  # fmt: skip

# The names of the basic types, sorted words to name.
_SIGNED_INTEGERS = {"short": "short", "int": "int", "long": "long", "long long": "long long"}


def normalise(words: Iterable[str]) -> str | None:
    """One name for a basic type written in any order: ``long unsigned int`` is ``unsigned long``. None: no C type."""
    left = list(words)
    for alone in ("void", "_Bool", "float"):
        if alone in left:
            return alone if len(left) == 1 else None
    if "double" in left:
        left.remove("double")
        return {(): "double", ("long",): "long double"}.get(tuple(left))
    signs = [w for w in left if w in ("signed", "unsigned")]
    if len(signs) > 1:
        return None
    left = sorted(w for w in left if w not in ("signed", "unsigned"))
    sign = signs[0] if signs else ""
    if left == ["char"]:
        return f"{sign} char".strip()  # plain char is a third type, neither signed char nor unsigned char
    if left.count("int") > 1:
        return None
    if len(left) > 1 and "int" in left:
        left.remove("int")
    name = _SIGNED_INTEGERS.get(" ".join(left)) if left else "int"
    if name is None:
        return None
    return f"unsigned {name}" if sign == "unsigned" else name


def is_basic(name: str) -> bool:
    """Whether a name is one that ``normalise`` gives."""
    return name.split(" ", maxsplit=1)[0] in BASIC_WORDS
