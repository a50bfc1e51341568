"""``after`` at accesses to members: by which probes it is reached, what is kept for it, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matching import codes, messages, plan, shape
from support.minikernel import BASE, MiniKernel

from klasy.flow.behind import loaded, stack_shift, written
from klasy.kernel.snapshot import SnapshotKernel
from klasy.match.mechanism import Context

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
TYPES = "struct item { long a; int b; int c; long d; void *call; }; int f(struct item *it, int n);"
HOOK = "0f 1f 44 00 00"
RETURN = "c3"
SET = "89 77 08"  # mov %esi,0x8(%rdi)
GET = "8b 47 08"  # mov 0x8(%rdi),%eax
AROUND = ["85 f6", "74 03"]  # test %esi,%esi; je over what follows, which has 3 bytes
GET_B, SET_B, ANY_B = "get(struct item.b)", "set(struct item.b)", "access(struct item.b)"


def kernel(*lines: str) -> MiniKernel:
    """A kernel of one function ``f``, with what lies behind its hook."""
    return MiniKernel(TYPES, {"f": [HOOK, *lines]})


def shapes(made) -> list[str]:
    return [shape(probe).removeprefix("kprobe ") for probe in made.probes]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"after(): {SET_B} {{ log(value, new); }}", SET),
        (f"after(struct item *it): {SET_B} && target(it) {{ log(it, new); }}", SET),
        (f"after(struct item *it): {GET_B} && target(it) {{ log(it, value); }}", GET),
        (f"after(): {ANY_B} {{ log(1); }}", "ff 47 08"),  # incl 0x8(%rdi)
        (f"after(): {ANY_B} {{ log(value); }}", "ff 47 08"),
        (f"after(): {GET_B} {{ log(value); }}", "8b 7f 08"),  # mov 0x8(%rdi),%edi: it is in the register
    ],
)
def test_one_probe_behind(text: str, line: str) -> None:
    """Where only the access leads to what lies behind it, and leaves all that is asked for, one probe is enough."""
    made = plan(kernel(line, RETURN), text)
    assert shapes(made) == ["accessed address: f+0x8"]
    assert [j.mechanism for j in made.joinpoints] == ["kprobe behind"]
    assert [j.shadow.offset for j in made.joinpoints] == [5]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"after(): {SET_B} {{ log(old); }}", SET),
        (f"after(): {GET_B} {{ log(value); }}", "ff 47 08"),  # what incl read is there no more
        (f"after(struct item *it): {GET_B} && target(it) {{ log(it); }}", "8b 7f 08"),  # the object's register is gone
        (f"after(): {GET_B} {{ log(value); }}", "0f b7 7f 08"),  # movzwl 0x8(%rdi),%edi: as is half of the member
    ],
)
def test_a_note_for_what_the_access_spoils(text: str, line: str) -> None:
    """What is gone behind the access is kept for the advice there."""
    made = plan(kernel(line, RETURN), text)
    size = len(bytes.fromhex(line))
    assert shapes(made) == ["member address: f+0x5", f"accessed address: f+{5 + size:#x}"]
    assert [j.mechanism for j in made.joinpoints] == ["kprobe pair"]
    (note,) = made.probes[0].notes
    (arm,) = made.probes[1].arms
    assert arm.note == note
    assert list(note.by_address) == [BASE + 5]
    assert list(arm.by_address) == [BASE + 5 + size]


def test_a_note_where_others_get() -> None:
    """A jump to the instruction behind is no access: there a note tells."""
    made = plan(kernel(*AROUND, SET, RETURN), f"after(): {SET_B} {{ log(1); }}")
    assert shapes(made) == ["member address: f+0x9", "accessed address: f+0xc"]
    made = plan(kernel(SET, "ff e0"), f"after(): {SET_B} {{ log(1); }}")  # jmp *%rax: who knows where to
    assert len(made.probes) == 2


def test_a_jump_from_elsewhere() -> None:
    """So is one from another function."""
    functions = {"f": [HOOK, SET, RETURN], "g": [HOOK, "e9 fe fe ff ff"]}  # to 0x108 - 0x100 = f+0x8
    made = plan(MiniKernel(TYPES + "int g(void);", functions), f"after(): {SET_B} {{ log(1); }}")
    assert shapes(made) == ["member address: f+0x5", "accessed address: f+0x8"]


def test_before_and_after_share_the_probe_at_the_access() -> None:
    """Of two advice at one access, that before runs where the note for that behind is kept."""
    made = plan(kernel(SET, RETURN), f"before(): {SET_B} {{ log(old); }} after(): {SET_B} {{ log(old, new); }}")
    assert shapes(made) == ["member address: f+0x5", "accessed address: f+0x8"]
    assert len(made.probes[0].arms) == len(made.probes[0].notes) == 1


def test_all_of_one_place_in_one_way() -> None:
    """Where one advice needs a note, those beside it take theirs: so they run as they are written."""
    made = plan(kernel(SET, RETURN), f"after(): {SET_B} {{ log(1); }} after(): {SET_B} {{ log(old); }}")
    assert shapes(made) == ["member address: f+0x5", "accessed address: f+0x8"]
    assert [arm.advice for arm in made.probes[1].arms] == [0, 1]
    assert [sorted(note.members.wants) for note in made.probes[0].notes] == [[], ["old"]]


def test_an_access_behind_an_access() -> None:
    """What lies behind the first runs before the note of the second is kept: its probe is registered last."""
    made = plan(kernel(SET, SET, RETURN), f"after(): {SET_B} {{ log(old); }}")
    assert shapes(made) == ["member address: f+0x5 f+0x8", "accessed address: f+0x8 f+0xb"]
    made = plan(kernel(SET, GET, RETURN), f"after(): {ANY_B} {{ log(value); }}")
    assert shapes(made) == ["accessed address: f+0x8 f+0xb"]


def test_the_stack_pointer_of_a_push() -> None:
    """A push of the member moves the stack: the note is kept under where it will be."""
    made = plan(kernel(*AROUND, "ff 77 10", "58", RETURN), "after(): get(struct item.d) { log(value); }")
    assert [note.shift for note in made.probes[0].notes] == [-8]


@pytest.mark.parametrize(
    ("lines", "text", "said"),
    [
        (["ff 67 18"], "after(): get(struct item.call) { log(1); }", "it is itself a call or jump through the member"),
        (
            ["ff 57 18", RETURN],
            "after(): get(struct item.call) { log(1); }",
            "it is itself a call or jump through the member",
        ),
        ([SET, "0f 0b"], f"after(): {SET_B} {{ log(1); }}", "of what lies behind it: it is a BUG() or WARN() trap"),
        (["85 f6", "74 04", "66 ff 77 08", RETURN], f"after(): {GET_B} {{ log(1); }}", "it moves the stack"),
    ],
)
def test_refused(lines: list[str], text: str, said: str) -> None:
    """Where nothing behind the access is its own, or can be probed, the place is not reached, and why is said."""
    found = messages(kernel(*lines), text)
    assert "[cannot-be-probed]" in found
    assert said in found


def test_expected_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel goes on elsewhere after a fault there may be no access: no note is kept; where only the access
    leads to what lies behind it there is none to be kept."""
    monkeypatch.setattr(MiniKernel, "may_fault", lambda *_: True)
    assert "cannot-be-probed" in codes(kernel(*AROUND, SET, RETURN), f"after(): {SET_B} {{ log(1); }}")
    assert len(plan(kernel(SET, RETURN), f"after(): {SET_B} {{ log(1); }}").probes) == 1


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_real_kernels(release: str) -> None:
    """Each access is reached, mostly by one probe; the places behind are where an instruction begins."""
    real = SnapshotKernel.load(str(SNAPSHOTS / f"{release}.snapshot"))
    before = plan(real, "before(): access(struct tcp_sock.snd_cwnd) { log(1); }")
    made = plan(real, "after(): access(struct tcp_sock.snd_cwnd) { log(value); }")
    assert {j.shadow.address for j in made.joinpoints} == {j.shadow.address for j in before.joinpoints}
    ways = [j.mechanism for j in made.joinpoints]
    assert ways.count("kprobe behind") > 4 * ways.count("kprobe pair") > 0
    for probe in made.probes:
        for point in probe.points:
            if probe.context is Context.ACCESSED:
                (before,) = [
                    j.shadow.access
                    for j in made.joinpoints
                    if j.shadow.address < point.address <= j.shadow.address + 15
                    and j.shadow.address + j.shadow.access.length == point.address
                ]
                assert real.instruction_length(point.address) is not None


@pytest.mark.parametrize(
    ("code", "registers", "shift", "register"),
    [
        ("89 77 08", [], 0, None),
        ("8b 47 08", [0], 0, 0),
        ("48 8b 7f 08", [7], 0, 7),
        ("0f b7 47 08", [0], 0, None),
        ("48 87 47 08", [0], 0, None),  # xchg
        ("f0 0f b1 57 08", [0], 0, None),  # cmpxchg
        ("48 03 47 08", [0], 0, None),
        ("ff 77 08", [4], -8, None),  # push
        ("8f 47 08", [4], 8, None),  # pop
        ("66 ff 77 08", [4], None, None),  # pushw
        ("48 8b 67 08", [4], None, 4),  # mov 0x8(%rdi),%rsp
        ("ff 57 08", None, None, None),
        ("ff 67 08", None, None, None),
        ("f3 48 a5", [0, 1, 6, 7], 0, None),
        ("f7 67 08", [0, 2], 0, None),  # mul
    ],
)
def test_what_an_instruction_writes(code: str, registers: list[int] | None, shift: int | None, register) -> None:
    """Its registers, by how much it moves the stack, and the register that has what it read."""
    raw = bytes.fromhex(code)
    assert written(raw) == (None if registers is None else sum(1 << number for number in registers))
    assert stack_shift(raw) == shift
    assert loaded(raw) == register
