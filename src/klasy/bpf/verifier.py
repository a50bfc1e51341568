"""What the kernel's verifier said against a program, made useful.

The log of a refused program runs to thousands of lines, of which the last one or two count. :class:`VerifierError`
keeps all of it, shows those, and finds the instruction they speak of, and with it whatever the generator noted there,
as a rule the place in the aspect. Knows the log's form only, makes no system calls.
"""

from __future__ import annotations

import re
from errno import E2BIG

from klasy.errors import KernelRefused
from klasy.plain import NamedTuple

# "12: (79) r1 = *(u64 *)(r6 +112)     ; R1_w=scalar() R6=ctx(off=0,imm=0)"
_INSTRUCTION = re.compile(r"^(\d+): (\([0-9a-f]{2}\) .*?)(?:\s+;.*)?$")
# What the verifier says after its verdict: statistics, and the two states of a loop that does not move (6.4).
_AFTER = re.compile(r"^(processed \d+ insns|verification time \d+ usec|stack depth |(cur|old) state:)")
# The way there: instructions, states of registers, calls and returns, source lines, branches taken up again.
_WAY = re.compile(
    r"^(\d+: [(RFrf]| ?R\d+(_\w+)?=| ?frame\d+: |(caller|callee|returning from callee|to caller at \d+):|; "
    r"|from \d+ to \d+|\d+: safe|func#|mark_precise: |(last|first)_idx |regs=|parent |propagating )"
)
# Messages that name the instruction themselves; they come from checks that run before the walk.
_NAMED = re.compile(r"\binsn(?: idx)? (\d+)|^unreachable insn (\d+)|\bat insn (\d+)")
# The message itself starts with it: "R1 invalid mem access 'scalar'".


#: what stands in place of a verdict where none was asked for
TOO_LARGE = "the program is too large, or takes too many paths, for the verifier, which walks a million instructions"


class Verdict(NamedTuple):
    """The gist of a log."""

    #: what the verifier said, the last lines that are not statistics; empty for an empty log
    reason: str
    #: slot of the instruction it spoke of, if it can be told
    slot: int | None
    #: that instruction as the verifier printed it
    instruction: str | None
    #: lines of the log that are neither
    omitted: int


class VerifierError(KernelRefused):
    """The verifier refused a program. A fault of ours, not of the user: the aspect was legal, its code was not.

    ``log`` is all that the kernel wrote; empty for a program that is too large. ``metadata`` is what the generator
    attached to the instruction at fault.
    """

    def __init__(
        self, what: str, errno: int, log: str, metadata: tuple[object, ...] = (), *, hint: str | None = None
    ) -> None:
        super().__init__(what, errno, hint=hint)
        self.log = log
        self.verdict = judge(log)
        slot = self.verdict.slot
        self.metadata = metadata[slot] if slot is not None and slot < len(metadata) else None
        gist = summary(self.verdict) if log or errno != E2BIG else TOO_LARGE
        self.message = f"{self.message}: {gist}"
        self.args = (self.message,)


def summary(verdict: Verdict) -> str:
    """One line: ``12: (79) r1 = *(u64 *)(r6 +112): R6 invalid mem access 'scalar' (210 lines omitted)``."""
    reason = " ".join(verdict.reason.split()) or "no reason given"
    if verdict.instruction is not None:
        reason = f"{verdict.slot}: {verdict.instruction}: {reason}"
    if verdict.omitted:
        reason += f" ({verdict.omitted} line{'s' if verdict.omitted > 1 else ''} omitted)"
    return reason


def judge(log: str) -> Verdict:
    """Find the verdict in a verifier's log."""
    lines = [line for line in log.replace("\0", "").splitlines() if line.strip()]
    end = len(lines)
    while end and _AFTER.match(lines[end - 1]):
        end -= 1
    start = end
    while start and not _WAY.match(lines[start - 1]):
        start -= 1
        if end - start >= 3:  # longer messages exist, but their heads are enough of a hint only when short
            break
    reason = lines[start:end] or lines[end - 1 : end]
    instruction: str | None = None
    slot: int | None = None
    named = _NAMED.search(" ".join(reason))
    if named:
        slot = int(next(group for group in named.groups() if group))
    for line in reversed(lines[:end]):
        match = _INSTRUCTION.match(line)
        if match and slot in {None, int(match[1])}:
            slot, instruction = int(match[1]), match[2].rstrip()
            break
    used = len(reason) + (instruction is not None)
    return Verdict("\n".join(reason), slot, instruction, len(lines) - used)
