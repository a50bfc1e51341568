"""The assembler: instructions with names in them to bytes the kernel takes.

Names live as long as they can. A jump names a label, a call a subprogram, a load of a map the map; here labels and
subprograms become offsets, while maps, which have no number before they are made, become relocations that
:meth:`Assembled.link` fills in at load. What comes out is a blueprint: the same instructions give the same bytes, on
every machine, and nothing here touches the kernel.

    a = Assembler()
    a.emit(mov(R6, R1), load_map(R1, "hits"), call("map_lookup_elem"))
    a.emit(jump_if(R0, "==", 0, "out"))
    ...
    a.label("out")
    a.emit(mov(R0, 0), exit_())
    program = a.assemble()
"""

from __future__ import annotations

from klasy.bpf import uapi as u
from klasy.bpf.assembled import Assembled, Relocation
from klasy.bpf.insn import EncodingError, Instruction
from klasy.plain import TYPE_CHECKING, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Assembler:
    """Collects instructions and labels in order."""

    def __init__(self) -> None:
        self._instructions: list[Instruction] = []
        self._pending: list[str] = []
        self._metadata: object = None
        self._fresh = 0

    def emit(self, *instructions: Instruction) -> None:
        """Append instructions; those without metadata get that of the enclosing :meth:`source`."""
        for instruction in instructions:
            changed = instruction
            if self._pending:
                changed = changed._replace(labels=(*self._pending, *changed.labels))
                self._pending.clear()
            if self._metadata is not None and changed.metadata is None:
                changed = changed._replace(metadata=self._metadata)
            self._instructions.append(changed)

    def label(self, name: str) -> None:
        """Name the place of the instruction that comes next."""
        self._pending.append(name)

    def fresh_label(self, stem: str = "L") -> str:
        """A name no earlier call gave out, and that contains a dot so that hand-written labels can avoid it."""
        self._fresh += 1
        return f"{stem}.{self._fresh}"

    @contextmanager
    def source(self, metadata: object) -> Iterator[None]:
        """What is emitted inside stems from ``metadata`` (the innermost one holds)."""
        outer, self._metadata = self._metadata, metadata
        try:
            yield
        finally:
            self._metadata = outer

    def __len__(self) -> int:
        """Instructions so far (not slots)."""
        return len(self._instructions)

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """The instructions so far."""
        return tuple(self._instructions)

    def assemble(self) -> Assembled:
        """Resolve all labels; see :func:`assemble`."""
        if self._pending:
            raise EncodingError(f"no instruction follows label {self._pending[0]!r}")
        return assemble(self._instructions)


def assemble(instructions: Iterable[Instruction]) -> Assembled:
    """Turn labels into offsets and encode.

    EncodingError if a label is missing or defined twice, a jump is too far (32767 slots) or leaves its function, or
    control can run off the end of a function: all of these the kernel would refuse in its own, poorer words.
    """
    program = tuple(instructions)
    places, starts = _places(program)
    subprograms = _subprograms(program, places)
    _check_ends(program, starts, {slot for _, slot in subprograms})

    code: list[bytes] = []
    relocations: list[Relocation] = []
    metadata: list[object] = []
    bounds = [0, *(slot for _, slot in subprograms), starts[-1]]
    for instruction, slot in zip(program, starts, strict=False):
        resolved = instruction
        if instruction.is_map_load and instruction.target is not None:
            relocations.append(Relocation(slot, instruction.target))
        elif instruction.target is not None:
            if not (instruction.is_jump or instruction.is_subprogram_call or instruction.is_function_load):
                raise EncodingError(f"the instruction refers to no place and yet names one: {instruction!r}")
            distance = _place(instruction, places) - slot - 1
            if instruction.is_function_load:
                resolved = instruction._replace(imm=distance & 0xFFFFFFFF)
            elif instruction.is_call:
                resolved = instruction._replace(imm=distance)
            else:
                _check_jump(instruction, slot, distance, bounds)
                resolved = instruction._replace(off=distance)
        code.append(resolved.encode())
        metadata += [instruction.metadata] * instruction.slots
    return Assembled(b"".join(code), tuple(relocations), program, tuple(metadata), subprograms)


def _places(program: tuple[Instruction, ...]) -> tuple[dict[str, int], list[int]]:
    """Slot of each label; slot of each instruction and, at the end, of what would follow the last."""
    places: dict[str, int] = {}
    starts: list[int] = []
    slot = 0
    for instruction in program:
        starts.append(slot)
        for label in instruction.labels:
            if label in places:
                raise EncodingError(f"label {label!r} is defined twice")
            places[label] = slot
        slot += instruction.slots
    starts.append(slot)
    return places, starts


def _place(instruction: Instruction, places: dict[str, int]) -> int:
    target = instruction.target
    if target is None or target not in places:
        raise EncodingError(f"label {target!r} is nowhere defined, but used: {instruction!r}")
    return places[target]


def _subprograms(program: tuple[Instruction, ...], places: dict[str, int]) -> tuple[tuple[str, int], ...]:
    begin = (i for i in program if i.is_subprogram_call or i.is_function_load)
    called = {i.target: _place(i, places) for i in begin if i.target is not None}
    return tuple(sorted(called.items(), key=lambda entry: entry[1]))


def _check_ends(program: tuple[Instruction, ...], starts: list[int], functions: set[int]) -> None:
    """Whatever stands last in a function must leave it."""
    if not program:
        raise EncodingError("an empty program")
    for index, instruction in enumerate(program):
        ends = starts[index + 1] == starts[-1] or starts[index + 1] in functions
        if ends and not instruction.is_exit and instruction.opcode != u.BPF_JMP | u.BPF_JA:
            raise EncodingError(f"control runs off the end of a function after {instruction!r}")


def _check_jump(instruction: Instruction, slot: int, distance: int, bounds: list[int]) -> None:
    if not -(1 << 15) <= distance < 1 << 15:
        raise EncodingError(f"label {instruction.target!r} is {distance} slots away, further than a jump reaches")
    goal = slot + 1 + distance
    if any(min(slot, goal) < bound <= max(slot, goal) for bound in bounds):
        raise EncodingError(f"jump to {instruction.target!r} leaves its function")
