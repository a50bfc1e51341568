"""What is asked of klasy for any text at all: that it reads it, or says in the language's own terms what is wrong.

``judge`` takes a text through every stage up to the kernel's door: parser, names, matching, checker, compiler, code.
The replay of the kept corpus (tests/unit/test_fuzz_corpus.py) and the long runs (tests/stress/fuzz_parse.py) share it.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from golden.harness import cases

from klasy.diag import render
from klasy.errors import InputError, SystemRefusal
from klasy.lang.vocabulary import CONTEXT_NAMES, DESIGNATORS, FUNCTIONS
from klasy.match.options import PlanOptions
from klasy.resources import shipped_aspects
from klasy.source import SourceFile
from klasy.weaver import load_bcc
from klasy.weaver.build import build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klasy.kernel.image import KernelImage
    from klasy.kernel.model import Kernel

DATA = Path(__file__).parents[1] / "data"
CORPUS = DATA / "fuzz" / "aspects.jsonl"
SECONDS = 1.0  # of processor time that any text may take
MAX_TEXT = 4096

# The parser's own names of tokens and rules, and Python's of objects, mean nothing to a user.
_INTERNAL = re.compile(
    r"\b(LPAR|RPAR|RBRACE|LBRACE|CBODY|ERROR|NoneType)\b|\$END|__\w+_(star|plus)_\d|<klasy\.| object at 0x|Traceback"
)
_CODE = re.compile(r"[a-z]+(-[a-z0-9]+)*")


class Fault(AssertionError):
    """Something that must not happen did. ``about`` tells faults of one cause from others."""

    def __init__(self, about: str) -> None:
        super().__init__(about)
        self.about = about


class _CAdvice(Exception):
    """The aspect is sound up to what a C compiler would say of it."""


def _no_bcc(*_: object) -> None:
    raise _CAdvice


def prepare(
    set_attribute: Callable[..., object] = setattr, set_variable: Callable[..., object] = os.environ.__setitem__
) -> None:
    """Keep the stages from what lies outside: no C compiler, and of programs only those of the tests."""
    set_attribute(load_bcc, "compile_c", _no_bcc)
    set_variable("PATH", str(DATA / "programs"))


def judge(text: str, kernel: Kernel) -> tuple[str, float]:
    """The outcome of a text (``"accepted"``, or the codes of its errors) and the seconds of processor time it took.

    Raises Fault where anything else came of it. It is not asked here whether it took too long: under a coverage
    instrument everything does.
    """
    source = SourceFile("fuzzed.asp", text)
    begin = time.process_time()
    outcome = "accepted"
    try:
        build(source, kernel, PlanOptions())
    except InputError as error:
        outcome = _errors(error, source)
    except (SystemRefusal, _CAdvice):  # the recorded kernels hold no trace events, and the text of some functions only
        pass
    except Exception as problem:
        raise Fault(_signature(problem)) from problem
    return outcome, time.process_time() - begin


def _errors(error: InputError, source: SourceFile) -> str:
    """The codes of what was said; raises Fault if it cannot be shown to a user."""
    if not error.diagnostics:
        if not error.message:
            raise Fault("an error that says nothing")
        return "whole-file"
    for item in error.diagnostics:
        if not _CODE.fullmatch(item.code):
            raise Fault(f"no name for an error: {item.code!r}")
        if item.span is None:
            raise Fault(f"no place: {item.code}")
        if item.span.file is source and not 0 <= item.span.start <= item.span.end <= len(source.text):
            raise Fault(f"a place outside the file: {item.code}")
        shown = render(item)
        if "\x1b" in shown:
            raise Fault(f"a terminal escape is shown: {item.code}")
        said = f"{item.message}\n" + "\n".join(item.hints)
        for found in _INTERNAL.finditer(said):
            if found[0] not in source.text:
                raise Fault(f"an internal name is shown: {item.code}: {found[0]}")
    return " ".join(sorted({item.code for item in error.diagnostics}))


def _signature(problem: BaseException) -> str:
    """What a crash has in common with others of its cause: its kind, and the innermost places in klasy."""
    places = []
    trace = problem.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if f"{os.sep}klasy{os.sep}" in path:
            places.append(f"{Path(path).stem}.{trace.tb_frame.f_code.co_name}")
        trace = trace.tb_next
    return f"{type(problem).__name__} in {' < '.join(reversed(places[-2:]))}"


# --- texts ----------------------------------------------------------------------------------------------------------


def seeds() -> list[str]:
    """Where mutation begins: every golden case, right and wrong, and what klasy ships."""
    found = [case.input for folder in ("parse", "check", "ir", "bpf", "c") for case in cases(folder)]
    found += ["aspect t {\n" + case.input + "\n}\n" for case in cases("match")]
    for text in shipped_aspects().values():
        found.append(text[text.index("\naspect ") + 1 :])
    return [text for text in dict.fromkeys(found) if len(text) <= MAX_TEXT]


def generated(kernel: KernelImage, number: int, seed: int = 1) -> list[str]:
    """Well-typed aspects over the functions and types of a recorded kernel: what is made of them gets further."""
    from support.aspectgen import AspectGenerator

    generator = AspectGenerator(Random(seed), kernel, min(200, number))
    return [text for text in (generator.text() for _ in range(number)) if len(text) <= MAX_TEXT]


def names_of(kernel: KernelImage, number: int = 2000) -> list[str]:
    """Names that mean something in a recorded kernel: functions whose text it holds, structs, members."""
    from klasy.btf.types import Struct

    btf = kernel.btf
    functions = [f for pattern in ("tcp_*", "skb_*", "ip_*", "vfs_*") for f in kernel.functions(pattern)]
    structs = sorted({name for name, _ in btf.names(Struct) if name.isidentifier()})
    random = Random(1)
    chosen = random.sample(structs, min(len(structs), number // 4))
    members = {m.name for name in chosen for type_id in btf.find(name, Struct)[:1] for m in btf.type(type_id).members}
    found = sorted({f.name for f in functions if f.name.isidentifier()} | set(chosen) | {m for m in members if m})
    return random.sample(found, min(len(found), number))


def corpus() -> list[str]:
    """The texts that are kept in the tree."""
    return [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]


_TOKEN = re.compile(r"\s+|\w+|//.*|\"[^\"\n]*\"|%\{|%\}|\.\.\.|\.\.|->|&&|\|\||<<|>>|[=!<>]=|.", re.DOTALL)
_WORDS = [
    *CONTEXT_NAMES, *DESIGNATORS, *FUNCTIONS, "aspect", "abstract", "extends", "precedence", "import", "pointcut",
    "before", "after", "around", "returning", "if", "else", "for", "while", "break", "continue", "return", "delete",
    "struct", "union", "enum", "sizeof", "container_of", "u8", "u16", "u32", "u64", "s32", "s64", "void", "const",
    "int", "unsigned", "long", "char", "count", "sum", "min", "max", "avg", "hist", "lhist", "add", "clear",
    "joinpoint", "value", "old", "new", "watched", "per_cpu", "vmlinux", "0", "1", "-1", "255", "0xffffffffffffffff",
    "99999999999999999999", "08", "1/100", "ns", "ms", "10*s", '"%d %s"', '"%"', "'a'", "'\\x'", "*", "..", "...",
    "&", "&&", "||", "!", "->", ".", "=", "==", "+=", "<<", ">>", "++", "--", "?", ":", ",", ";", "(", ")", "[", "]",
    "{", "}", "%{", "%}", "/*", "*/", "//", '"', "'", "\\", "\0", "\x1b[31m", "“", "”", "é", "\ufeff", "\u2028", "\r",
    "#", "@", "$", "`",
]  # fmt: skip


class Mutator:
    """Makes texts out of others: by tokens, by statements, by nesting."""

    def __init__(self, texts: list[str], names: Sequence[str] = ()) -> None:
        """``names``: more that may stand in the place of a name."""
        self._texts = texts
        self._names = names
        self._tokens = [_TOKEN.findall(text) for text in texts if text]
        self._changes: list[Callable[[list[str], Random], list[str]]] = [
            self._drop, self._double, self._put, self._swap, self._replace, self._splice, self._splice, self._repeat,
            self._wrap, self._rename,
        ]  # fmt: skip

    def mutate(self, text: str, random: Random) -> str:
        """A text made of this one by a few changes."""
        tokens = _TOKEN.findall(text)
        for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
            tokens = random.choice(self._changes)(tokens, random)
        return "".join(tokens)[:MAX_TEXT]

    def fresh(self, random: Random) -> str:
        """One of the texts that it knows, changed."""
        return self.mutate(random.choice(self._texts), random)

    @staticmethod
    def _span(tokens: list[str], random: Random, longest: int = 12) -> tuple[int, int]:
        start = random.randint(0, len(tokens))
        return start, min(len(tokens), start + random.randint(0, longest))

    def _drop(self, tokens: list[str], random: Random) -> list[str]:
        start, end = self._span(tokens, random)
        return tokens[:start] + tokens[end:]

    def _double(self, tokens: list[str], random: Random) -> list[str]:
        start, end = self._span(tokens, random, 40)
        return tokens[:end] + tokens[start:]

    def _put(self, tokens: list[str], random: Random) -> list[str]:
        start = random.randint(0, len(tokens))
        return [*tokens[:start], " ", random.choice(_WORDS), " ", *tokens[start:]]

    def _swap(self, tokens: list[str], random: Random) -> list[str]:
        start, end = self._span(tokens, random, 30)
        other = random.randint(end, len(tokens))
        return tokens[:start] + tokens[end:other] + tokens[start:end] + tokens[other:]

    def _replace(self, tokens: list[str], random: Random) -> list[str]:
        if not tokens:
            return tokens
        other = random.choice(random.choice(self._tokens)) if random.random() < 0.5 else random.choice(_WORDS)
        place = random.randrange(len(tokens))
        return [*tokens[:place], other, *tokens[place + 1 :]]

    def _splice(self, tokens: list[str], random: Random) -> list[str]:
        """A piece of another text, from one ``;`` or brace to another."""
        other = random.choice(self._tokens)
        ends = [i for i, token in enumerate(other) if token in (";", "{", "}")]
        if len(ends) < 2:
            return tokens
        first = random.randrange(len(ends) - 1)
        last = min(len(ends) - 1, first + random.randint(1, 4))
        mine = [i + 1 for i, token in enumerate(tokens) if token in (";", "{", "}")] or [0]
        place = random.choice(mine)
        return tokens[:place] + other[ends[first] + 1 : ends[last] + 1] + tokens[place:]

    def _repeat(self, tokens: list[str], random: Random) -> list[str]:
        start, end = self._span(tokens, random)
        return tokens[:start] + tokens[start:end] * random.choice((3, 10, 100)) + tokens[end:]

    def _wrap(self, tokens: list[str], random: Random) -> list[str]:
        start, end = self._span(tokens, random)
        times = random.choice((1, 2, 20))
        left, right = random.choice(
            (("(", ")"), ("{", "}"), ("if (1) {", "}"), ("!", ""), ("*", ""), ("&", ""), ("[", "]"), ("-", ""))
        )
        return [*tokens[:start], *[left] * times, *tokens[start:end], *[right] * times, *tokens[end:]]

    def _rename(self, tokens: list[str], random: Random) -> list[str]:
        """Every place of one name becomes another name of the text."""
        names = [token for token in tokens if token.isidentifier()]
        if not names:
            return tokens
        old, new = random.choice(names), random.choice(names)
        if self._names and random.random() < 0.7:
            new = random.choice(self._names)
        return [new if token == old else token for token in tokens]
