"""A system call as a whole in a record: its result, the registers at its entry, what they lead to."""

from __future__ import annotations

from klasy.backend.bytecode import syscalls
from klasy.bpf.insn import R0, R1, R2, R3, add, jump_if, load, mov, mul, store, store_imm
from klasy.kernel import callcontents as cc
from klasy.plain import TYPE_CHECKING
from klasy.record import CALL_SIZE, TEXT_BYTES, TEXT_NONE, TEXT_USER

if TYPE_CHECKING:
    from klasy.backend.bytecode.records import RecordWriter
    from klasy.compiler import ir
    from klasy.kernel.callcontents import Content


class CallWriter:
    """Emits one call, as part of what ``writer`` emits."""

    def __init__(self, writer: RecordWriter, part: ir.CallField) -> None:
        self.e = writer.e
        self.writer = writer
        self.part = part
        self._registers = part.offset + 8 - syscalls.FIRST_REGISTER  # where the record has a register: so much on

    def emit(self) -> None:
        """Emit it all."""
        e, part, writer = self.e, self.part, self.writer
        registers = part.offset + 8
        writer.value(part.offset, 8, part.result)
        e.into(R3, part.registers)
        writer.address(R1, registers)
        e.asm.emit(add(R3, syscalls.FIRST_REGISTER), mov(R2, syscalls.REGISTERS_BYTES))
        e.read_memory()
        if e.ends_calls:
            none = e.asm.fresh_label("account")
            syscalls.account(e, -8, none)
            base = writer.base()
            for at in range(0, syscalls.REGISTERS_BYTES, 8):
                e.asm.emit(load(R1, R0, at), store(base, registers + at, R1))
            e.asm.label(none)
        at = part.offset + CALL_SIZE
        for content in part.contents:
            writer.zero(at, content.room)
            if content.kind == cc.STRING:
                self._text(at, content)
            else:
                self._content(at, content)
            at += content.room

    def _text(self, offset: int, content: Content) -> None:
        """The string that an argument leads to."""
        e, last = self.e, offset + TEXT_BYTES - 1

        def told(source: int) -> None:
            e.asm.emit(store_imm(self.writer.base(), last, source, 1))

        e.asm.emit(load(R3, self.writer.base(), self._registers + content.register))
        if e.names:
            syscalls.read_string(e, TEXT_BYTES - 1, lambda: self.writer.address(R1, offset), told=told)
        else:
            e.asm.emit(mov(R2, TEXT_BYTES - 1))
            self.writer.address(R1, offset)
            e.read_memory(user=True, string=True)
            told(TEXT_USER)
        read = e.asm.fresh_label("read")
        e.asm.emit(jump_if(R0, "s>=", 0, read))
        told(TEXT_NONE)
        e.asm.label(read)

    def _content(self, offset: int, content: Content) -> None:
        """What else an argument leads to, in the memory of the process."""
        e, last = self.e, offset + content.room - 1
        none = e.asm.fresh_label("none")
        e.asm.emit(store_imm(self.writer.base(), last, TEXT_NONE, 1))
        address, count = self._registers + content.register, self._registers + content.size_register
        if content.kind == cc.PIECES:
            self._pieces(offset, address, count, none)
        elif content.kind == cc.MESSAGE:
            self._message(offset, address, none)
        else:
            self._length(offset, content, count, none)
            self._read(offset, address, none)
        e.asm.emit(store_imm(self.writer.base(), last, TEXT_USER, 1))
        e.asm.label(none)

    def _length(self, offset: int, content: Content, count: int, none: str) -> None:
        """r2 = how many bytes to read; or on to ``none``. ``count``: where the record has the next argument."""
        e, base = self.e, self.writer.base()
        each = cc.ELEMENT.get(content.kind)
        if each is not None:
            e.asm.emit(load(R2, base, self.part.offset if content.filled else count))
            if content.filled:  # an error
                e.asm.emit(jump_if(R2, "s<", 0, none))
            self._at_most(content.size // each)
            if each > 1:
                e.asm.emit(mul(R2, each))
            return
        if content.size:
            e.asm.emit(mov(R2, content.size))
            return
        if content.filled:  # its size first goes where it will go itself
            e.asm.emit(load(R3, base, count), mov(R2, 4))
            self.writer.address(R1, offset)
            e.read_memory(user=True)
            e.asm.emit(load(R2, self.writer.base(), offset, 4))
        else:
            e.asm.emit(load(R2, base, count, 4))
        # nothing, and more than any address has: the kernel takes neither
        e.asm.emit(jump_if(R2, "==", 0, none), jump_if(R2, ">", TEXT_BYTES - 1, none))

    def _at_most(self, most: int) -> None:
        """r2 = that, or ``most`` if it is more."""
        fits = self.e.asm.fresh_label("fits")
        self.e.asm.emit(jump_if(R2, "<=", most, fits), mov(R2, most))
        self.e.asm.label(fits)

    def _read(self, offset: int, address: int, none: str) -> None:
        """r2 bytes from where the word at ``address`` in the record points to; ``none``: where to go if they cannot be
        read.
        """
        e = self.e
        e.into(R3, self.writer.record)
        e.asm.emit(load(R3, R3, address))
        self.writer.address(R1, offset)
        e.read_memory(user=True)
        e.asm.emit(jump_if(R0, "s<", 0, none))

    def _pieces(self, offset: int, address: int, count: int, none: str) -> None:
        """The first pieces of memory of a vector, whose address and number lie at these places of the record."""
        e = self.e
        done = e.asm.fresh_label("pieces")
        e.asm.emit(load(R2, self.writer.base(), count), jump_if(R2, "==", 0, done))
        self._at_most(cc.MOST_PIECES)
        e.asm.emit(mul(R2, cc.PIECE_BYTES))
        self._read(offset, address, none)
        for number in range(cc.MOST_PIECES):
            absent = e.asm.fresh_label("absent")
            piece, told = offset + cc.PIECE_BYTES * number, offset + cc.PIECES_TOLD + number
            e.asm.emit(store_imm(self.writer.base(), told, TEXT_NONE, 1))
            e.asm.emit(load(R2, self.writer.base(), count), jump_if(R2, "<=", number, done))
            e.asm.emit(load(R2, self.writer.base(), piece + 8))
            self._at_most(cc.PIECE_DATA)
            self._read(offset + cc.PIECES_DATA + cc.PIECE_DATA * number, piece, absent)
            e.asm.emit(store_imm(self.writer.base(), told, TEXT_USER, 1))
            e.asm.label(absent)
        e.asm.label(done)

    def _message(self, offset: int, address: int, none: str) -> None:
        """A struct msghdr, the address of the other end that it holds, and its pieces."""
        e = self.e
        nameless = e.asm.fresh_label("nameless")
        e.asm.emit(mov(R2, cc.MESSAGE_NAME))
        self._read(offset, address, none)
        told = offset + cc.MESSAGE_NAME_TOLD
        e.asm.emit(store_imm(self.writer.base(), told, TEXT_NONE, 1))
        e.asm.emit(load(R2, self.writer.base(), offset + cc.MESSAGE_NAME_LENGTH, 4), jump_if(R2, "==", 0, nameless))
        self._at_most(cc.MESSAGE_NAME_SIZE)
        self._read(offset + cc.MESSAGE_NAME, offset, nameless)
        e.asm.emit(store_imm(self.writer.base(), told, TEXT_USER, 1))
        e.asm.label(nameless)
        self._pieces(offset + cc.MESSAGE_PIECES, offset + cc.MESSAGE_VECTOR, offset + cc.MESSAGE_COUNT, none)
