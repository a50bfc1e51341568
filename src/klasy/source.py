"""Source texts and places in them."""

from __future__ import annotations

from bisect import bisect_right

from klasy.plain import cached_property, dataclass

MAX_SIZE = 1 << 20  # bytes; an aspect is written by hand


def decode(data: bytes) -> str:
    """The text that a file holds. Raises ValueError that says why it is none, to be read behind the file's name."""
    if len(data) > MAX_SIZE:
        raise ValueError(f"is larger than {MAX_SIZE} bytes: no aspect file")
    if b"\0" in data[:4096]:
        raise ValueError("is not text: there are NUL bytes in it")
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode()  # as utf-8-sig, without a codec more to import
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None


@dataclass(frozen=True, eq=False)
class SourceFile:
    """One ``.asp`` text and the name it is shown under. ``path`` is where it was read, None where it is no file."""

    name: str
    text: str
    path: str | None = None

    @cached_property
    def line_starts(self) -> list[int]:
        """Offsets, in characters, of the first character of each line."""
        starts = [0]
        starts += [i + 1 for i, c in enumerate(self.text) if c == "\n"]
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character offset."""
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, numbered from 1, without its end."""
        start = self.line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start:] if end < 0 else self.text[start:end]


@dataclass(frozen=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a source file."""

    file: SourceFile
    start: int
    end: int

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.file.text[self.start : self.end]

    @property
    def line(self) -> int:
        """Line of the first character, from 1."""
        return self.file.position(self.start)[0]

    @property
    def column(self) -> int:
        """Column of the first character, from 1."""
        return self.file.position(self.start)[1]

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of another of the same file."""
        return Span(self.file, min(self.start, other.start), max(self.end, other.end))

    def __repr__(self) -> str:
        return f"{self.file.name}:{self.line}:{self.column}"
