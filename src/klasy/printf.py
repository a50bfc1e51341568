"""printf templates: parsed once, checked by the compiler against types, filled in by the reader of the log.

C's printf with the kernel's ``%pS`` and ``%ps``, and one difference: values carry their own width and sign, so the
length modifiers of wide values (``l``, ``ll``, ``z`` ..) are accepted and mean nothing, and ``%d`` of an unsigned value
is its value. ``h`` and ``hh`` cut a value, and ``%u``, ``%x`` and ``%o`` of a negative one show it modulo its width,
which is at least an int's, as C does.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

INTEGER = "diuxXoc"
_FLAGS = "-+ #0"
_LENGTHS = "hlqjzt"
_OTHERWISE = (("I4", "ip4(x)"), ("i4", "ip4(x)"), ("I6", "ip6(p)"), ("i6", "ip6(p)"), ("M", "mac(p)"), ("m", "mac(p)"))
_POINTER_FORMS = ("", "x", "S", "s")  # what may follow %p; x is the kernel's "really show it"


class TemplateError(ValueError):
    """A template that means nothing. ``start`` and ``end`` are the place in the template, ``hint`` how to mend it."""

    def __init__(self, message: str, start: int, end: int, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Directive:
    """One conversion. ``kind`` is its letter, or ``px``, ``pS``, ``ps``. ``text`` is it as written."""

    text: str
    kind: str
    flags: str = ""
    width: int = 0
    precision: int | None = None

    @property
    def is_integer(self) -> bool:
        """Whether it shows a number: ``%d %i %u %x %X %o %c``."""
        return self.kind in INTEGER

    @property
    def cut(self) -> int:
        """To how many bytes ``h`` or ``hh`` cuts a number; 0 where it is shown whole."""
        return (0, 2, 1)[min(self.text.count("h"), 2)]

    def bits(self, size: int) -> int:
        """How wide a number of ``size`` bytes is that is shown as an unsigned one: as C passes it, an int at least.

        What is no value of the record, ``joinpoint.line`` or ``.address``, has no size of its own.
        """
        return 8 * (self.cut or max(size or 8, 4))

    @property
    def is_symbol(self) -> bool:
        """Whether it shows an address as symbol+offset (``%pS``) or symbol (``%ps``)."""
        return self.kind in ("pS", "ps")


Piece = str | Directive


def parse(template: str) -> tuple[Piece, ...]:
    """The literal texts and directives of a template, in order; ``%%`` is part of a text.

    Raises TemplateError for the first directive that is unknown or cut short.
    """
    pieces: list[Piece] = []
    text = ""
    at = 0
    while at < len(template):
        percent = template.find("%", at)
        if percent < 0:
            text += template[at:]
            break
        text += template[at:percent]
        if template.startswith("%%", percent):
            text += "%"
            at = percent + 2
            continue
        if text:
            pieces.append(text)
            text = ""
        directive, at = _directive(template, percent)
        pieces.append(directive)
    if text:
        pieces.append(text)
    return tuple(pieces)


def faults(template: str) -> list[TemplateError]:
    """What is wrong with each directive that means nothing, in order."""
    found: list[TemplateError] = []
    while True:
        try:
            parse(template)
        except TemplateError as error:
            found.append(error)
            template = template[: error.start] + " " * (error.end - error.start) + template[error.end :]
        else:
            return found


def directives(pieces: Sequence[Piece]) -> list[Directive]:
    """The directives alone: one for each argument."""
    return [piece for piece in pieces if isinstance(piece, Directive)]


def _directive(template: str, start: int) -> tuple[Directive, int]:
    """The directive at the ``%``, and where it ends."""
    at = start + 1
    flags = _while(template, at, _FLAGS)
    at += len(flags)
    width = _while(template, at, "0123456789")
    at += len(width)
    precision: str | None = None
    if template.startswith(".", at):
        precision = _while(template, at + 1, "0123456789")
        at += 1 + len(precision)
    if template.startswith("*", at):
        raise TemplateError("a width or precision from an argument ('*') is not supported", start, at + 1)
    at += len(_while(template, at, _LENGTHS))
    kind = template[at : at + 1]
    at += 1
    if kind == "p":
        form = _while(template, at, "".join(chr(c) for c in range(128) if chr(c).isalnum()))
        # As in the kernel, letters behind %p belong to it; but only the first decides, so "%ps" ends after the s.
        if form[:1] in _POINTER_FORMS:
            kind += form[:1]
            at += len(form[:1])
        else:
            known = "known are %p, %pS, %ps"
            raise TemplateError(
                f"the conversion '{template[start:at]}{form}' is not known",
                start,
                at + len(form),
                next((f"%s with {call} shows it" for letters, call in _OTHERWISE if form.startswith(letters)), known),
            )
    text = template[start:at]
    if not kind:
        raise TemplateError(f"the conversion '{text}' at the end of the format is cut short", start, at, "%% is a %")
    if kind in "eEfFgGaA":
        raise TemplateError(f"'{text}' shows a floating-point number, and the kernel has none", start, at)
    if kind[0] not in INTEGER + "sp":
        hint = "known are %d %i %u %x %X %o %c %s %p %pS %ps; %% is a %"
        raise TemplateError(f"the conversion '{text}' is not known", start, at, hint)
    limit = 1024
    if int(width or 0) > limit or int(precision or 0) > limit:
        raise TemplateError(f"'{text}': a width or precision over {limit}", start, at)
    return Directive(text, kind, flags, int(width or 0), None if precision is None else int(precision or 0)), at


def _while(text: str, start: int, wanted: str) -> str:
    end = start
    while end < len(text) and text[end] in wanted:
        end += 1
    return text[start:end]


def render(pieces: Sequence[Piece], values: Sequence[tuple[int | str, int]]) -> str:
    """The template filled in. ``values``: for each directive its value and the size of its type in bytes.

    A value given as text is shown as it is, whatever the directive: a string, a symbol, or what stands for a value
    that could not be read.
    """
    filled = iter(values)
    return "".join(piece if isinstance(piece, str) else show(piece, *next(filled)) for piece in pieces)


def show(directive: Directive, value: int | str, size: int = 8) -> str:
    """One value as its directive shows it. ``size`` in bytes, of the value's own type."""
    if isinstance(value, str):
        cut = value[: directive.precision] if directive.kind == "s" and directive.precision is not None else value
        return _pad(directive, "", cut, zeros=False)
    kind = directive.kind
    if kind == "c":
        # A byte from 128 on is a part of some character, not the one that Latin-1 has there: as bytes in strings are.
        character = bytes((value & 0xFF,)).decode("utf-8", "surrogateescape")
        return _pad(directive, "", character, zeros=False)
    if kind[0] == "p":
        return _pad(directive, "0x", f"{value & 0xFFFF_FFFF_FFFF_FFFF:x}", zeros=True)
    if kind == "s":
        return _pad(directive, "", str(value), zeros=False)
    sign = ""
    if kind in "di":
        if directive.cut:
            half = 1 << 8 * directive.cut - 1
            value = (value + half) % (2 * half) - half
        sign = "-" if value < 0 else "+" if "+" in directive.flags else " " if " " in directive.flags else ""
        digits = str(abs(value))
    else:
        value = number = value & (1 << directive.bits(size)) - 1
        digits = f"{number:{'d' if kind == 'u' else kind}}"
        if "#" in directive.flags and number and kind in "xX":
            sign = "0" + kind
        elif "#" in directive.flags and kind == "o" and digits != "0":
            digits = "0" + digits
    precision = directive.precision
    if precision is not None:
        digits = "" if precision == 0 and value == 0 else digits.rjust(precision, "0")
    return _pad(directive, sign, digits, zeros=precision is None)


def _pad(directive: Directive, prefix: str, body: str, *, zeros: bool) -> str:
    width = directive.width
    if "-" in directive.flags:
        return (prefix + body).ljust(width)
    if zeros and "0" in directive.flags:
        return prefix + body.rjust(width - len(prefix), "0")
    return (prefix + body).rjust(width)
