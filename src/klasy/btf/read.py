"""The bytes of a BTF blob: header, strings, and where each type record lies.

Nothing is decoded here beyond a record's first words. The records are of different lengths and unnumbered, so finding
the type with a given id means walking all before it. ``Layout`` keeps the outcome of one such walk, as plain arrays
that can be saved and loaded again: 0.03 s for a kernel's 100,000 types, and twenty times that in an emulated guest.

Format: include/uapi/linux/btf.h and Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right

from klasy.errors import SystemRefusal
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from mmap import mmap

MAGIC = 0xEB9F
HEADER = struct.Struct(
    "<HBBIIIII"
)  # magic, version, flags, header length, types offset, length, strings offset, length

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST = range(1, 11)
RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(11, 20)
LAST_KIND = ENUM64

POINTER_SIZE = 8  # of the 64-bit kernels klasy knows

_KIND_FLAG = 0x8000_0000
_MANY_SEARCHES = 200  # as long as these take, a tenth of a second, it takes to list all strings


class BtfError(SystemRefusal):
    """The bytes are no BTF, or BTF of a form that is not understood."""


_RECORD_WORDS = 3  # name_off, info, size or type; of every record
_FURTHER_WORDS = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
_WORDS_OF_PART = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}


class _RecordWords(dict[int, int]):
    """Length of a type record in 32-bit words, by its ``info`` word."""

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 0x1F
        if not 0 < kind <= LAST_KIND:
            raise BtfError(f"BTF holds a type of unknown kind {kind}", hint="this kernel is newer than klasy")
        words = _RECORD_WORDS + _FURTHER_WORDS.get(kind, 0) + _WORDS_OF_PART.get(kind, 0) * (info & 0xFFFF)
        self[info] = words
        return words


_words_by_info = _RecordWords()


def record_words(info: int) -> int:
    """Length, in 32-bit words, of the record with an ``info`` word. Raises BtfError for an unknown kind."""
    return _words_by_info[info]


def is_name_place(info: int, place: int) -> bool:
    """Whether, in a record, the word ``place`` words behind the first three is the name of a part of it."""
    return place % _WORDS_OF_PART.get(kind_of(info), 1) == 0


class Layout:
    """Where the records are: ``offsets[i]`` is the place, in words, of the i-th record.

    ``names`` holds ``name_off << 32 | i`` for every record with a name, in ascending order.
    """

    __slots__ = ("names", "offsets")

    def __init__(self, offsets: memoryview, names: memoryview) -> None:
        self.offsets = offsets
        self.names = names

    @classmethod
    def walk(cls, words: memoryview) -> Layout:
        """Walk the type section. Raises BtfError where it does not end with a whole record."""
        from array import array

        offsets: list[int] = []
        append = offsets.append
        length_of = _words_by_info
        at, end = 0, len(words)
        try:
            while at < end:
                append(at)
                at += length_of[words[at + 1]]
        except IndexError:
            at = end + 1
        if at != end:
            raise BtfError("BTF ends inside a type record")
        names = sorted([words[at] << 32 | i for i, at in enumerate(offsets)])
        del names[: bisect_left(names, 1 << 32)]
        return cls(memoryview(array("I", offsets)), memoryview(array("Q", names)))

    def dump(self) -> bytes:
        """The layout as bytes, for ``load``."""
        head = struct.pack("<QQ", len(self.names), len(self.offsets))
        return b"".join((head, self.names.tobytes(), self.offsets.tobytes()))

    def fits(self, words: memoryview) -> bool:
        """Whether this can be the layout of a type section: whether its last record ends where that one does."""
        if not self.offsets:
            return not words
        last = self.offsets[-1]
        return last + 1 < len(words) and last + record_words(words[last + 1]) == len(words)

    @classmethod
    def load(cls, data: bytes | memoryview) -> Layout:
        """A layout from what ``dump`` gave. Raises ValueError where the lengths do not agree."""
        view = memoryview(data)
        if len(view) < 16:
            raise ValueError("too short")
        names, offsets = struct.unpack_from("<QQ", view)
        split = 16 + 8 * names
        if len(view) != split + 4 * offsets:
            raise ValueError("lengths do not agree")
        return cls(view[split:].cast("I"), view[16:split].cast("Q"))


class Blob:
    """A BTF blob: ``words`` is its type section as 32-bit words, ``strings`` its string section."""

    __slots__ = ("_data", "_every", "_found", "_layout", "_types_at", "strings", "words")

    def __init__(self, data: bytes | mmap, layout: Layout | None = None) -> None:
        if len(data) < HEADER.size:
            raise BtfError("BTF is too short to hold its header")
        magic, version, _, header, types_at, types_len, strings_at, strings_len = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise BtfError("not BTF: the magic number is wrong", hint="only little-endian BTF is read")
        if version != 1:
            raise BtfError(f"BTF of unknown version {version}")
        types_at += header
        strings_at += header
        if header < HEADER.size or max(types_at + types_len, strings_at + strings_len) > len(data) or types_len % 4:
            raise BtfError("BTF is cut short")
        self._data = data
        self._types_at = types_at
        self.words = memoryview(data)[types_at : types_at + types_len].cast("I")
        self.strings = data[strings_at : strings_at + strings_len]
        if self.strings and self.strings[-1]:
            raise BtfError("BTF's strings do not end with a zero byte")
        self._layout = layout
        self._found: dict[str, list[int]] = {}
        self._every: dict[bytes, list[int]] | None = None

    @property
    def layout(self) -> Layout:
        """Where the records are; walks them when first asked."""
        if self._layout is None:
            self._layout = Layout.walk(self.words)
        return self._layout

    @property
    def count(self) -> int:
        """How many records there are."""
        return len(self.layout.offsets)

    def string(self, offset: int) -> str:
        """The string at an offset of the string section."""
        try:
            return self.strings[offset : self.strings.index(0, offset)].decode()
        except (ValueError, UnicodeDecodeError):
            raise BtfError(f"BTF has no string at {offset:#x}") from None

    def string_offsets(self, text: str) -> list[int]:
        """All offsets at which a string stands as a whole."""
        known = self._found.get(text)  # the same few names are asked for again and again
        if known is not None:
            return known
        if len(self._found) >= _MANY_SEARCHES and text:
            found = self._found[text] = self._every_string().get(text.encode(), [])
            return found
        wanted = b"\0" + text.encode() + b"\0"
        # The kernel's own strings begin with a zero byte, those of a module do not.
        found = [0] if self.strings.startswith(wanted[1:]) else []
        at = self.strings.find(wanted)
        while at >= 0:
            found.append(at + 1)
            at = self.strings.find(wanted, at + 1)
        self._found[text] = found
        return found

    def _every_string(self) -> dict[bytes, list[int]]:
        """All strings with their offsets, for who asks for very many: say, for the prototypes of all functions."""
        if self._every is None:
            self._every = {}
            at = 0
            for string in self.strings.split(b"\0"):
                self._every.setdefault(string, []).append(at)
                at += len(string) + 1
        return self._every

    def named(self, name_offset: int) -> list[int]:
        """Indices, ascending, of the records whose name is at an offset of the strings."""
        names = self.layout.names
        low = bisect_left(names, name_offset << 32)
        high = bisect_left(names, name_offset + 1 << 32, low)
        return [entry & 0xFFFF_FFFF for entry in names[low:high]]

    def info(self, index: int) -> int:
        """The ``info`` word of a record."""
        return self.words[self.layout.offsets[index] + 1]

    def holders_of_word(self, word: int) -> list[tuple[int, int]]:
        """Where a 32-bit word stands in the records, apart from their first: (index, place in the record, in words).

        Used to find by name what has no record of its own: members, enumeration constants.
        """
        found = []
        needle = struct.pack("<I", word)
        offsets = self.layout.offsets
        first, end = self._types_at, self._types_at + 4 * len(self.words)
        at = self._data.find(needle, first, end)
        while at >= 0:
            place, odd = divmod(at - first, 4)
            if not odd:
                index = bisect_right(offsets, place) - 1
                if place != offsets[index]:
                    found.append((index, place - offsets[index]))
            at = self._data.find(needle, at + 1, end)
        return found


def kind_of(info: int) -> int:
    """The kind in an ``info`` word."""
    return info >> 24 & 0x1F


def count_of(info: int) -> int:
    """How many members, values, parameters or variables an ``info`` word announces."""
    return info & 0xFFFF


def flag_of(info: int) -> bool:
    """The kind flag of an ``info`` word; what it means depends on the kind."""
    return bool(info & _KIND_FLAG)
