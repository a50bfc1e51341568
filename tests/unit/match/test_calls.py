"""How calls are reached."""

from __future__ import annotations

from support.fakekernel import FIRST_CALL, FakeKernel
from support.matching import codes, messages, place, plan, shape

from klasy.kernel.model import CallKind, Refusal
from klasy.match.plan import Locator, MarkUse

NOTRACE = Refusal("notrace", "it is marked notrace")

DECLARATIONS = """
struct queue { int len; };
struct item *take(struct queue *from, int flags);
int user(struct queue *q);
int other(struct queue *q);
void many(void);
int eight(int a, int b, int c, int d, int e, int f, int g, struct queue *h);
"""
CALLS = """
user: take take
user.cold: jmp:take
other: take je:take
"""
BOTH = """
pointcut taking(struct queue *from): call(take(struct queue *from, ..)) && within(user);
before(struct queue *from): taking(from) { log(from->len); }
after(struct queue *from) returning (struct item *i): taking(from) { log(i); }
"""


def test_sites_of_one_caller() -> None:
    """A few calls from one function are probed where they are made; the caller's pieces count as the caller."""
    made = plan(FakeKernel(DECLARATIONS, CALLS), "before(): call(take) && within(user) { log(1); }")
    assert [shape(p) for p in made.probes] == [
        "kprobe site address: user+0x10 user+0x20",
        "kprobe tail address: user.cold+0x10",
    ]
    assert [(place(j), j.mechanism) for j in made.joinpoints] == [
        ("user+0x10", "kprobe"),
        ("user+0x20", "kprobe"),
        ("user.cold+0x10", "kprobe"),
    ]
    assert made.joinpoints[0].why == "3 call sites"


def test_before_and_after_share_the_trap_before_the_call() -> None:
    """The probe at a call runs the before advice and writes the mark that the one behind the call takes."""
    made = plan(FakeKernel(DECLARATIONS, CALLS), BOTH)
    assert [shape(p) for p in made.probes] == [
        "fexit fexit dispatch take-tail: take",
        "kprobe site address write-call: user+0x10 user+0x20",
        "kprobe tail address write-tail: user.cold+0x10",
        "kprobe behind mark take-call: user+0x15 user+0x25",
    ]
    fexit, site, tail, behind = made.probes
    assert [arm.advice for arm in site.arms] == [arm.advice for arm in tail.arms] == [0]
    assert [arm.advice for arm in behind.arms] == [arm.advice for arm in fexit.arms] == [1]
    user = made.probes[1].points[0].function
    assert sorted(behind.arms[0].by_address) == [user.address + 0x10, user.address + 0x20]


def test_behind_one_call_comes_before_the_next() -> None:
    """Where a call follows on another, the place behind the first is the place of the second: order of registration
    makes the former run first (the kernel runs what was registered last first)."""
    kernel = FakeKernel(DECLARATIONS, "user: take take")
    first, second = kernel.all_sites()
    kernel.lengthen(first, second.address - first.address)
    made = plan(kernel, BOTH)
    assert [shape(p) for p in made.probes] == [
        "kprobe site address write-call: user+0x10 user+0x20",
        "kprobe behind mark take-call: user+0x20 user+0x25",
    ]


def test_condition_of_a_jump() -> None:
    """A conditional tail call is a call only if the jump is taken: its probe knows the condition."""
    made = plan(FakeKernel(DECLARATIONS, CALLS), "before(): call(take) && within(other) { log(1); }")
    assert [shape(p) for p in made.probes] == [
        "kprobe site address: other+0x10",
        "kprobe tail address if-4: other+0x20",
    ]


def test_all_calls_are_told_apart_at_the_callee() -> None:
    """Without ``within`` one probe at the entry sees every call, those through pointers too, by the return address;
    the jumps of tail calls leave marks for it."""
    kernel = FakeKernel(DECLARATIONS, CALLS)
    made = plan(kernel, "before(): call(take) { log(1); }")
    assert [shape(p) for p in made.probes] == [
        "kprobe entry dispatch take-tail: take",
        "kprobe tail address write-tail if-4: other+0x20",
        "kprobe tail address write-tail: user.cold+0x10",
    ]
    (arm,) = made.probes[0].arms
    direct = [site for site in kernel.all_sites() if site.kind is CallKind.DIRECT]
    tails = [site for site in kernel.all_sites() if site.kind is CallKind.TAIL]
    assert sorted(arm.by_return_address) == sorted(site.return_address for site in direct)
    assert sorted(arm.by_address) == sorted(site.address for site in tails)
    unknown = made.joinpoints[-1]
    assert arm.otherwise == unknown.id
    assert place(unknown) == "->take"


def test_before_and_after_at_the_callee() -> None:
    """With advice before and after, the entry leaves the marks of tail calls for the exit to take."""
    made = plan(FakeKernel(DECLARATIONS, CALLS), "pointcut call(take); before() { log(1); } after() { log(2); }")
    uses = {p.context.value: p.mark for p in made.probes if p.locator is Locator.DISPATCH}
    assert uses == {"entry": MarkUse.READ, "fexit": MarkUse.TAKE}


def test_many_sites_are_told_apart_at_the_callee() -> None:
    """More sites than a probe each is worth are told apart at the callee, also where ``within`` asks for some."""
    kernel = FakeKernel(DECLARATIONS, "user: " + "take " * 100 + "\nother: take")
    made = plan(kernel, "before(): call(take) && within(user) { log(1); }")
    assert [shape(p) for p in made.probes] == ["kprobe entry dispatch: take"]
    (arm,) = made.probes[0].arms
    assert len(arm.by_return_address) == 100
    assert arm.otherwise is None
    assert made.joinpoints[0].why == "100 call sites; one probe serves them all"


def test_a_site_that_cannot_be_probed_is_seen_at_the_callee() -> None:
    """A call in code that refuses probes is told apart at the callee."""
    kernel = FakeKernel(DECLARATIONS, CALLS, refuse={"user+0x10": NOTRACE})
    made = plan(kernel, "before(): call(take) && within(user) { log(1); }")
    assert shape(made.probes[0]) == "kprobe entry dispatch take-tail: take"
    assert not made.unreached
    assert "1 of 3 call sites cannot be probed: it is marked notrace" in made.joinpoints[0].why


def test_a_callee_that_cannot_be_probed() -> None:
    """Where the callee refuses probes its calls are probed one by one; what only it could see is told."""
    kernel = FakeKernel(DECLARATIONS, CALLS, refuse={"take": NOTRACE})
    made = plan(kernel, "before(): call(take) { log(1); }")
    assert {p.context.value for p in made.probes} == {"site", "tail"}
    assert len(made.joinpoints) == 5
    assert [d.code for d in made.diagnostics] == ["unreached"]
    assert "indirect calls of take: it is marked notrace" in made.diagnostics[0].hints


def test_neither_site_nor_callee() -> None:
    """Where neither can be probed, the calls are not reached: an error if they are all there is."""
    kernel = FakeKernel(DECLARATIONS, "other: take", refuse={"take": NOTRACE, "other+0x10": NOTRACE})
    assert codes(kernel, "before(): call(take) && within(other) { log(1); }") == ["cannot-be-probed"]


def test_behind_cannot_be_probed() -> None:
    """Where the place behind a call refuses probes, what comes after that call is told apart at the callee."""
    kernel = FakeKernel(DECLARATIONS, CALLS, refuse={"user+0x25": NOTRACE})
    made = plan(kernel, "after(): call(take) && within(user) { log(1); }")
    assert [shape(p).split(":")[0] for p in made.probes] == [
        "fexit fexit dispatch take-tail",
        "kprobe site address write-call",
        "kprobe tail address write-tail",
        "kprobe behind mark take-call",
    ]
    user = kernel.function("user")
    assert list(made.probes[0].arms[0].by_return_address) == [user.address + 0x25]
    assert [place_.address - user.address for place_ in made.probes[1].points] == [0x10]


def test_nothing_behind_a_call() -> None:
    """The call of a function that never returns, at the end of its caller, has no after."""
    calls = "user: take\nother: " + " ".join(["many"] * 254) + " take"
    kernel = FakeKernel(DECLARATIONS, calls)
    last = kernel.all_sites()[-1]
    assert last.offset == FIRST_CALL * 255
    object.__setattr__(last.caller, "size", last.offset + last.length)
    made = plan(
        kernel,
        "after(): call(take) && within(user || other) { log(1); }".replace(
            "within(user || other)", "(within(user) || within(other))"
        ),
    )
    assert [place(j) for j in made.joinpoints] == ["user+0x10"]
    assert [u.code for u in made.unreached] == ["does-not-return"]
    assert not made.diagnostics


def test_all_ways_agree_on_the_calls_of_one_caller() -> None:
    """With direct calls in the functions asked for, those and the jumps are the join points by either way."""
    kernel = FakeKernel(DECLARATIONS, "user: take * jne:take\nother: jmp:take")
    body = "before(): call(take) && within(user) { log(1); }"
    by_way = [[place(j) for j in plan(kernel, body, force=way).joinpoints] for way in ("sites", "dispatch")]
    assert by_way == [["user+0x10", "user+0x30"]] * 2


def test_jumps_elsewhere_leave_marks_too() -> None:
    """Where indirect calls are told apart all jumps to the callee leave marks, lest a tail call further down pass for
    the indirect call."""
    kernel = FakeKernel(DECLARATIONS, "user: *\nother: jmp:take")
    made = plan(kernel, "before(): call(take) && within(user) { log(1); }")
    assert [shape(p) for p in made.probes] == [
        "kprobe entry dispatch take-tail: take",
        "kprobe tail address write-tail: other+0x10",
    ]
    (arm,) = made.probes[0].arms
    assert arm.by_address == {}
    assert [made.joinpoints[i].shadow.call_kind for i in arm.by_return_address.values()] == [CallKind.INDIRECT]


def test_each_callee_by_its_own_number_of_calls() -> None:
    """Of several callees only one that is called in many of the places is probed itself."""
    kernel = FakeKernel(DECLARATIONS, "user: " + "take " * 100 + "other many")
    made = plan(kernel, "before(): call(*) && within(user) { log(1); }")
    assert [shape(p) for p in made.probes] == [
        "kprobe entry dispatch: take",
        "kprobe site address: user+0x650 user+0x660",
    ]


def test_only_indirect_calls() -> None:
    """A function that is hardly called but through pointers may be asked for where only an indirect call is made."""
    kernel = FakeKernel(DECLARATIONS, "user: *\nother: take")
    made = plan(kernel, "before(): call(take) && within(user) { log(1); }")
    assert [(place(j), j.shadow.call_kind) for j in made.joinpoints] == [("user+0x10", CallKind.INDIRECT)]
    assert [d.code for d in made.diagnostics] == ["only-indirect"]


def test_never_called_directly() -> None:
    """A function without direct calls is woven all the same: only run time knows its callers."""
    made = plan(FakeKernel(DECLARATIONS, "user: other"), "before(): call(take) { log(1); }")
    assert [place(j) for j in made.joinpoints] == ["->take"]
    assert [d.code for d in made.diagnostics] == ["only-indirect"]


def test_arguments_on_the_stack_after_a_call() -> None:
    """Marks hold registers: an eighth argument after the call comes from the callee's trampoline, if it has one."""
    kernel = FakeKernel(DECLARATIONS, "user: eight")
    body = "after(struct queue *h): call(eight(.., struct queue *h)) && within(user) { log(h->len); }"
    assert codes(kernel, body) == ["cannot-be-probed"]
    before = plan(kernel, body.replace("after", "before"))
    assert [shape(p) for p in before.probes] == ["kprobe site address: user+0x10"]


def test_splits_are_no_calls() -> None:
    """A function that goes on in its own split-off part does not call itself; another function that does, calls it."""
    kernel = FakeKernel(DECLARATIONS, "take: take.part.0 jmp:take.cold\nuser: take.part.0\ntake.cold: other")
    made = plan(kernel, "before(): call(take) { log(1); }")
    assert [place(j) for j in made.joinpoints if j.shadow.function] == ["user+0x10"]


def test_modules_by_name() -> None:
    """``withinmodule`` keeps the calls of a module; the kernel proper is called vmlinux."""
    kernel = FakeKernel(DECLARATIONS, "user: take\nmine[net]: take take")
    inside = plan(kernel, "before(): call(take) && withinmodule(net) { log(1); }")
    assert [place(j) for j in inside.joinpoints] == ["mine+0x10", "mine+0x20"]
    proper = plan(kernel, "before(): call(take) && withinmodule(vmlinux) { log(1); }")
    assert [place(j) for j in proper.joinpoints] == ["user+0x10"]
    assert codes(kernel, "before(): call(take) && withinmodule(nett) { log(1); }") == ["unknown-module"]


def test_callees_share_a_probe_where_they_may() -> None:
    """Many callees share a dispatching program; a few get one each, so that calls from unknown places name them."""
    names = [f"op_{n}" for n in range(20)]
    declarations = "struct queue;\n" + "".join(f"void {name}(struct queue *q);" for name in names)
    calls = "user: " + " ".join(names)
    many = plan(FakeKernel(declarations, calls), "before(): call(op_*) { log(1); }")
    assert [len(p.points) for p in many.probes] == [20]
    assert [place(j) for j in many.joinpoints if not j.shadow.function] == ["->"]
    few = plan(FakeKernel(declarations, calls), "before(): call(op_1*) { log(1); }")
    assert [len(p.points) for p in few.probes] == [1] * 11
    assert sum(place(j).startswith("->op_1") for j in few.joinpoints) == 11


def test_calls_of_one_function_are_sought_in_its_caller() -> None:
    """With a small ``within`` the kernel's whole text is not searched."""
    kernel = FakeKernel(DECLARATIONS, CALLS)
    plan(kernel, "before(): call(take) && within(user) { log(1); } after(): call(take) && within(user) { log(1); }")
    assert kernel.asked == ["calls_in"]
    kernel.asked.clear()
    plan(kernel, "pointcut call(take); before() { log(1); } after() { log(1); }")
    assert kernel.asked == ["callers"]


def test_sites_by_force_tell_what_they_miss() -> None:
    """Probes at the call sites do not see calls through pointers: the plan says so."""
    made = plan(FakeKernel(DECLARATIONS, CALLS), "before(): call(take) { log(1); }", force="sites")
    assert made.joinpoints[0].why == "5 call sites; calls through pointers are not seen"


def test_too_many() -> None:
    """A pointcut of almost all calls is refused, with advice how to narrow it."""
    kernel = FakeKernel("", "".join(f"f{n}:\n" for n in range(20_001)))
    for body in ("before(): call(*) { log(1); }", "before(): execution(*) { log(1); }"):
        text = messages(kernel, body)
        assert "[too-many-shadows]" in text
        assert "narrow it" in text
