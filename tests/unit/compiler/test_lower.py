"""What compiled advice does: hits, records, faults, as the interpreter runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compiling import BASE, compile_text, memory_world, values_of
from support.fakekernel import FakeKernel

from klasy.btf.types import Struct
from klasy.compiler import ir
from klasy.compiler.ireval import World, run
from klasy.match.options import PlanOptions
from klasy.record import HEADER_SIZE

KERNEL = FakeKernel(
    (Path(__file__).parents[2] / "golden" / "kernel.h").read_text(),
    calls="drain: skb_dequeue skb_dequeue\nflush: jmp:skb_dequeue",
)


def size_of(name: str) -> int:
    return KERNEL.btf.size_of(KERNEL.btf.find(name, Struct)[0])


SK = "pointcut execution(tcp_connect(struct sock *sk));"


def compiled(body: str, head: str = f"{SK} before(struct sock *sk)"):
    return compile_text(f"aspect a {{ {head} {{ {body} }} }}", KERNEL)


def outcome(body: str, world: World, head: str = f"{SK} before(struct sock *sk)"):
    made = compiled(body, head)
    return made, run(made.programs[0], world)


def memory_of(size: int, **words: tuple[int, int]) -> bytes:
    """Memory of zeros with little-endian words put in: ``name=(offset, value)``, 8 bytes each."""
    memory = bytearray(size)
    for offset, value in words.values():
        memory[offset : offset + 8] = value.to_bytes(8, "little")
    return bytes(memory)


# --- hits and flow


def test_hit_is_counted_where_the_guard_holds():
    """The pointcut's run-time part comes before the count: no hit where it does not hold."""
    head = "pointcut execution(tcp_connect(struct sock *sk)) && if(sk->sk_rcvbuf > 100); before(struct sock *sk)"
    for rcvbuf, hits in ((101, [0]), (100, []), (-1 & 0xFFFFFFFF, [])):
        world = memory_world(memory_of(size_of("sock"), rcvbuf=(8, rcvbuf)))
        _, done = outcome("log(pid);", world, head)
        assert done.hits == hits
        assert len(done.logged) == len(hits)


def test_unreadable_memory_in_a_guard_is_zero():
    """A load that faults in a condition gives 0."""
    head = "pointcut execution(tcp_connect(struct sock *sk)) && if(sk->sk_rcvbuf == 0); before(struct sock *sk)"
    _, done = outcome("log(pid);", memory_world(b""), head)
    assert done.hits == [0]


def test_return_ends_its_own_advice_only():
    """After a return the next advice of the same probe still runs."""
    head = f"{SK} before(struct sock *sk) {{ log(pid); if (sk) return; log(tid); }} before(struct sock *sk)"
    made, done = outcome("log(cpu);", memory_world(b""), head)
    assert done.hits == [0, 1]
    assert [record.format for record in done.logged] == [0, 2]
    assert len(made.formats) == 3


def test_join_point_that_is_none_runs_nothing():
    """Where the locator finds no join point, no advice runs and nothing is counted."""
    head = "pointcut call(skb_dequeue(struct sk_buff_head *list)); before(struct sk_buff_head *list)"
    text = f"aspect a {{ {head} {{ log(list); }} }}"
    made = compile_text(text, KERNEL, PlanOptions(force="dispatch"))
    program = made.programs[0]
    world = memory_world(bytes(64))
    world.located = [None]
    assert run(program, world).hits == []
    world.located = [1]
    done = run(program, world)
    assert done.hits == [1]
    assert done.logged[0].joinpoint == 1


def test_branches():
    """if, else if, else: exactly one branch runs."""
    body = 'if (sk->sk_rcvbuf > 10) log("a"); else if (sk->sk_rcvbuf > 5) log("b"); else log("c");'
    for value, form in ((11, 0), (10, 1), (5, 2)):
        _, done = outcome(body, memory_world(memory_of(size_of("sock"), x=(8, value))))
        assert [record.format for record in done.logged] == [form]


# --- values


def test_narrow_arguments_ignore_the_upper_bits():
    """Of a register that holds a narrow argument only the low bits count; a bool is 0 or 1."""
    head = "pointcut execution(vfs_open(const char *path, u16 mode, bool create)); before(u16 mode, bool create)"
    world = memory_world(b"", arguments=(0, 0xDEAD_0000_FFFF, 0xFF00))
    made, done = outcome("log(mode, create, mode + 1);", world, head)
    assert values_of(made.formats[0], done.logged[0].data) == [0xFFFF, 0, 0x10000]


def test_result_is_converted_to_its_type():
    """After advice sees the result as the function's type, sign included."""
    head = "pointcut execution(int tcp_connect(struct sock *sk)); after() returning (int err)"
    world = memory_world(b"")
    world.result = 0x1_FFFF_FFF2
    made, done = outcome("if (err < 0) log(err, -err);", world, head)
    assert values_of(made.formats[0], done.logged[0].data) == [-14, 14]


def test_context_names():
    """Each context name is its part of what the kernel gives."""
    made, done = outcome("log(now, pid, tid, uid, gid, cpu, cgroup, comm);", memory_world(b""))
    assert values_of(made.formats[0], done.logged[0].data) == [12345, 42, 43, 1000, 7, 1, 99, b"bash".ljust(16, b"\0")]


def test_parameter_hides_a_context_name():
    """A parameter or local called like a context name is what the name means."""
    head = "pointcut execution(tcp_set_state(struct sock *sk, int state)); before(struct sock *sk, int state)"
    made, done = outcome("int pid = state; log(pid);", memory_world(b"", arguments=(0, 5)), head)
    assert values_of(made.formats[0], done.logged[0].data) == [5]


def test_strings():
    """A char array is copied whole, a char pointer followed to the NUL; equality is that of the strings."""
    name = b"TCP\0garbage".ljust(32, b"x")
    sock = memory_of(size_of("sock"), prot=(24, BASE + 200), label=(40, BASE + 300))
    memory = sock.ljust(200, b"\0") + name.ljust(100, b"\0") + b"label\0rest"
    made, done = outcome(
        'log(sk->sk_prot->name, sk->sk_label, sk->sk_prot->name == "TCP", sk->sk_label == "lab", sk->sk_label != "x");',
        memory_world(memory),
    )
    first, label, *equal = values_of(made.formats[0], done.logged[0].data)
    assert first == name
    assert label[:6] == b"label\0"
    assert equal == [1, 0, 1]


def test_array_filled_to_the_brim_is_a_string():
    """A char array without a NUL equals a literal of its whole length."""
    memory = memory_of(size_of("sock"), prot=(24, BASE + 200)).ljust(200, b"\0") + b"x" * 32
    made, done = outcome(f'log(sk->sk_prot->name == "{"x" * 32}");', memory_world(memory))
    assert values_of(made.formats[0], done.logged[0].data) == [1]
    _, done = outcome(f'log(sk->sk_prot->name == "{"x" * 31}");', memory_world(memory))
    assert values_of(made.formats[0], done.logged[0].data) == [0]


def test_whole_object_with_its_address():
    """A struct pointer is logged as its address and the struct's bytes."""
    memory = bytes(range(size_of("sock")))
    made, done = outcome("log(sk);", memory_world(memory))
    assert [field.kind for field in made.formats[0].fields] == ["address", "object"]
    assert values_of(made.formats[0], done.logged[0].data)[1] == memory


def test_object_names_its_type():
    """The field of an object carries the id of its type in the kernel's BTF."""
    made = compiled("log(sk);")
    assert KERNEL.btf.c_name(made.formats[0].fields[1].type_id) == "struct sock"
    assert made.formats[0].fields[1].module is None


def test_no_load_leaves_the_struct():
    """Whatever member is read, no byte beyond the struct is touched: bit-fields at its end included."""
    whole = size_of("sk_buff")
    members = (
        "newsk->pkt_type, newsk->nf_trace, newsk->priority, newsk->fast, newsk->frags[3], newsk->mark, newsk->cb[47]"
    )
    touched: list[tuple[int, int]] = []

    def read(address, count):
        touched.append((address - BASE, address - BASE + count))
        return bytes(count)

    made = compile_text(
        "aspect a { pointcut execution(skb_queue_tail(struct sk_buff_head *list, struct sk_buff *newsk));"
        f" before(struct sk_buff *newsk) {{ log({members}); }} }}",
        KERNEL,
    )
    world = memory_world(b"", arguments=(0, BASE))
    world.read = read
    run(made.programs[0], world)
    assert touched
    assert all(start >= 0 and end <= whole for start, end in touched)


def test_comma():
    """The left side of a comma is evaluated for its effect, the right side is the value."""
    made, done = outcome("int n = 1; int m = (n++, log(n), n + 10); log(m);", memory_world(b""))
    assert [values_of(form, record.data) for form, record in zip(made.formats, done.logged, strict=True)] == [[2], [12]]


# --- faults


def test_fault_is_told_of_the_value_it_spoilt():
    """Bit i of the faults is set where a load of value i failed, and of no other value."""
    made, done = outcome("log(pid, sk->sk_rcvbuf, sk, 5);", memory_world(b""))
    assert done.logged[0].faults == 0b0110
    values = values_of(made.formats[0], done.logged[0].data)
    assert values[1] == 0


def test_fault_in_a_chain():
    """A pointer that cannot be followed spoils the value at the end of the chain only."""
    memory = memory_of(size_of("sock"), prot=(24, 0x10))
    _, done = outcome("log(sk->sk_rcvbuf, sk->sk_prot, sk->sk_prot->name, sk->sk_rcvbuf + 1);", memory_world(memory))
    assert done.logged[0].faults == 0b0110  # of value 1 the object behind the pointer


def test_fault_stays_with_a_variable():
    """What is computed from a variable that a failed load filled is spoilt too; a good assignment heals it."""
    body = "int n = sk->sk_rcvbuf; int m = n + 1; int k = m; k = 3; log(n, m, k, pid);"
    _, done = outcome(body, memory_world(b""))
    assert done.logged[0].faults == 0b0011


def test_fault_through_a_branch():
    """A variable assigned in one branch carries the fault only where that branch ran."""
    body = "int n = 0; if (tid == {tid}) n = sk->sk_rcvbuf; n += 2; log(n);"
    for tid, faults in ((43, 1), (44, 0)):
        _, done = outcome(body.replace("{tid}", str(tid)), memory_world(b""))
        assert done.logged[0].faults == faults


def test_fault_of_what_is_not_evaluated():
    """A branch of ?: that is not taken spoils nothing, also where its load was made before for another value."""
    body = "log(tid == 1 ? sk->sk_rcvbuf : 7, sk->sk_rcvbuf);"
    _, done = outcome(body, memory_world(b""))
    assert done.logged[0].faults == 0b10
    _, done = outcome("log(sk->sk_rcvbuf, tid == 1 ? sk->sk_rcvbuf : 7);", memory_world(b""))
    assert done.logged[0].faults == 0b01


def test_many_values_share_the_last_bit():
    """Values from 63 on share bit 63."""
    values = ", ".join(["pid"] * 63 + ["sk->sk_rcvbuf", "pid", "sk->sk_stamp"])
    _, done = outcome(f"log({values});", memory_world(b""))
    assert done.logged[0].faults == 1 << 63


# --- records


def test_fields_do_not_overlap_and_are_aligned():
    """Fields follow each other behind the header, numbers on multiples of their size, the whole on one of 8."""
    made = compiled(
        "log(sk->__sk_common.skc_state, sk, sk->sk_prot->name, sk->sk_rcvbuf, comm, sk->__sk_common.skc_family);"
    )
    form = made.formats[0]
    end = HEADER_SIZE
    for field in form.fields:
        assert field.offset >= end
        if field.kind in ("int", "address"):
            assert field.offset % field.size == 0
        end = field.offset + field.size
    assert form.size % 8 == 0
    assert end <= form.size < end + 8


def test_formats_are_numbered_over_all_advice():
    """Each log of the aspect is one format, however many programs write it."""
    text = (
        f"aspect a {{ {SK} before(struct sock *sk) {{ log(pid); log(tid); }} after(struct sock *sk) {{ log(cpu); }} }}"
    )
    made = compile_text(text, KERNEL)
    assert [(f.index, f.advice) for f in made.formats] == [(0, 0), (1, 0), (2, 1)]
    assert made.formats[0].line == 1


def test_names_of_values():
    """A value is shown under its text, blanks and comments reduced."""
    made = compiled("log(sk->sk_rcvbuf\n   +   1 /* one */ , sk // the socket\n ->sk_stamp);")
    assert [field.name for field in made.formats[0].fields] == ["sk->sk_rcvbuf + 1", "sk ->sk_stamp"]


def test_joinpoint_attributes_take_no_bytes():
    """joinpoint.* is known to the reader: a field of no size, and no part of the record."""
    made, done = outcome("log(joinpoint.function, joinpoint.address, pid);", memory_world(b""))
    function, address, pid = made.formats[0].fields
    assert (function.kind, function.type_name, function.size) == ("joinpoint", "function", 0)
    assert (address.kind, address.type_name) == ("joinpoint", "address")
    assert values_of(made.formats[0], done.logged[0].data)[2] == 42
    emit = next(op for op in made.programs[0].ops() if isinstance(op, ir.Emit))
    assert [part.offset for part in emit.parts] == [pid.offset]


@pytest.mark.parametrize(
    ("template", "value", "kind", "size"),
    [
        ("%d", "sk->__sk_common.skc_state", "int", 1),
        ("%u", "sk->state", "int", 4),
        ("%s", "sk->state", "enum", 4),
        ("%s", "sk->sk_label", "string", 128),
        ("%s", "(const unsigned char *)sk->sk_label", "string", 128),
        ("%s", "sk->sk_prot->name", "string", 32),
        ("%s", "sk->sk_state_change", "symbol", 8),
        ("%s", "comm", "string", 16),
        ("%p", "sk->sk_label", "pointer", 8),
        ("%lx", "sk", "pointer", 8),
        ("%pS", "sk->sk_flags", "symbol", 8),
        ("%c", "sk->sk_label[0]", "int", 1),
        ("%p", "sk->sk_prot->name", "pointer", 8),
    ],
)
def test_directive_decides_how_a_value_is_kept(template, value, kind, size):
    """With a template the directive says what of a value is logged: %p of a string its address."""
    (field,) = compiled(f'log("{template}", {value});').formats[0].fields
    assert (field.kind, field.size) == (kind, size)


def test_source_of_operations():
    """Each operation of the body knows the place in the aspect that it comes from."""
    made = compiled("log(sk->sk_rcvbuf);")
    load = next(op for op in made.programs[0].ops() if isinstance(op, ir.Load))
    assert load.span is not None
    assert load.span.text == "sk->sk_rcvbuf"
