"""Verdicts found in the logs of real kernels: tests/data/verifier, written by tests/gen/verifier_logs.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.bad_programs import BAD

from klasy.bpf.verifier import VerifierError, judge, summary
from klasy.errors import EXIT_SYSTEM, KernelRefused

DATA = Path(__file__).parents[2] / "data" / "verifier"


def logs() -> dict[tuple[str, str], tuple[int, str]]:
    """(kernel, program) -> (error number, log)."""
    found = {}
    for file in sorted(DATA.glob("*.txt")):
        for name, number, text in re.findall(
            r"^=== (\S+) errno (\d+)\n(.*?)(?=^=== |\Z)", file.read_text(), re.DOTALL | re.MULTILINE
        ):
            found[file.stem, name] = int(number), text
    return found


LOGS = logs()


def test_every_bad_program_has_a_log_of_each_kernel():
    """The saved logs are complete; regenerate them after adding a program."""
    assert set(LOGS) == {(kernel, name) for kernel in ("6.1", "6.12") for name in BAD}


@pytest.mark.parametrize(("kernel", "name"), LOGS)
def test_verdict_names_reason_and_instruction(kernel, name):
    """From each log come the verifier's reason, the instruction it is about, and the place noted on that."""
    bad = BAD[name]
    number, log = LOGS[kernel, name]
    error = VerifierError("loading program 'x'", number, log, bad.assembled.metadata)
    assert re.search(bad.words, error.verdict.reason)
    assert error.verdict.slot == bad.slot
    expected = None if bad.slot is None else bad.assembled.metadata[bad.slot]
    assert error.metadata == expected
    assert "processed" not in error.verdict.reason.replace("Processed", "")
    assert "=ctx" not in error.verdict.reason
    assert "\n" not in error.message


@pytest.mark.parametrize(("kernel", "name"), LOGS)
def test_instruction_is_shown_unless_the_kernel_never_walked_to_it(kernel, name):
    """The instruction at fault is printed as in the log; checks before the walk have none to print."""
    verdict = judge(LOGS[kernel, name][1])
    walked = f"\n{verdict.slot}: (" in "\n" + LOGS[kernel, name][1]
    assert (verdict.instruction is not None) == (verdict.slot is not None and walked)


@pytest.mark.parametrize(("kernel", "name"), LOGS)
def test_lines_are_accounted_for(kernel, name):
    """What is shown and what is counted as omitted are together the whole log."""
    log = LOGS[kernel, name][1]
    verdict = judge(log)
    shown = len(verdict.reason.splitlines()) + (verdict.instruction is not None)
    assert shown + verdict.omitted == len([line for line in log.splitlines() if line.strip()])


def test_error_as_it_is_shown():
    """One line: what was tried, the kernel's answer, the instruction, the verdict, and how much was left out."""
    error = VerifierError("loading program 'log_dequeue'", 13, LOGS["6.1", "far-fault"][1])
    assert str(error) == (
        "loading program 'log_dequeue': Permission denied (EACCES): 303: (79) r0 = *(u64 *)(r6 +0): "
        "R6 invalid mem access 'scalar' (304 lines omitted)"
    )
    assert isinstance(error, KernelRefused)
    assert error.exit_status == EXIT_SYSTEM
    assert error.log == LOGS["6.1", "far-fault"][1]


def test_two_lines_of_reason_are_kept():
    """Where the verifier needs two lines to say it, both are there."""
    verdict = judge(LOGS["6.12", "value-overrun"][1])
    assert verdict.reason.splitlines() == [
        "invalid access to map value, value_size=8 off=4 size=8",
        "R0 min value is outside of the allowed memory range",
    ]


@pytest.mark.parametrize("log", ["", "\0\0\0", "\n", "processed 1 insns (limit 1000000) max_states_per_insn 0\n"])
def test_logs_without_a_verdict(log):
    """An empty log, and one with statistics only, give no reason and no instruction, and say so."""
    verdict = judge(log)
    assert (verdict.slot, verdict.instruction) == (None, None)
    assert summary(judge("")) == "no reason given"


def test_cut_log_gives_its_last_line():
    """A log cut off in the middle of the walk still ends in something to show."""
    cut = "\n".join(LOGS["6.1", "far-fault"][1].splitlines()[:100])
    assert judge(cut).slot is not None


def test_a_million_instructions():
    """A program that is too large has a verdict about no instruction; where no log was asked for, our own words."""
    log = (
        "BPF program is too large. Processed 1000001 insn\nverification time 1985253 usec\nstack depth 0\n"
        "processed 1000001 insns (limit 1000000) max_states_per_insn 4 total_states 25001 peak_states 25001\n"
    )
    verdict = judge(log)
    assert (verdict.reason, verdict.slot) == ("BPF program is too large. Processed 1000001 insn", None)
    assert "million instructions" in str(VerifierError("loading program 'x'", 7, ""))
