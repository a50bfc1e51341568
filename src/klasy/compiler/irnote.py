"""The operations of the IR on notes, which tie an access to a member to what lies behind it; see match/plan.py."""

from __future__ import annotations

from klasy.compiler.ir import NoteOp, Operand, Value
from klasy.plain import dataclass


@dataclass(eq=False)
class KeepNote(NoteOp):
    """Keep a note under the stack pointer ``stack``: the join point, whether a load ``failed``, and the ``words``.

    Where it cannot be kept, that is counted as unmarked of the join point.
    """

    joinpoint: Operand
    stack: Operand
    failed: Operand
    words: tuple[Operand, ...]
    mnemonic = "keep_note"
    operand_fields = ("joinpoint", "stack", "failed")
    operand_list = "words"


@dataclass(eq=False)
class TakeNote(NoteOp):
    """``dst`` = 1 if there is a note under the stack pointer ``stack``, and it is of the join point; else 0.

    The note is gone then, and its words are there for Noted.
    """

    dst: Value
    joinpoint: Operand
    stack: Operand
    mnemonic = "take_note"
    operand_fields = ("joinpoint", "stack")


FAILED = -1  # in the place of a word's number


@dataclass(eq=False)
class Noted(NoteOp):
    """``dst`` = a word of the note that was taken; or FAILED."""

    dst: Value
    word: int
    mnemonic = "noted"
    pure = True
