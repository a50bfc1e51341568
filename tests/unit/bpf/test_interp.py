"""The interpreter, against plain Python and against what the kernel documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bpf_programs import alu_programs, alu_symbols, imms, jump_symbols, values64, widths

from klasy.bpf import insn as i
from klasy.bpf.asm import assemble
from klasy.bpf.insn import R0, R1, R2, R3, R4, R6, R10
from klasy.bpf.interp import ArrayMap, Fault, HashMap, Machine, RingBuffer

M64 = (1 << 64) - 1


def run(*program, maps=None, machine=None, context=b"", **options):
    return (machine or Machine(maps, **options)).run(program, context)


def as_signed(value: int, bits: int) -> int:
    return int.from_bytes((value & (1 << bits) - 1).to_bytes(bits // 8, "little"), "little", signed=True)


def python_alu(symbol: str, left: int, right: int, width: int) -> int:
    """The operation over Python's numbers, written apart from the interpreter."""
    mask = 2**width - 1
    left, right = left & mask, right & mask
    if symbol in {"/=", "%="} and right == 0:
        return 0 if symbol == "/=" else left
    if symbol == "s>>=":
        return (as_signed(left, width) >> right % width) & mask
    if symbol in {"<<=", ">>="}:
        right %= width
    if symbol == "=":
        return right
    return eval(f"left {symbol[:-1].replace('/', '//')} right") & mask


@given(alu_symbols, values64, values64, widths)
def test_arithmetic_is_pythons_modulo_the_width(symbol, left, right, width):
    """Register with register, every operator, both widths; 32-bit results clear the upper half."""
    result = run(i.load_imm64(R0, left), i.load_imm64(R2, right), i.alu(symbol, R0, R2, width), i.exit_())
    assert result == python_alu(symbol, left, right, width)


@given(alu_symbols, values64, imms, widths)
def test_constants_are_sign_extended(symbol, left, right, width):
    """Register with constant: the constant counts as a signed number of 32 bits."""
    result = run(i.load_imm64(R0, left), i.alu(symbol, R0, right, width), i.exit_())
    assert result == python_alu(symbol, left, right, width)


@given(jump_symbols, values64, values64 | imms, widths)
def test_conditions_are_pythons(symbol, left, right, width):
    """Unsigned and signed comparisons and the bit test, over 64 and 32 bits."""
    mask = 2**width - 1
    if symbol == "&":
        expected = bool(left & right & mask)
    elif symbol.startswith("s"):
        expected = eval(f"{as_signed(left, width)} {symbol[1:]} {as_signed(right, width)}")
    else:
        expected = eval(f"{left & mask} {symbol} {right & mask}")
    result = run(
        i.load_imm64(R2, left),
        i.load_imm64(R3, right),
        i.mov(R0, 1),
        i.jump_if(R2, symbol, R3, "out", width),
        i.mov(R0, 0),
        i.exit_().labelled("out"),
    )
    assert result == expected


@given(values64, st.sampled_from([16, 32, 64]))
def test_byte_order(value, bits):
    """to_be swaps the low bytes and clears the rest, to_le only clears; -x is two's complement."""
    low = value & 2**bits - 1
    assert run(i.load_imm64(R0, value), i.to_le(R0, bits), i.exit_()) == low
    swapped = int.from_bytes(low.to_bytes(bits // 8, "little"), "big")
    assert run(i.load_imm64(R0, value), i.to_be(R0, bits), i.exit_()) == swapped
    assert run(i.load_imm64(R0, value), i.neg(R0), i.exit_()) == -value & M64
    assert run(i.load_imm64(R0, value), i.neg(R0, 32), i.exit_()) == -value & 0xFFFFFFFF


@given(alu_programs())
def test_random_programs_end_and_repeat(program):
    """Whole programs of arithmetic and jumps run to the end, twice alike."""
    assembled = assemble([*program, i.exit_()])
    assert Machine().run(assembled) == Machine().run(assembled) <= M64


def test_memory_moves_the_size_asked_for():
    """Stores of 1, 2, 4, 8 bytes touch those bytes only; loads zero-extend; the context is readable."""
    result = run(
        i.store_imm(R10, -8, -1),
        i.store_imm(R10, -8, 0x11, 1),
        i.store_imm(R10, -6, 0x2233, 2),
        i.load(R2, R1, 4, 4),
        i.store(R10, -4, R2, 4),
        i.load(R0, R10, -8),
        i.exit_(),
        context=(0xAABBCCDD).to_bytes(8, "big"),
    )
    assert result == int.from_bytes(bytes([0x11, 0xFF, 0x33, 0x22, 0xAA, 0xBB, 0xCC, 0xDD]), "little")


@given(st.sampled_from(["add", "or", "and", "xor", "xchg", "cmpxchg"]), values64, values64, st.sampled_from([4, 8]))
def test_atomics_change_memory_and_give_the_old_value(name, old, operand, size):
    """What is left in memory and what comes back, for every atomic operation with fetch."""
    mask = 2 ** (8 * size) - 1
    if name == "xchg":
        operation = i.atomic_xchg(R10, -8, R2, size)
    elif name == "cmpxchg":
        operation = i.atomic_cmpxchg(R10, -8, R2, size)
    else:
        operation = i.atomic(name, R10, -8, R2, size, fetch=True)
    back = R0 if name == "cmpxchg" else R2
    setup = [i.load_imm64(R0, old), i.load_imm64(R2, operand), i.store_imm(R10, -8, 0), i.store(R10, -8, R0, size)]
    fetched = run(*setup, operation, i.mov(R0, back), i.exit_())
    memory = run(*setup, operation, i.load(R0, R10, -8), i.exit_())
    new = {"add": old + operand, "or": old | operand, "and": old & operand, "xor": old ^ operand}.get(name, operand)
    assert (fetched, memory) == (old & mask, new & mask)


def test_cmpxchg_leaves_memory_when_r0_differs():
    """Compare-and-exchange that fails writes the old value into r0 and nothing into memory."""
    program = [i.store_imm(R10, -8, 5), i.mov(R0, 4), i.mov(R2, 9), i.atomic_cmpxchg(R10, -8, R2)]
    assert run(*program, i.exit_()) == 5
    assert run(*program, i.load(R0, R10, -8), i.exit_()) == 5


def test_subprograms_have_their_own_stack_and_keep_r6_to_r9():
    """A callee's frame and r6 are its own; its r0 is the result."""
    assert (
        run(
            i.mov(R6, 30),
            i.store_imm(R10, -8, 7),
            i.mov(R1, 5),
            i.call_subprogram("f"),
            i.add(R0, R6),
            i.load(R1, R10, -8),
            i.add(R0, R1),
            i.exit_(),
            i.mov(R6, R1).labelled("f"),
            i.store_imm(R10, -8, 100),
            i.mov(R0, R6),
            i.exit_(),
        )
        == 42
    )


FAULTS = {
    "r2 is read before it is set": [i.mov(R0, R2), i.exit_()],
    "r0 is read before it is set": [i.exit_()],
    "r1 is read before it is set": [i.call("ktime_get_ns"), i.mov(R0, R1), i.exit_()],
    "stack read before it is written": [i.load(R0, R10, -8), i.exit_()],
    "8 bytes read at": [i.load(R0, R10, 0), i.exit_()],
    "8 bytes written at": [i.store_imm(R10, -520, 0), i.exit_()],
    "4 bytes written at": [i.store_imm(R1, 0, 0, 4), i.exit_()],
    "r10 cannot be written": [i.mov(R10, 0), i.exit_()],
    "no end after": [i.jump("x").labelled("x")],
    "calls nest too deep": [i.call_subprogram("f"), i.exit_(), i.call_subprogram("f").labelled("f"), i.exit_()],
    "helper bpf_override_return is not provided": [i.call("override_return"), i.exit_()],
    "is no map": [i.mov(R2, R10), i.call("map_lookup_elem"), i.exit_()],
    "neither submitted nor discarded": [
        *(i.load_map(R1, "ring"), i.mov(R2, 8), i.mov(R3, 0), i.call("ringbuf_reserve")),
        *(i.mov(R0, 0), i.exit_()),
    ],
    "not aligned": [i.mov(R2, 1), i.atomic_add(R10, -9, R2), i.exit_()],
    "unknown opcode": [i.mov(R0, 0), i.Instruction(0xFF), i.exit_()],
}


@pytest.mark.parametrize("reason", FAULTS)
def test_what_the_verifier_would_refuse_is_a_fault(reason):
    """The one path taken is held to the verifier's rules, and the fault says where it was."""
    with pytest.raises(Fault, match=reason) as caught:
        run(*FAULTS[reason], maps={"ring": RingBuffer(64)}, context=bytes(8), max_steps=1000)
    assert caught.value.slot is not None


def test_lenient_machine_reads_zeros():
    """Without strictness what was never written reads as zero."""
    assert run(i.load(R0, R10, -8), i.add(R0, R6), i.exit_(), strict=False) == 0


def counting(*, flags: int = 0):
    """hits[context's first word] += 1, through the pointer that lookup gives."""
    return [
        i.load(R6, R1, 0, 4),
        i.store(R10, -4, R6, 4),
        i.load_map(R1, "hits"),
        i.mov(R2, R10),
        i.add(R2, -4),
        i.call("map_lookup_elem"),
        i.jump_if(R0, "==", 0, "absent"),
        i.mov(R1, 1),
        i.atomic_add(R0, 0, R1),
        i.mov(R0, 0),
        i.exit_(),
        i.store_imm(R10, -16, 1).labelled("absent"),
        i.load_map(R1, "hits"),
        i.mov(R2, R10),
        i.add(R2, -4),
        i.mov(R3, R10),
        i.add(R3, -16),
        i.mov(R4, flags),
        i.call("map_update_elem"),
        i.exit_(),
    ]


def test_hash_map_counts():
    """Lookup, in-place change and update work together across runs of one machine."""
    machine = Machine({"hits": HashMap(4, 8)})
    for key in (7, 7, 9, 7):
        assert run(*counting(), machine=machine, context=key.to_bytes(4, "little")) == 0
    assert {k[0]: v.data[0] for k, v in machine.maps["hits"].entries.items()} == {7: 3, 9: 1}


def test_full_hash_and_update_flags():
    """A full map answers -E2BIG; BPF_EXIST on an absent key -ENOENT; BPF_NOEXIST on a present one -EEXIST."""
    machine = Machine({"hits": HashMap(4, 8, max_entries=1)})
    assert run(*counting(), machine=machine, context=bytes(4)) == 0
    assert run(*counting(), machine=machine, context=b"\1\0\0\0") == -7 & M64
    assert run(*counting(flags=2), machine=machine, context=b"\1\0\0\0") == -2 & M64
    assert machine.maps["hits"].update(bytes(4), bytes(8), 1) == -17
    assert (machine.maps["hits"].delete(bytes(4)), machine.maps["hits"].delete(bytes(4))) == (0, -2)


def test_array_elements_exist_from_the_start():
    """An array is zeroed, bounded, and neither grows nor shrinks; its value has an address."""
    array = ArrayMap(8, 2)
    machine = Machine({"hits": array})
    assert run(*counting(), machine=machine, context=b"\1\0\0\0") == 0
    assert run(*counting(), machine=machine, context=b"\2\0\0\0") == -7 & M64
    assert array[b"\1\0\0\0"] == (1).to_bytes(8, "little")
    assert (array.delete(bytes(4)), array.update(bytes(4), bytes(8), 1)) == (-22, -17)
    run(i.load_map_value(R1, "hits", 4), i.store_imm(R1, 0, 5, 4), i.mov(R0, 0), i.exit_(), machine=machine)
    assert array[bytes(4)] == bytes([0, 0, 0, 0, 5, 0, 0, 0])


def test_running_over_a_value_is_seen():
    """The byte behind a map value is nobody's."""
    with pytest.raises(Fault, match="written at"):
        run(i.load_map_value(R1, "a"), i.store_imm(R1, 4, 0), i.exit_(), maps={"a": ArrayMap(8, 1)})


def emit(size: int):
    """One record of ``size`` bytes with 0x55 in its first word, or r0 = 1 when the buffer is full."""
    return [
        *(i.load_map(R1, "ring"), i.mov(R2, size), i.mov(R3, 0), i.call("ringbuf_reserve")),
        *(i.jump_if(R0, "==", 0, "full"), i.store_imm(R0, 0, 0x55), i.mov(R1, R0), i.mov(R2, 0)),
        *(i.call("ringbuf_submit"), i.mov(R0, 0), i.exit_()),
        *(i.mov(R0, 1).labelled("full"), i.exit_()),
    ]


def test_ring_buffer_fills_up():
    """Records come out as submitted, with their headers counted; a full buffer gives NULL."""
    machine = Machine({"ring": RingBuffer(128)})
    assert [run(*emit(40), machine=machine) for _ in range(3)] == [0, 0, 1]
    assert [record[:8] for record in machine.maps["ring"].records] == [b"\x55" + bytes(7)] * 2


def test_unwritten_bytes_of_a_record_show():
    """A record starts with stale bytes as in the kernel, so forgotten padding is visible to tests."""
    machine = Machine({"ring": RingBuffer(64)})
    run(*emit(16), machine=machine)
    assert machine.maps["ring"].records[0][8:] == b"\xa5" * 8


def probe(helper: str, size: int, address: int):
    """Read into the stack, r0 = the helper's result; r6 keeps the first 8 bytes for a second look."""
    return [
        i.store_imm(R10, -16, -1),
        i.store_imm(R10, -8, -1),
        i.mov(R1, R10),
        i.add(R1, -16),
        i.mov(R2, size),
        i.load_imm(R3, address),
        i.call(helper),
    ]


@pytest.mark.parametrize("space", ["kernel", "user"])
def test_probe_reads(space):
    """Bytes, strings, cut strings and faults, as bpf_probe_read_*() document them."""
    at = 0xFFFF888000001000
    machine = Machine()
    getattr(machine, space).write(at, b"eth0\0garbage")

    def both(helper, size, address):
        program = probe(f"probe_read_{helper}", size, address)
        result = run(*program, i.exit_(), machine=machine)
        data = run(*program, i.load(R0, R10, -16), i.exit_(), machine=machine)
        return as_signed(result, 64), data.to_bytes(8, "little")

    assert both(space, 4, at) == (0, b"eth0\xff\xff\xff\xff")
    assert both(space, 8, at + 8) == (-14, bytes(8))  # runs out of what is mapped: zeroed
    assert both(f"{space}_str", 8, at) == (5, b"eth0\0\xff\xff\xff")
    assert both(f"{space}_str", 4, at) == (4, b"eth\0\xff\xff\xff\xff")
    assert both(f"{space}_str", 8, 0) == (-14, bytes(8))
    assert both(f"{space}_str", 0, 0) == (0, b"\xff" * 8)


def test_reads_across_pieces_and_overlays():
    """Neighbouring pieces of memory read as one; a later piece lies over an earlier one."""
    machine = Machine()
    machine.kernel.write(0x1000, b"abcd")
    machine.kernel.write(0x1004, b"efgh")
    machine.kernel.write(0x1002, b"XY")
    assert machine.kernel.read(0x1000, 8) == b"abXYefgh"
    assert machine.kernel.read(0x1000, 9) is None


def test_direct_kernel_loads_read_zero_where_nothing_is():
    """Typed pointers of fentry programs are followed by plain loads that cannot fault."""
    machine = Machine(direct_kernel_loads=True)
    machine.kernel.write(0x1000, (77).to_bytes(8, "little"))
    program = [i.load(R2, R1, 0), i.load(R0, R2, 0), i.exit_()]
    assert machine.run(program, (0x1000).to_bytes(8, "little")) == 77
    assert machine.run(program, (0x9000).to_bytes(8, "little")) == 0
    with pytest.raises(Fault, match="where there is nothing"):
        Machine().run(program, (0x1000).to_bytes(8, "little"))


def test_current_task_helpers_and_replacement():
    """What the machine says of task, time and place can be set; any helper can be replaced."""
    machine = Machine()
    machine.comm = b"a-name-longer-than-16"
    machine.cpu = 3
    assert run(i.call("get_smp_processor_id"), i.exit_(), machine=machine) == 3
    program = [i.mov(R1, R10), i.add(R1, -16), i.mov(R2, 16), i.call("get_current_comm"), i.load(R0, R10, -8)]
    assert run(*program, i.exit_(), machine=machine) == int.from_bytes(b"onger-t\0", "little")
    machine.helpers[5] = lambda m, *_: 99
    assert run(i.call("ktime_get_ns"), i.exit_(), machine=machine) == 99
