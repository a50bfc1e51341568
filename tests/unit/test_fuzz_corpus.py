"""What tests/stress/fuzz_parse.py has kept is read, or refused in the language's own terms, every time."""

from __future__ import annotations

import pytest
from golden.kernel import KERNEL as COMPILE
from golden.match.kernel import KERNEL as MATCH
from support import fuzzing

from klasy.diag import Diagnostic, Severity
from klasy.errors import InputError


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzzing.prepare(monkeypatch.setattr, monkeypatch.setenv)


@pytest.mark.parametrize("kernel", [MATCH, COMPILE], ids=["match", "compile"])
def test_the_corpus(kernel) -> None:
    """No text of it crashes a stage or gets an error that cannot be shown; both outcomes occur."""
    outcomes = set()
    for text in fuzzing.corpus():
        outcome, seconds = fuzzing.judge(text, kernel)
        outcomes |= set(outcome.split())
        assert seconds < 5 * fuzzing.SECONDS, text  # a machine that does other things, too
    assert "accepted" in outcomes
    assert len(outcomes) > 30


# What the fuzzer found, shortened.
FOUND = {
    "a key made of a parameter that is of no type": """
        aspect a {
            count n[str(p->d)];
            before(r *p): execution(kfree(e *p, ..)) { n[str(p->d)]++; n[str(p->d)].add(1); }
        }""",
    "a function of the second aspect of one name": """
        aspect b { before(): call(kfree) { log(1); } }
        aspect b { u32 x(u32 y) { return 1; } before(): call(kfree) { x(1); } }""",
    "no closing parenthesis in all of the file behind returning": """
        aspect a { pointcut execution(f); after() returning (int result { log(1, }""",
}


@pytest.mark.parametrize("kernel", [MATCH, COMPILE], ids=["match", "compile"])
@pytest.mark.parametrize("what", FOUND)
def test_found(what: str, kernel) -> None:
    """Texts that once ended in a traceback are refused."""
    assert fuzzing.judge(FOUND[what], kernel)[0] != "accepted"


def test_the_judge_is_no_rubber_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that crashes, and an error without a place, are faults."""

    def crash(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(fuzzing, "build", crash)
    with pytest.raises(fuzzing.Fault, match="KeyError"):
        fuzzing.judge("aspect a { }", MATCH)

    def unplaced(*_: object) -> None:
        raise InputError("no", [Diagnostic(Severity.ERROR, "no-place", "somewhere", None)])

    monkeypatch.setattr(fuzzing, "build", unplaced)
    with pytest.raises(fuzzing.Fault, match="no place"):
        fuzzing.judge("aspect a { }", MATCH)
