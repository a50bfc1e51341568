"""How executions are reached."""

from __future__ import annotations

from support.fakekernel import FakeKernel
from support.matching import codes, messages, place, plan, shape

from klasy.kernel.model import Refusal
from klasy.kernel.references import Reference
from klasy.match import Features
from klasy.match.mechanism import Mechanism
from klasy.match.plan import READS, Argument, Plan, RecordField, Result
from klasy.weaver.attribution import served

BLACKLISTED = Refusal("blacklist", "the kernel forbids probes in it")

TYPES = "struct sock { int family; }; struct big { long a; long b; long c; }; struct two { long a; long b; };\n"
DECLARATIONS = (
    TYPES
    + """
int one(struct sock *sk, int n);
void none(struct sock *sk);
int seven(int a, int b, int c, int d, int e, int f, struct sock *g);
int passed(int a, struct two t, struct big b, int last);
"""
)
MANY = TYPES + "\n".join(f"int many_{n}(struct sock *sk, int n);" for n in range(20))


def test_one_function_by_trampolines() -> None:
    """Before and after advice at one function are an fentry and an fexit program, its arguments and result bound."""
    made = plan(
        FakeKernel(DECLARATIONS),
        """before(struct sock *sk): execution(one(struct sock *sk, ..)) { log(sk); }
           after(int n) returning (int r): execution(one(*, int n)) { log(n, r); }""",
    )
    assert [shape(p) for p in made.probes] == ["fentry fentry fixed: one", "fexit fexit fixed: one"]
    before, after = (p.arms[0].bindings for p in made.probes)
    assert [(b.name, b.source) for b in before] == [("sk", Argument(0))]
    assert [(b.name, b.source) for b in after] == [("n", Argument(1)), ("r", Result())]
    assert [(j.mechanism, place(j)) for j in made.joinpoints] == [("fentry", "one"), ("fexit", "one")]


def test_several_advice_share_a_program() -> None:
    """Advice of one kind at one function are arms of one program, in their order, whatever they bind."""
    made = plan(
        FakeKernel(DECLARATIONS),
        """pointcut execution(one);
           before() { log(1); }
           before(int n): execution(one(*, int n)) && if(n > 1) { log(n); }
           before() { log(3); }""",
    )
    (probe,) = made.probes
    assert [arm.advice for arm in probe.arms] == [0, 1, 2]
    assert [arm.guard.span.text if arm.guard else None for arm in probe.arms] == [None, "n > 1", None]


def test_many_functions_by_one_kprobe_program() -> None:
    """Beyond a score of functions a program for each would cost too much: one kprobe program serves them all."""
    made = plan(FakeKernel(MANY), "before(struct sock *sk): execution(many_*(struct sock *sk, ..)) { log(sk); }")
    (probe,) = made.probes
    assert shape(probe).startswith("kprobe entry address: many_0 many_1")
    assert len(probe.points) == len(probe.arms[0].by_address) == len(made.joinpoints) == 20
    assert "20 places" in made.joinpoints[0].why


def test_many_functions_behind_their_hooks() -> None:
    """Where only executions get there the probes stand behind the hooks; but marks are written at entries."""
    kernel = FakeKernel(MANY, refuse={"many_3": BLACKLISTED})
    kernel.hooked = True
    text = """before(struct sock *sk): execution(many_*(struct sock *sk, ..)) { log(sk); }
              after(int n): execution(many_1(*, int n)) { log(n); }"""
    made = plan(kernel, text)
    shapes = {shape(probe).split(":")[0]: probe for probe in made.probes}
    body = shapes["kprobe body address"]
    assert {point.address - point.function.address for point in body.points} == {5}
    assert len(body.points) == len(body.arms[0].by_address) == 18
    assert [probe.points[0].function.name for probe in made.probes if probe.context.value == "entry"] == ["many_1"]
    mine = [j for j in made.joinpoints if j.advice == 0]
    behind = [j.id for j in mine if j.shadow.function and j.shadow.function.name != "many_1"]
    assert served(made, body) == [[number] for number in behind]
    few = plan(kernel, "before(): execution(many_1) { log(1); }")
    assert [probe.mechanism.value for probe in few.probes] == ["fentry"]


def test_many_functions_by_kprobe_multi() -> None:
    """Where the kernel has kprobe.multi, it serves many functions; a few it does not."""
    has = Features(kprobe_multi=True)
    many = plan(FakeKernel(MANY), "before(): execution(many_*) { log(1); }", features=has)
    assert [p.mechanism.value for p in many.probes] == ["kprobe.multi"]
    few = plan(FakeKernel(MANY), "before(): execution(many_1) { log(1); }", features=has)
    assert [p.mechanism.value for p in few.probes] == ["fentry"]


def test_returns_of_many_functions() -> None:
    """After advice at many functions is a kretprobe; where it takes arguments they come from a mark of the entry."""
    kernel = FakeKernel(MANY)
    plain = plan(kernel, "after() returning (int r): execution(many_*) { log(r); }")
    assert [shape(p).split(":")[0] for p in plain.probes] == ["kretprobe return address"]
    bound = plan(kernel, "after(struct sock *sk): execution(many_*(struct sock *sk, ..)) { log(sk); }")
    assert [shape(p).split(":")[0] for p in bound.probes] == [
        "kretprobe return address take-entry",
        "kprobe entry address write-entry",
    ]


def test_one_trap_serves_before_and_mark() -> None:
    """Where an entry has before advice and a mark to write, one program does both."""
    made = plan(
        FakeKernel(DECLARATIONS),
        "pointcut execution(one(struct sock *sk, ..)); before(struct sock *sk) { log(1); } "
        "after(struct sock *sk) { log(2); }",
        force="kprobe",
    )
    assert [shape(p) for p in made.probes] == [
        "kretprobe return address take-entry: one",
        "kprobe entry address write-entry: one",
    ]
    assert [arm.advice for arm in made.probes[1].arms] == [0]


def test_without_trampolines() -> None:
    """A kernel without BPF trampolines gets kprobes, and the reason is told."""
    made = plan(FakeKernel(DECLARATIONS), "before(): execution(one) { log(1); }", features=Features(fentry=False))
    assert [shape(p) for p in made.probes] == ["kprobe entry address: one"]
    assert "no BPF trampolines" in made.joinpoints[0].why


def test_seventh_argument() -> None:
    """Trampolines that save six registers do not do for seven arguments; a kprobe finds the seventh on the stack."""
    kernel = FakeKernel(DECLARATIONS)
    body = "before(struct sock *g): execution(seven(.., struct sock *g)) { log(g); }"
    made = plan(kernel, body)
    assert [shape(p) for p in made.probes] == ["kprobe entry address: seven"]
    (binding,) = made.probes[0].arms[0].bindings
    assert isinstance(binding.source, Argument)
    assert binding.source.abi_place == 6
    wide = plan(kernel, body, features=Features(max_trampoline_arg_registers=12))
    assert [shape(p) for p in wide.probes] == ["fentry fentry fixed: seven"]


def test_seventh_argument_after_the_return() -> None:
    """On return the stack word of a seventh argument is gone: an error says so."""
    text = messages(FakeKernel(DECLARATIONS), "after(struct sock *g): execution(seven(.., struct sock *g)) { log(g); }")
    assert "error: nothing of this can be woven: 'g' (parameter 7) is passed on the stack" in text


def test_structs_by_value() -> None:
    """Behind structs passed by value, in registers and in memory, an argument's places are counted."""
    made = plan(
        FakeKernel(DECLARATIONS),
        "before(int last): execution(passed(.., int last)) { log(last); }",
        features=Features(max_trampoline_arg_registers=12),
    )
    (binding,) = made.probes[0].arms[0].bindings
    assert isinstance(binding.source, Argument)
    # a: rdi; t: rsi, rdx; b: on the stack; last: rcx. The trampoline's array has 1 + 2 + 3 words before it.
    assert (binding.source.index, binding.source.abi_place, binding.source.trampoline_slot) == (3, 3, 6)


def test_refused_by_kprobes_only() -> None:
    """What kprobes may not touch but trampolines may is reached by those, even among many."""
    kernel = FakeKernel(MANY, refuse={"many_3/kprobe": Refusal("other", "the kernel forbids probes in it")})
    made = plan(kernel, "before(): execution(many_*) { log(1); }")
    assert sorted(shape(p).split(":")[0] for p in made.probes) == ["fentry fentry fixed", "kprobe entry address"]
    assert made.joinpoints[3].mechanism == "fentry"
    assert made.joinpoints[3].why == "a kprobe is not possible here: the kernel forbids probes in it"


def test_the_blacklist_holds_for_trampolines_too() -> None:
    """A function on the kernel's blacklist is left alone, also where the kernel would let a trampoline into it."""
    kernel = FakeKernel(DECLARATIONS, refuse={"one/kprobe": BLACKLISTED})
    assert codes(kernel, "before(): execution(one) { log(1); }") == ["cannot-be-probed"]


def test_unreached_among_others() -> None:
    """What nothing reaches is left out with a warning that names it and the reason."""
    kernel = FakeKernel(MANY, refuse={"many_3": BLACKLISTED})
    made = plan(kernel, "before(): execution(many_*) { log(1); }")
    assert len(made.joinpoints) == 19
    assert [(u.shadow.function.name, u.code) for u in made.unreached if u.shadow.function] == [("many_3", "blacklist")]
    (warning,) = made.diagnostics
    assert warning.code == "unreached"
    assert warning.hints == ("many_3: the kernel forbids probes in it",)


def test_nothing_left() -> None:
    """If nothing can be reached the error says why, and what can be woven instead."""
    kernel = FakeKernel(DECLARATIONS, "none: one one", refuse={"one": BLACKLISTED})
    text = messages(kernel, "before(): execution(one) { log(1); }")
    assert "error: nothing of this can be woven: the kernel forbids probes in it [cannot-be-probed]" in text
    assert "hint: its callers can be woven into instead: call(one) matches 2 places" in text


def test_never_returns() -> None:
    """After advice at a function that does not return is told, not planned by other means."""
    kernel = FakeKernel(DECLARATIONS, refuse={"none/fexit": Refusal("noreturn", "it never returns")})
    assert codes(kernel, "after(): execution(none) { log(1); }") == ["cannot-be-probed"]


def test_clones_and_statics() -> None:
    """All copies of a function are matched, shown by their own names; pieces without an entry are not."""
    kernel = FakeKernel(
        DECLARATIONS, "one.isra.0:\none.cold:\none.part.1.cold:\none.constprop.0.cold:\n", static={"one": 2}
    )
    made = plan(kernel, "before(): execution(one) { log(1); }")
    assert [place(j) for j in made.joinpoints] == ["one", "one", "one.isra.0"]
    assert {j.mechanism for j in made.joinpoints} == {"kprobe"}
    assert "2 functions are called one" in made.joinpoints[0].why


def test_parameters_of_altered_copies() -> None:
    """Where the compiler changed a copy's parameters they cannot be bound: that copy is left out, with a warning."""
    kernel = FakeKernel(DECLARATIONS, "one.isra.0:\n")
    made = plan(kernel, "before(int n): execution(one(*, int n)) { log(n); }")
    assert [place(j) for j in made.joinpoints] == ["one"]
    assert [u.code for u in made.unreached] == ["altered-abi"]
    assert [d.code for d in made.diagnostics] == ["unreached"]


def test_only_altered_copies() -> None:
    """If only altered copies are left, binding is an error that offers to do without."""
    kernel = FakeKernel(TYPES + "int other(int n);", "gone.constprop.0:\n")
    text = messages(kernel, "before(int n): execution(gone(int n)) { log(n); }")
    assert "a copy made by the compiler, with other parameters: where they are is not known" in text
    assert "without parameters (and returning) the advice can be woven" in text
    assert [place(j) for j in plan(kernel, "before(): execution(gone) { log(1); }").joinpoints] == ["gone.constprop.0"]


LOCKS = (
    DECLARATIONS
    + """
void _raw_spin_unlock_irqrestore(void *lock, long flags);
void _raw_spin_lock(void *lock);
void *lookup_elem_raw(void *head);
int __traceiter_contention_begin(void *__data, void *lock, unsigned int flags);
int __traceiter_contention_end(void *__data, void *lock, int ret);
"""
)
EVENTS = {
    ("lock", name): f"""name: {name}
ID: {number}
format:
\tfield:void * lock_addr;\toffset:8;\tsize:8;\tsigned:0;
"""
    for number, name in enumerate(("contention_begin", "contention_end"), 70)
}


def mechanisms(made: Plan) -> set[str]:
    """Those of the probes of a plan."""
    return {probe.mechanism.value for probe in made.probes}


def test_what_runs_while_the_buffer_is_locked_is_reached_by_kprobes() -> None:
    """The kernel lets no kprobe's program run in another one: the rest of the aspect has to be reached so, too."""
    made = plan(
        FakeKernel(LOCKS),
        """before(): execution(_raw_spin_unlock_irqrestore) { log(1); }
           after(): execution(one) { log(2); }""",
    )
    assert mechanisms(made) == {"kprobe", "kretprobe"}
    assert "what klasy keeps is locked in _raw_spin_unlock_irqrestore" in made.joinpoints[0].why


def test_what_runs_while_a_map_is_locked_is_reached_by_kprobes() -> None:
    """By itself, too: another aspect may be there, and each would wait for what the other holds."""
    made = plan(FakeKernel(LOCKS), "count n[pid]; before(): execution(lookup_elem_raw) { n[pid]++; }")
    assert mechanisms(made) == {"kprobe"}


def test_calls_of_what_runs_while_the_buffer_is_locked() -> None:
    """The program behind a call of it, or of anything else in the aspect, is a kretprobe's."""
    kernel = FakeKernel(LOCKS, "one: _raw_spin_lock")
    made = plan(kernel, "after(): call(_raw_spin_lock) { log(1); } before(): execution(none) { log(2); }")
    assert not mechanisms(made) & {"fentry", "fexit"}


def test_events_of_an_aspect_on_locks_are_trace_events() -> None:
    """Their programs the kernel keeps from running in others, as kprobes'. What they bind stands in the record."""
    kernel = FakeKernel(LOCKS, events=EVENTS)
    begin = "before(void *lock): event(lock:contention_begin) { log(lock); }"
    end = "before(): event(lock:contention_end) { log(2); }"
    assert mechanisms(plan(kernel, begin)) == {"raw tracepoint"}
    assert mechanisms(plan(kernel, end)) == {"trace event"}
    assert mechanisms(plan(kernel, begin + end + "before(): execution(one) { log(3); }")) == {"trace event", "kprobe"}
    made = plan(kernel, begin + "before(): execution(_raw_spin_lock) { log(1); }")
    assert mechanisms(made) == {"trace event", "kprobe"}
    (event,) = [probe for probe in made.probes if probe.mechanism is Mechanism.TRACE_EVENT]
    assert event.arms[0].bindings[0].source == RecordField("lock_addr", 8, 8, "value")
    assert "locked in _raw_spin_lock" in made.joinpoints[0].why


def test_what_would_wait_for_itself_is_refused() -> None:
    """A raw tracepoint's program does not keep out those of the spin locks that it takes."""
    kernel = FakeKernel(LOCKS, events=EVENTS)
    flags = "before(unsigned int flags): event(lock:contention_begin) { log(flags); }"
    assert codes(kernel, flags) == []
    assert codes(kernel, flags + "before(): execution(_raw_spin_lock) { log(1); }") == ["waits-for-itself"]
    assert codes(kernel, flags + "before(): event(lock:contention_end) { log(2); }") == ["waits-for-itself"]
    assert codes(kernel, "before(int ret): event(lock:contention_end) { log(ret); }") == ["waits-for-itself"]


def test_data_that_is_read_while_a_map_is_locked() -> None:
    """A debug register's program comes to run there, too: beside a trampoline in one aspect it is refused."""
    kernel = FakeKernel(LOCKS, data={"jiffies": (0xFFFF_FFFF_8200_0000, 8)})
    (inside,) = kernel.functions("lookup_elem_raw")
    (outside,) = kernel.functions("none")
    read = "before(): get(jiffies) { log(value); }"
    for function, told in ((inside, ["waits-for-itself"]), (outside, [])):
        kernel.named = [Reference(function.address + 4, 4, READS, function)]
        assert codes(kernel, read + "before(): execution(one) { log(1); }") == told
        assert codes(kernel, read) == []
