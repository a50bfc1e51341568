"""A small, slow, obvious interpreter of eBPF: what a program means, for tests to compare against.

It runs the assembled bytes, so the assembler is tested with the program. It is no verifier: it follows one path and
raises :class:`Fault` where that path does what the verifier would have refused (a register or a byte of stack read
before it was written, an access outside memory, no end). Not for production: nothing else in klasy imports it.

    machine = Machine({"hits": ArrayMap(8, 1), "events": RingBuffer(4096)})
    machine.kernel.write(0xFFFF888000001000, bytes(64))
    result = machine.run(program, context=bytes(168))
    assert machine.maps["events"].records == [...]

Helpers are callables ``(machine, r1, r2, r3, r4, r5) -> r0`` in ``machine.helpers``; a test replaces or adds what it
likes. Those it starts with are in :mod:`klasy.bpf.interp_helpers`.
"""

from __future__ import annotations

from klasy.bpf import uapi as u
from klasy.bpf.asm import assemble
from klasy.bpf.assembled import Assembled
from klasy.bpf.insn import ALU_SYMBOLS, JUMP_SYMBOLS, Instruction, decode
from klasy.bpf.interp_helpers import DEFAULT_HELPERS
from klasy.bpf.interp_memory import ArrayMap, Fault, HashMap, KernelMemory, Map, Region, RingBuffer
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klasy.bpf.interp_helpers import Helper

__all__ = ["ArrayMap", "Fault", "HashMap", "KernelMemory", "Machine", "RingBuffer", "signed"]

M64 = (1 << 64) - 1
M32 = (1 << 32) - 1

STACK_BYTES = 512  # of one frame; the kernel's limit for all frames of a chain together
MAX_FRAMES = 8

_MAP_BASE = 0xFFFF_8880_0000_0000
_VALUE_BASE = 0xFFFF_8881_0000_0000
_CONTEXT = 0xFFFF_C900_0000_1000
_STACK = 0xFFFF_C900_0010_0000


class Machine:
    """Registers, memory, maps and helpers.

    ``strict``: reading what was never written is a fault. ``direct_kernel_loads``: a load instruction may read
    kernel memory and gets 0 where there is none, as typed pointers of fentry programs may.
    """

    def __init__(
        self,
        maps: Mapping[str, Map] | None = None,
        *,
        strict: bool = True,
        direct_kernel_loads: bool = False,
        max_steps: int = 1_000_000,
    ) -> None:
        self.maps: dict[str, Map] = dict(maps or {})
        self.kernel = KernelMemory()
        self.user = KernelMemory()
        self.strict = strict
        self.direct_kernel_loads = direct_kernel_loads
        self.max_steps = max_steps
        self.steps = 0
        # what the helpers about the current task, time and place say
        self.now = 1_000_000_000
        self.pid_tgid = 1234 << 32 | 1235
        self.task = 0xFFFF_8880_0000_1000
        self.task_struct = Region("task_struct", 0xFFFF_8880_7000_0000, bytearray(1 << 14), writable=False)
        self.uid_gid = 100 << 32 | 1000
        self.comm = b"interp"
        self.cpu = 0
        self.cgroup = 1
        self.ancestors: tuple[int, ...] = (1,)  # cgroups from the root on, that of the task last
        self.cookie = 0
        self.function_ip = 0
        self.random = 0x12345678
        self.helpers: dict[int, Helper] = dict(DEFAULT_HELPERS)
        self._handles: dict[int, Map] = {}
        for index, map_ in enumerate(self.maps.values()):
            map_.place(_VALUE_BASE + (index << 32))
            self._handles[_MAP_BASE + (index << 12)] = map_
        self._context = Region("context", _CONTEXT, bytearray())
        self._frames: list[Region] = []
        self._registers: list[int | None] = [None] * 11

    # -- running -----------------------------------------------------------------------------------------------

    def run(self, program: Assembled | Iterable[Instruction], context: bytes = b"") -> int:
        """Run to the end and return r0, unsigned. The context cannot be written."""
        assembled = program if isinstance(program, Assembled) else assemble(program)
        handles = dict(zip(self.maps, range(1, len(self.maps) + 1), strict=True))
        code = self._by_slot(decode(assembled.link(handles)))
        self._context = Region("context", _CONTEXT, bytearray(context), writable=False)
        self._frames = []
        self._push_frame()
        self._registers[1] = _CONTEXT
        saved: list[tuple[int, list[int | None]]] = []
        slot = 0
        self.steps = 0
        while True:
            self.steps += 1
            try:
                if self.steps > self.max_steps:
                    raise Fault(f"no end after {self.max_steps} instructions")
                instruction = code.get(slot)
                if instruction is None:
                    raise Fault("control ran off the program")
                following = slot + instruction.slots
                if instruction.is_subprogram_call:
                    saved.append((following, self._registers[:]))
                    self._push_frame()
                    self._registers[1:6] = saved[-1][1][1:6]
                    slot = following + instruction.imm
                elif instruction.is_exit:
                    result = self._value(0)
                    self._frames.pop()
                    if not saved:
                        self._check_released()
                        return result
                    slot, self._registers = saved.pop()
                    self._registers[:6] = [result, None, None, None, None, None]
                else:
                    slot = following + self._step(instruction)
            except Fault as fault:
                raise Fault(fault.reason, slot) from None

    @staticmethod
    def _by_slot(instructions: list[Instruction]) -> dict[int, Instruction]:
        code: dict[int, Instruction] = {}
        slot = 0
        for instruction in instructions:
            code[slot] = instruction
            slot += instruction.slots
        return code

    def _push_frame(self) -> None:
        if len(self._frames) == MAX_FRAMES:
            raise Fault("calls nest too deep")
        base = _STACK + len(self._frames) * 0x1000
        self._frames.append(Region("stack", base, bytearray(STACK_BYTES), initialised=not self.strict))
        self._registers = [None if self.strict else 0] * 10 + [base + STACK_BYTES]

    def _check_released(self) -> None:
        for map_ in self.maps.values():
            if isinstance(map_, RingBuffer) and map_.open:
                raise Fault("a reserved record is neither submitted nor discarded")

    def _step(self, i: Instruction) -> int:
        """Carry out one instruction that is neither a subprogram's call nor an exit; how many slots to skip."""
        klass = i.klass
        if klass in {u.BPF_ALU, u.BPF_ALU64}:
            self._set(i.dst, self._arithmetic(i))
        elif klass in {u.BPF_JMP, u.BPF_JMP32}:
            if i.is_call:
                self._call(i.imm)
            elif i.opcode == u.BPF_JMP | u.BPF_JA or self._holds(i):
                return i.off
        elif i.is_wide:
            self._set(i.dst, self._constant(i))
        elif klass == u.BPF_LDX:
            self._set(i.dst, self._load(i, self._value(i.src) + i.off & M64))
        elif klass == u.BPF_ST:
            self.write(self._value(i.dst) + i.off & M64, (i.imm & M64).to_bytes(8, "little")[: i.size])
        elif klass == u.BPF_STX and i.opcode & 0xE0 == u.BPF_MEM:
            self.write(self._value(i.dst) + i.off & M64, self._value(i.src).to_bytes(8, "little")[: i.size])
        elif klass == u.BPF_STX and i.opcode & 0xE0 == u.BPF_ATOMIC:
            self._atomic(i)
        else:
            raise Fault(f"unknown opcode {i.opcode:#04x}")
        return 0

    # -- registers, arithmetic, conditions ---------------------------------------------------------------------

    def _value(self, register: int) -> int:
        value = self._registers[register]
        if value is None:
            raise Fault(f"r{int(register)} is read before it is set")
        return value

    def _set(self, register: int, value: int) -> None:
        if register == 10:
            raise Fault("r10 cannot be written")
        self._registers[register] = value & M64

    def _operand(self, i: Instruction) -> int:
        return self._value(i.src) if i.from_register else i.imm & M64

    def _arithmetic(self, i: Instruction) -> int:
        if i.operation == u.BPF_END:
            low = (self._value(i.dst) & M64).to_bytes(8, "little")[: i.imm // 8]
            return int.from_bytes(low, "big" if i.from_register else "little")
        bits = 64 if i.klass == u.BPF_ALU64 else 32
        mask = (1 << bits) - 1
        if i.operation == u.BPF_NEG:
            return -self._value(i.dst) & mask
        right = self._operand(i) & mask
        symbol = ALU_SYMBOLS.get(i.operation)
        if symbol == "=":
            return right
        left = self._value(i.dst) & mask
        match symbol:
            case "+=":
                result = left + right
            case "-=":
                result = left - right
            case "*=":
                result = left * right
            case "/=":
                result = left // right if right else 0
            case "%=":
                result = left % right if right else left
            case "|=":
                result = left | right
            case "&=":
                result = left & right
            case "^=":
                result = left ^ right
            case "<<=":
                result = left << (right & bits - 1)
            case ">>=":
                result = left >> (right & bits - 1)
            case "s>>=":
                result = signed(left, bits) >> (right & bits - 1)
            case _:
                raise Fault(f"unknown opcode {i.opcode:#04x}")
        return result & mask

    def _holds(self, i: Instruction) -> bool:
        bits = 64 if i.klass == u.BPF_JMP else 32
        mask = (1 << bits) - 1
        left, right = self._value(i.dst) & mask, self._operand(i) & mask
        symbol = JUMP_SYMBOLS.get(i.operation)
        if symbol is None:
            raise Fault(f"unknown opcode {i.opcode:#04x}")
        if symbol == "&":
            return bool(left & right)
        if symbol.startswith("s"):
            left, right = signed(left, bits), signed(right, bits)
        return {
            "==": left == right,
            "!=": left != right,
            ">": left > right,
            ">=": left >= right,
            "<": left < right,
            "<=": left <= right,
        }[symbol.removeprefix("s")]

    def _constant(self, i: Instruction) -> int:
        if i.src == 0:
            return i.imm
        if i.src not in {u.BPF_PSEUDO_MAP_FD, u.BPF_PSEUDO_MAP_VALUE}:
            raise Fault(f"a constant of kind {int(i.src)} means nothing here")
        index, offset = (i.imm & M32) - 1, i.imm >> 32
        handle = _MAP_BASE + (index << 12)
        if handle not in self._handles:
            raise Fault(f"no map has descriptor {index + 1}")
        if i.src == u.BPF_PSEUDO_MAP_FD:
            return handle
        map_ = self._handles[handle]
        if not isinstance(map_, ArrayMap):
            raise Fault("only an array's value has an address")
        region = map_.entries[bytes(4)]
        if offset >= map_.value_size:
            raise Fault(f"offset {offset} in a value of {map_.value_size} bytes")
        return region.base + offset

    # -- memory ------------------------------------------------------------------------------------------------

    def _find(self, address: int, size: int) -> tuple[Region, int] | None:
        own = self._context, *self._frames, self.task_struct
        for region in (*own, *(r for m in self.maps.values() for r in m.regions())):
            offset = region.offset(address, size)
            if offset is not None:
                return region, offset
        return None

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the program's own memory: context, stack, map values, reserved records."""
        found = self._find(address, size)
        if found is None:
            raise Fault(f"{size} bytes read at {address:#x}, where there is nothing")
        region, offset = found
        if self.strict and not all(region.written[offset : offset + size]):
            raise Fault(f"{region.name} read before it is written, at {offset - len(region.data):+d} from its end")
        return bytes(region.data[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        """Write the program's own memory."""
        found = self._find(address, len(data))
        if found is None or not found[0].writable:
            raise Fault(f"{len(data)} bytes written at {address:#x}, where that cannot be")
        region, offset = found
        region.data[offset : offset + len(data)] = data
        region.written[offset : offset + len(data)] = b"\x01" * len(data)

    def _load(self, i: Instruction, address: int) -> int:
        if self.direct_kernel_loads and self._find(address, i.size) is None:
            return int.from_bytes(self.kernel.read(address, i.size) or b"", "little")
        return int.from_bytes(self.read(address, i.size), "little")

    def _atomic(self, i: Instruction) -> None:
        address = self._value(i.dst) + i.off & M64
        if address % i.size:
            raise Fault("an atomic operation at an address that is not aligned")
        mask = (1 << 8 * i.size) - 1
        old = int.from_bytes(self.read(address, i.size), "little")
        operand = self._value(i.src) & mask
        kind = i.imm & ~u.BPF_FETCH
        if i.imm == u.BPF_XCHG:
            new = operand
        elif i.imm == u.BPF_CMPXCHG:
            new = operand if self._value(0) & mask == old else old
        elif kind == u.BPF_ADD:
            new = old + operand & mask
        elif kind in {u.BPF_OR, u.BPF_AND, u.BPF_XOR}:
            new = {u.BPF_OR: old | operand, u.BPF_AND: old & operand, u.BPF_XOR: old ^ operand}[kind]
        else:
            raise Fault(f"unknown atomic operation {i.imm:#x}")
        self.write(address, new.to_bytes(i.size, "little"))
        if i.imm & u.BPF_FETCH:
            self._set(0 if i.imm == u.BPF_CMPXCHG else i.src, old)

    # -- helpers -----------------------------------------------------------------------------------------------

    def _call(self, number: int) -> None:
        helper = self.helpers.get(number)
        if helper is None:
            raise Fault(f"helper {u.helper_name(number) or number} is not provided")
        # what the helper does not take may be unset; a helper that takes it sees a value that is plainly wrong
        arguments = [0xDEAD_DEAD_DEAD_DEAD if r is None else r for r in self._registers[1:6]]
        result = helper(self, *arguments)
        self._registers[:6] = [result & M64, None, None, None, None, None]

    def map_at(self, handle: int) -> Map:
        """The map a helper's argument stands for."""
        try:
            return self._handles[handle]
        except KeyError:
            raise Fault(f"{handle:#x} is no map") from None

    def hash_at(self, handle: int) -> HashMap:
        """The same, where it must be a map of keys and values."""
        map_ = self.map_at(handle)
        if not isinstance(map_, HashMap):
            raise Fault("not a map of keys and values")
        return map_

    def ring_at(self, handle: int) -> RingBuffer:
        """The same, where it must be a ring buffer."""
        map_ = self.map_at(handle)
        if not isinstance(map_, RingBuffer):
            raise Fault("not a ring buffer")
        return map_


def signed(value: int, bits: int) -> int:
    """The low ``bits`` of a value as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
