"""The oracle of random expressions against a C compiler: both compute the same from the same bytes.

So what the compiler is tested with is C, not what its author takes for C. The struct's layout is read from the BTF
that gcc itself writes, which tests the reading of bit-fields too.
"""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from elftools.elf.elffile import ELFFile
from support.exprgen import Generator, leaves_of, promoted

from klasy.btf.btf import Btf
from klasy.btf.types import Struct

STRUCT = """
enum shape { ROUND, SQUARE = 0x90000000 };
struct inner { short a; union { int b; unsigned char c[4]; }; signed char d; unsigned int bit : 1; };
struct s {
    unsigned int b3 : 3; int b5 : 5; unsigned int b13 : 13; int b11 : 11; unsigned int b32 : 32; int i32 : 32;
    unsigned long w20 : 20; long l9 : 9; _Bool flag : 1; unsigned char uc3 : 3; signed char sc4 : 4; short s9 : 9;
    char c; unsigned char uc; short sh; unsigned short ush; int i; unsigned int ui; long l; unsigned long ul;
    long long ll; unsigned long long ull; _Bool yes; enum shape shape; enum shape es : 2;
    struct inner in; int ai[4]; unsigned char bytes[8]; short odd[3]; struct inner rest;
};
struct s s;
"""
EXPRESSIONS = 400
MEMORIES = 6


def _compiler() -> str:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc on this machine")
    return gcc


def _btf(gcc: str, directory) -> Btf:
    source, made = directory / "types.c", directory / "types.o"
    source.write_text(STRUCT)
    done = subprocess.run([gcc, "-gbtf", "-c", source, "-o", made], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"gcc writes no BTF: {done.stderr.strip()}")
    with made.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".BTF")
        return Btf(section.data())


def test_oracle_is_c(tmp_path):
    """For hundreds of random expressions, gcc's program prints what the oracle computes, type and value."""
    gcc = _compiler()
    btf = _btf(gcc, tmp_path)
    struct_id = btf.find("s", Struct)[0]
    size = btf.size_of(struct_id)
    rng = random.Random(20)
    leaves = leaves_of(btf, struct_id, "p")
    assert len(leaves) > 30
    generator = Generator(rng, leaves, defined=True)
    expressions = [generator.expression(rng.randrange(1, 6)) for _ in range(EXPRESSIONS)]
    memories = [bytearray(rng.choice((rng.getrandbits(8), 0, 0xFF)) for _ in range(size)) for _ in range(MEMORIES)]
    for leaf in leaves:
        if leaf.type.boolean and not leaf.bits:
            for memory in memories:
                memory[leaf.bit_offset // 8] &= 1  # a bool that is neither 0 nor 1 means nothing to gcc

    prints = "\n".join(f'printf("%zu %lld\\n", sizeof(({e.text}) + 0), (long long)({e.text}));' for e in expressions)
    blobs = ",\n".join("{" + ",".join(map(str, memory)) + "}" for memory in memories)
    source, program = tmp_path / "all.c", tmp_path / "all"
    source.write_text(f"""
        #include <stdio.h>
        {STRUCT}
        static const unsigned char memories[][{size}] = {{ {blobs} }};
        static void show(const struct s *p) {{ {prints} }}
        int main(void) {{
            for (int i = 0; i < {MEMORIES}; i++) {{ __builtin_memcpy(&s, memories[i], sizeof s); show(&s); }}
        }}
    """)
    subprocess.run([gcc, "-w", "-O0", "-fwrapv", source, "-o", program], check=True)
    lines = iter(subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines())
    for memory in memories:
        for expression in expressions:
            width, printed = next(lines).split()
            value = expression.value(memory)
            signed = value - (1 << 64) if value >= 1 << 63 else value
            assert int(printed) == signed, expression.text
            assert int(width) == promoted(expression.type).size, expression.text
