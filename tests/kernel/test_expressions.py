"""Random typed expressions over memory: the guest's kernel computes what C's rules say of the same bytes.

The memory is the test's own: setxattr(2) copies the value it is given into the kernel, and an aspect takes the copy for
a struct of the kernel's own. What the value of each expression must be, ``exprgen`` computes in plain Python.
"""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import pytest
from support.exprgen import Expression, Generator, IntType, Leaf, casts, leaves_of
from support.livekernel import btf
from support.weaving import woven

from klasy.btf.types import Int, Struct
from klasy.log.value import Char, EnumValue

# Between them these have every kind of member; some are in every aspect, others are drawn from all of the kernel's.
STRUCTS = (
    "bpf_insn",  # bit-fields of a byte, signed members
    "dev_pm_info",  # many bit-fields, bool, nested structs
    "fs_context",  # bit-fields of enums
    "inet_sock",  # nested three deep, anonymous unions, bit-fields
    "iphdr",  # an anonymous union of structs
    "kernel_siginfo",  # a union of many structs
    "perf_event_attr",  # bit-fields of 64 bits
    "printf_spec",  # signed bit-fields
    "sched_dl_entity",  # signed 64-bit members, bit-fields
    "sk_buff",  # everything
    "swap_info_struct",  # signed char
    "task_struct",  # large
    "tcp_options_received",  # bit-fields in shorts and ints
)
SEEDS = [int(seed) for seed in os.environ.get("KLASY_SEED", "1 2 3").split()]
RANDOM_STRUCTS = 3
LOGS = 8  # for each struct
MEMORIES = 12  # for each struct
LARGEST = 1 << 14  # bytes of a struct


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def folder(tmp_path):
    """A folder on a file system of its own: on an overlay each vfs function runs twice."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@dataclass(frozen=True)
class Log:
    """One log of an advice, run if ``condition`` is what it says, or always."""

    expressions: tuple[Expression, ...]
    text: str
    condition: Expression | None = None
    wanted: bool = True

    def expected(self, memory: bytes) -> list[int] | None:
        """What is logged of some memory; None: nothing is."""
        if self.condition is not None and (self.condition.value(memory) != 0) != self.wanted:
            return None
        return [expression.value(memory) for expression in self.expressions]


@dataclass(frozen=True)
class Case:
    """A struct, the name under which memory is passed as one, and what is logged of it."""

    struct: str
    size: int
    name: str
    logs: tuple[Log, ...]

    def body(self) -> str:
        """Its part of the advice."""
        lines = "\n".join(f"            {log.text}" for log in self.logs)
        return f"""
        if (name == "{self.name}") {{
            struct {self.struct} *p = (struct {self.struct} *)value;
{lines}
        }}"""


def make_logs(rng: random.Random, leaves: list[Leaf]) -> list[Log]:
    """Logs of random expressions: plainly, under a condition, and of a variable that was assigned to."""
    generator = Generator(rng, leaves, casts=kernel_casts())

    def several() -> tuple[Expression, ...]:
        return tuple(generator.expression(rng.choice((2, 3, 3, 4))) for _ in range(rng.choice((1, 1, 2, 3))))

    logs: list[Log] = []
    while len(logs) < LOGS:
        form = rng.random()
        chosen = several()
        texts = ", ".join(e.text for e in chosen)
        if form < 0.7:
            logs.append(Log(chosen, f"log({texts});"))
        elif form < 0.85:
            condition, other = generator.expression(3), several()
            others = ", ".join(e.text for e in other)
            text = f"if ({condition.text}) {{ log({texts}); }} else {{ log({others}); }}"
            logs += [Log(chosen, text, condition, True), Log(other, "", condition, False)]
        else:
            kind, first = rng.choice(kernel_casts()), chosen[0]
            logs.append(Log((kept(kind, first),), f"{{ {kind.name} v = {first.text}; log(v); }}"))
    return logs


@cache
def kernel_casts() -> tuple[IntType, ...]:
    """Types to cast to, with the ``char`` that the kernel was built with: unsigned from 6.2 on."""
    (char,) = (each for number in btf().find("char", Int) if isinstance(each := btf().type(number), Int))
    return casts(unsigned_char=not char.signed)


def kept(kind: IntType, expression: Expression) -> Expression:
    """A variable of a type, to which an expression was assigned."""
    return Expression("v", kind, lambda memory: kind.wrap(expression.value(memory)))


@cache
def other_structs() -> list[str]:
    """Names of all structs but those of STRUCTS."""
    return [name for name, _ in btf().names(Struct) if name and name not in STRUCTS]


def random_structs(rng: random.Random, number: int) -> list[str]:
    """Names of structs drawn from all that the kernel has under a name of their own and that hold integers."""
    types = btf()
    chosen: list[str] = []
    while len(chosen) < number:
        name = rng.choice(other_structs())
        found = types.find(name, Struct)
        if name in chosen or len(found) > 1 or not 0 < types.size_of(found[0]) <= LARGEST:
            continue
        if len(leaves_of(types, found[0], "p")) >= 4:
            chosen.append(name)
    return chosen


def make_cases(rng: random.Random) -> list[Case]:
    """Cases for one aspect."""
    names = sorted(rng.sample(STRUCTS, 7)) + random_structs(rng, RANDOM_STRUCTS)
    cases = []
    for number, name in enumerate(names):
        (struct_id,) = btf().find(name, Struct)
        leaves = leaves_of(btf(), struct_id, "p")
        # Bit-fields are the rarest kind and the hardest.
        leaves += [leaf for leaf in leaves if leaf.bits] * 3
        size = btf().size_of(struct_id)
        cases.append(Case(name, size, f"trusted.klasy{number}", tuple(make_logs(rng, leaves))))
    return cases


def make_memory(rng: random.Random, size: int) -> bytes:
    """Bytes in which borders of ranges are likely."""
    form = rng.randrange(4)
    if form == 0:
        return rng.randbytes(size)
    if form == 1:
        return bytes(rng.choice((0, 1, 0x7F, 0x80, 0xFF)) for _ in range(size))
    if form == 2:
        return bytes([rng.choice((0, 0xFF))]) * size
    # words with few bits set or few bits clear
    words = [rng.choice((0, (1 << 64) - 1)) ^ (1 << rng.randrange(64)) for _ in range(size // 8 + 1)]
    return b"".join(word.to_bytes(8, "little") for word in words)[:size]


def number_of(value) -> int:
    """A logged value as the number it stands for."""
    if isinstance(value, EnumValue):
        return value.value
    if isinstance(value, Char):
        return value.value
    return int(value)


def test_structs_have_every_kind_of_member():
    """What is never left out of the random expressions: bit-fields of all widths, signs, enums, arrays, nesting."""
    leaves = []
    for name in STRUCTS:
        (struct_id,) = btf().find(name, Struct)
        leaves += leaves_of(btf(), struct_id, "p")
    bit_fields = {(leaf.type.size, leaf.type.signed, leaf.type.name) for leaf in leaves if leaf.bits}
    assert {size for size, _, _ in bit_fields} >= {1, 2, 4, 8}
    assert {signed for _, signed, _ in bit_fields} == {False, True}
    assert "enum" in {name for _, _, name in bit_fields}
    plain = {(leaf.type.size, leaf.type.signed) for leaf in leaves if not leaf.bits}
    assert plain >= {(size, signed) for size in (1, 2, 4, 8) for signed in (False, True)}
    assert any(leaf.type.boolean for leaf in leaves)
    assert any(leaf.count for leaf in leaves)
    assert any(leaf.text.count(".") >= 2 for leaf in leaves)
    places: dict[int, int] = {}
    for leaf in leaves_of(btf(), btf().find("kernel_siginfo", Struct)[0], "p"):
        places[leaf.bit_offset] = places.get(leaf.bit_offset, 0) + 1
    assert max(places.values()) > 2, "no unions"


@pytest.mark.parametrize("seed", SEEDS)
def test_expressions(folder, seed):
    """What advice logs of random expressions is what C's rules say of the bytes it ran over."""
    rng = random.Random(seed)
    cases = make_cases(rng)
    bodies = "".join(case.body() for case in cases)
    text = f"""aspect expressions {{
    pointcut execution(vfs_setxattr(.., const char *name, const void *value, ..)) && if(pid == {os.getpid()});
    before(const char *name, const void *value) {{{bodies}
    }}
}}"""
    target = folder / "file"
    target.touch()
    wrong = []
    compared = 0
    with woven(text) as aspect:
        for case in cases:
            for _ in range(MEMORIES):
                memory = make_memory(rng, case.size)
                with suppress(OSError):  # whether the attribute is set does not matter
                    os.setxattr(target, case.name, memory)
                events = aspect.events()
                expected = [(log, values) for log in case.logs if (values := log.expected(memory)) is not None]
                assert len(events) == len(expected), (seed, case)
                for event, (log, values) in zip(events, expected, strict=True):
                    assert not event.faults, (seed, event)
                    logged = [number_of(value) for _, value in event.values]
                    compared += len(values)
                    if logged != values:
                        wrong.append(f"struct {case.struct}: {log.text}: {logged} is not {values} of {memory.hex()}")
    assert not wrong, f"seed {seed}: {len(wrong)} of {compared} differ:\n" + "\n".join(wrong[:5])
    assert compared >= MEMORIES * len(cases) * LOGS // 2
