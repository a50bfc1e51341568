"""What the backend generates, the kernel's verifier accepts: random programs, in each context."""

from __future__ import annotations

from random import Random

import pytest
from support.backend import generate, plan, probe
from support.bpf_kernel import no_leaks  # noqa: F401
from support.irgen import Generator
from support.livebackend import LiveKernel, live, loaded

from klasy.backend import show
from klasy.compiler import ircheck
from klasy.compiler.irprint import render
from klasy.errors import InputError, KernelRefused
from klasy.match.mechanism import Context
from klasy.match.plan import Point

READ = live("vfs_read")
KERNEL = LiveKernel()
PROGRAMS = 25


@pytest.mark.parametrize("context", [Context.FENTRY, Context.FEXIT, Context.ENTRY, Context.SITE])
def test_the_verifier_accepts_random_programs(context: Context) -> None:
    """Programs of the IR that are sound load, whatever they do with arguments, memory and records."""
    one = probe(context, points=[Point(READ.address, READ)], arms=[{READ.address: 0}])
    accepted = 0
    for seed in range(PROGRAMS):
        random = Random(seed)
        program = Generator(random, random.choice([5, 20, 40, 80])).make()
        ircheck.require(program)
        try:
            artifact = generate([program], plan(one), random.choice([None, KERNEL]))
        except InputError as error:
            assert {d.code for d in error.diagnostics} == {"advice-too-large"}  # noqa: PT017
            continue
        try:
            with loaded(artifact):
                accepted += 1
        except KernelRefused as error:
            pytest.fail(f"seed {seed}: {error}\n{render(program)}\n{show(artifact)}")
    assert accepted > PROGRAMS * 0.9
