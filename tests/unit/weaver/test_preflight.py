"""What is said before a weave that could not work, and when the kernel refuses the code."""

from __future__ import annotations

import errno

import pytest
from support.handmade import artifact, function

from klasy.bpf.verifier import VerifierError
from klasy.errors import InputError, KernelRefused, SystemRefusal
from klasy.match.mechanism import Mechanism
from klasy.match.plan import Point
from klasy.weaver.preflight import load_refusal, preflight
from klasy.weaver.recipe import recipe_of

F = function("f", 0x1000)
LOG = "0: R1=ctx()\n0: (79) r1 = *(u64 *)(r6 +112)\nR6 invalid mem access 'scalar'\nprocessed 3 insns\n"


def recipe(mechanism: Mechanism):
    """That of an aspect with one probe."""
    return recipe_of(artifact("a", [(mechanism, [Point(0x1000, F)])]))


def check(tmp_path, mechanism: Mechanism, kprobes: str | None, ftrace: str | None) -> None:
    """Look at switches as they might stand; None: there is no such switch."""
    paths = {"kprobes_enabled": tmp_path / "kprobes", "ftrace_enabled": tmp_path / "ftrace"}
    for path, value in zip(paths.values(), (kprobes, ftrace), strict=True):
        path.unlink(missing_ok=True)
        if value is not None:
            path.write_text(value)
    preflight([recipe(mechanism)], **{name: str(path) for name, path in paths.items()})


def test_switches_are_looked_at_where_they_matter(tmp_path):
    """Kprobes off stops what needs kprobes only; function tracing off stops everything; no switch is no hindrance."""
    for mechanism in set(Mechanism) - {Mechanism.BREAKPOINT}:
        check(tmp_path, mechanism, "1\n", "1\n")
        check(tmp_path, mechanism, None, None)
    check(tmp_path, Mechanism.FENTRY, "0\n", "1\n")
    check(tmp_path, Mechanism.RAW_TRACEPOINT, "0\n", "0\n")  # tracepoints need neither
    with pytest.raises(SystemRefusal, match="kprobes are switched off"):
        check(tmp_path, Mechanism.KRETPROBE, "0\n", "1\n")
    with pytest.raises(SystemRefusal, match="function tracing is switched off"):
        check(tmp_path, Mechanism.FENTRY, "1\n", "0\n")
    check(tmp_path, Mechanism.UPROBE, "0\n", "0\n")  # those in programs need neither


def test_a_refusal_by_the_verifier_says_whose_code_and_whose_fault():
    """The aspect, the advice and its place come first, then the verifier's own words; klasy takes the blame."""
    made = recipe(Mechanism.KPROBE).plan
    span = made.aspect.advice[0].span
    error = load_refusal(made, 0, VerifierError("loading program 'p0'", errno.EACCES, LOG, (span,)))
    assert isinstance(error, KernelRefused)
    assert error.message.startswith("the kernel refuses klasy's code for before#0 of aspect 'a' (a.asp:1:1): ")
    assert "R6 invalid mem access" in error.message
    assert "fault of klasy" in (error.hint or "")


def test_too_large_a_program_is_the_users_to_mend():
    """What the verifier gives up on is an error at the advice, in the user's terms."""
    made = recipe(Mechanism.KPROBE).plan
    error = load_refusal(made, 0, VerifierError("loading program 'p0'", errno.E2BIG, ""))
    assert isinstance(error, InputError)
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == "too-large"
    assert diagnostic.span == made.aspect.advice[0].head


def test_other_refusals_stay_what_they_are():
    """No memory, no rights: nothing to do with the code."""
    made = recipe(Mechanism.KPROBE).plan
    error = KernelRefused("loading program 'p0'", errno.ENOMEM)
    assert load_refusal(made, 0, error) is error
