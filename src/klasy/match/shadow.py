"""Join point shadows: the places in the kernel's text where join points happen."""

from __future__ import annotations

from klasy.kernel.model import CallKind, CallSite, Function
from klasy.plain import TYPE_CHECKING, Enum, NamedTuple

if TYPE_CHECKING:
    from klasy.flow.sites import Access
    from klasy.kernel.model import Place
    from klasy.match.datum import Datum, MemberData, Piece, WatchedMember


class JoinPointKind(Enum):
    """What happens at a join point; the name shown to the user."""

    CALL = "call"
    EXECUTION = "execution"
    GET = "get"
    SET = "set"
    ACCESS = "access"
    EVENT = "event"
    SYSCALL = "syscall"
    AT = "at"


class Shadow(NamedTuple):
    """One place where join points happen.

    ``function`` is the one it lies in: the function itself for an execution, the caller for a call. ``address`` is
    the entry or the call instruction. ``site`` and ``callee`` are None for an execution. Of an inlined copy ``callee``
    is what was inlined, ``function`` where, ``address`` its beginning, and there is no ``site``. A call that only
    dispatch at the callee's entry can see (indirect, or from a caller not known) has no ``site`` either: then
    ``function`` is None and ``address`` is 0. Of accesses to data that a
    debug register sees, ``function`` is None (where they happen is known
    when they do) and ``address`` is that of the ``piece`` of the ``datum`` that the register watches. Of accesses to
    members of a type ``address`` is the instruction's, and ``access`` what is known of it. ``place`` is the source line
    that the pointcut names. A trace event stands in the place of a ``function``, see :mod:`klasy.match.events`; that of
    a system call has the call's name.
    """

    kind: JoinPointKind
    function: Function | None
    address: int
    callee: Function | None = None
    site: CallSite | None = None
    datum: Datum | MemberData | WatchedMember | None = None
    piece: Piece | None = None
    access: Access | None = None
    place: Place | None = None

    @property
    def offset(self) -> int:
        """Bytes from the entry of the function it lies in."""
        return self.address - self.function.address if self.function else 0

    @property
    def data(self) -> str | None:
        """The data that is accessed, as a person reads it."""
        if self.datum is None:
            return None
        return self.datum.piece_text(self.piece) if self.piece else self.datum.text

    @property
    def call_kind(self) -> CallKind | None:
        """How control reaches the callee, for a call."""
        if self.kind is not JoinPointKind.CALL:
            return None
        if self.site is None:
            return CallKind.INDIRECT if self.function is None else CallKind.INLINED
        return self.site.kind

    @property
    def module(self) -> str | None:
        """The module it lies in; None for the kernel proper."""
        return self.function.module if self.function else None
