"""The bytes of a BTF blob: header, strings, and where each type record lies.

Nothing is decoded here beyond a record's first words. The records are of different lengths and unnumbered, so finding
the type with a given id means walking all before it; and a string is found by looking through all. ``Layout`` keeps
the outcome of one such walk and of listing all strings, as plain arrays that can be saved and mapped again: 0.1 s for
a kernel's 100,000 types and as many strings, and ten times that in an emulated guest.

Format: include/uapi/linux/btf.h and Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left, bisect_right
from itertools import accumulate

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
_MANY_SEARCHES = 50  # as long as these take it takes to list all strings
_LAYOUT_HEAD = struct.Struct("<8sQQQ")  # magic, how many names, strings and offsets
_LAYOUT_MAGIC = b"klasybt2"


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

    ``names`` holds ``name_off << 32 | i`` for every record with a name, in ascending order. ``strings``, where all are
    listed, holds ``crc32 << 32 | offset`` for every string, in ascending order.
    """

    __slots__ = ("names", "offsets", "strings")

    def __init__(self, offsets: memoryview, names: memoryview, strings: memoryview | None = None) -> None:
        self.offsets = offsets
        self.names = names
        self.strings = strings

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
        strings = self.strings or memoryview(b"").cast("Q")
        head = _LAYOUT_HEAD.pack(_LAYOUT_MAGIC, len(self.names), len(strings), len(self.offsets))
        return b"".join((head, self.names.tobytes(), strings.tobytes(), self.offsets.tobytes()))

    def fits(self, words: memoryview) -> bool:
        """Whether this can be the layout of a type section: whether its last record ends where that one does."""
        if not self.offsets:
            return not words
        last = self.offsets[-1]
        return last + 1 < len(words) and last + record_words(words[last + 1]) == len(words)

    @classmethod
    def load(cls, data: bytes | mmap) -> Layout:
        """A layout from what ``dump`` gave. Raises ValueError for anything else."""
        view = memoryview(data)
        if len(view) < _LAYOUT_HEAD.size:
            raise ValueError("too short")
        magic, names, strings, offsets = _LAYOUT_HEAD.unpack_from(view)
        first = _LAYOUT_HEAD.size + 8 * names
        second = first + 8 * strings
        if magic != _LAYOUT_MAGIC or len(view) != second + 4 * offsets:
            raise ValueError("no layout, or its lengths do not agree")
        listed = view[first:second].cast("Q") if strings else None
        return cls(view[second:].cast("I"), view[_LAYOUT_HEAD.size : first].cast("Q"), listed)


def list_strings(section: bytes) -> memoryview:
    """``Layout.strings`` of a string section."""
    from array import array

    strings = section.split(b"\0")
    strings.pop()  # behind the last zero byte is nothing
    offsets = accumulate([len(string) + 1 for string in strings], initial=0)  # one more: the end
    entries = [crc << 32 | at for crc, at in zip(map(zlib.crc32, strings), offsets, strict=False)]
    return memoryview(array("Q", sorted(entries)))


class Blob:
    """A BTF blob: ``words`` is its type section as 32-bit words. Its string section has ``strings_length`` bytes."""

    __slots__ = ("_data", "_found", "_layout", "_strings_at", "_types_at", "strings_length", "words")

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
        self._strings_at = strings_at
        self.strings_length: int = strings_len
        if strings_len and data[strings_at + strings_len - 1]:
            raise BtfError("BTF's strings do not end with a zero byte")
        self._layout = layout
        self._found: dict[str, list[int]] = {}

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

    @property
    def strings(self) -> bytes:
        """A copy of the string section: 2 MB of a kernel's."""
        return self._data[self._strings_at : self._strings_at + self.strings_length]

    def string(self, offset: int) -> str:
        """The string at an offset of the string section."""
        start = self._strings_at + offset
        end = self._data.find(b"\0", start, self._strings_at + self.strings_length)
        try:
            if offset < 0 or end < 0:
                raise ValueError
            return self._data[start:end].decode()
        except ValueError:  # UnicodeDecodeError is one
            raise BtfError(f"BTF has no string at {offset:#x}") from None

    def string_offsets(self, text: str) -> list[int]:
        """All offsets at which a string stands as a whole."""
        known = self._found.get(text)  # the same few names are asked for again and again
        if known is None:
            if len(self._found) >= _MANY_SEARCHES:
                self.list_strings()
            listed, wanted = self.layout.strings, text.encode()
            known = self._found[text] = self._search(wanted) if listed is None else self._listed(wanted, listed)
        return known

    def list_strings(self) -> None:
        """List all strings in the layout, for who keeps it, or asks for very many."""
        if self.layout.strings is None:
            self.layout.strings = list_strings(self.strings)

    def _listed(self, text: bytes, listed: memoryview) -> list[int]:
        first = zlib.crc32(text) << 32
        low = bisect_left(listed, first)
        high = bisect_left(listed, first + (1 << 32), low)
        offsets = [entry & 0xFFFF_FFFF for entry in listed[low:high]]
        at, size = self._strings_at, len(text) + 1
        return [offset for offset in offsets if self._data[at + offset : at + offset + size] == text + b"\0"]

    def _search(self, text: bytes) -> list[int]:
        first, end = self._strings_at, self._strings_at + self.strings_length
        wanted = b"\0" + text + b"\0"
        # The kernel's own strings begin with a zero byte, those of a module do not.
        found = [0] if self._data[first : first + len(text) + 1] == wanted[1:] else []
        at = self._data.find(wanted, first, end)
        while at >= 0:
            found.append(at + 1 - first)
            at = self._data.find(wanted, at + 1, end)
        return found

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
