"""The layout of one log record: written by compiled advice, read by the log reader; the only ABI the two share.

A record in the ring buffer is a header and the values of one ``log``:

    offset  size
         0     8  time_ns     bpf_ktime_get_ns(): ns since boot, monotonic
         8     4  joinpoint   id of the join point
        12     2  format      index of the ``log`` in the aspect
        14     2  cpu
        16     4  pid         process (tgid)
        20     4  tid         thread (pid in the kernel's words)
        24    16  comm        ends at the first NUL; what is behind that says nothing
        40     8  faults      bit i: a load failed while value i was computed (values from 63 on share bit 63)
        48     .  the values, each at its field's offset from the record's start; the whole padded to 8 bytes

All numbers are little-endian. Formatting, symbols and the decoding of types happen at reading.
"""

from __future__ import annotations

from struct import Struct

from klasy.plain import TYPE_CHECKING, NamedTuple, asdict, dataclass

if TYPE_CHECKING:
    from typing import Any

HEADER = Struct("<QIHHII16sQ")
HEADER_SIZE = HEADER.size
assert HEADER_SIZE == 48

OFFSET_TIME = 0
OFFSET_JOINPOINT = 8
OFFSET_FORMAT = 12
OFFSET_CPU = 14
OFFSET_PID = 16
OFFSET_TID = 20
OFFSET_COMM = 24
OFFSET_FAULTS = 40


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a record.

    ``name`` is the expression as written. ``kind`` is one of:

    - ``int`` (size 1, 2, 4 or 8; ``signed``), ``bool``, ``char``
    - ``enum``: an int, with ``type_id`` of the enum
    - ``pointer``: 8 bytes, shown in hexadecimal; ``type_name`` tells to what
    - ``symbol``: 8 bytes, a code address, shown as function+offset
    - ``string``: ``size`` bytes, ends at the first NUL; ``truncated`` cannot be told when there is none
    - ``bytes``: ``size`` raw bytes
    - ``buffer``: how many bytes were asked for (8 bytes), then those of them that the rest of ``size`` has room for
    - ``stack``: how its first frame is to be taken (8 bytes, STACK_BENEATH ..), then code addresses, 8 bytes each, the
      innermost first; zeros behind the last. All but the innermost are return addresses
    - ``ustack``: frames of user space, each a ``struct bpf_stack_build_id`` (USER_FRAME): first that of the caller
      where the others leave it out, which comes behind the innermost (else zeros); then the innermost, and so on;
      zeros behind the last
    - ``ip4``, ``ip6``, ``mac``: an address as it lies in memory, 4, 16 or 6 bytes
    - ``object``: ``size`` bytes of memory to be decoded by the type ``type_id`` (struct, union, array);
      it is preceded by nothing: the address, where known, is a field of its own kind ``address`` that comes right
      before, has the same name and is not shown apart
    - ``site``, then ``access``: 8 bytes each, of an access to data: the address behind the instruction, and what was
      known of it (bits as in match.plan.READS). They are not shown: they say where the join point was
    - ``ustring``: as ``string``, with where it is from (TEXT_KERNEL ..) in its last byte
    - ``call``: a system call as a whole, see CALL_REGISTERS; ``type_name`` is ``before`` or ``after``
    - ``joinpoint``: takes no bytes; ``type_name`` is the attribute (kind, function, callee, file, line, address,
      module), known to the reader from the join point's id

    Of the kinds of TYPED, ``type_id`` names a type in the running kernel's BTF, where ``module`` is None; else in BTF
    that is handed along with the aspect under the name ``module``: types of modules and user programs, which may be
    gone when the record is read.
    """

    name: str
    kind: str
    offset: int
    size: int
    signed: bool = False
    type_name: str = ""
    module: str | None = None
    type_id: int = 0


TYPED = frozenset(("object", "enum"))


@dataclass(frozen=True, slots=True)
class Format:
    """What one ``log`` writes. ``template`` is None for the form without a format string.

    ``size`` is that of the whole record, header and padding included. ``line`` is the ``log``'s in the source.
    """

    index: int
    advice: int
    line: int
    template: str | None
    fields: tuple[Field, ...]
    size: int

    def to_json(self) -> dict[str, Any]:
        """As plain data for the registry entry of a woven aspect."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Format:
        """The inverse of :meth:`to_json`."""
        fields = tuple(Field(**f) for f in data["fields"])
        return Format(data["index"], data["advice"], data["line"], data["template"], fields, data["size"])


class Run(NamedTuple):
    """Records of one size, one behind the other: as a busy log is read without looking at each of them.

    Each lies in ``data`` behind RUN_HEAD bytes that are not its own, and is padded to a multiple of 8 bytes.
    """

    size: int
    number: int
    data: bytes

    @property
    def step(self) -> int:
        """Bytes from one to the next."""
        return step_of(self.size)

    def records(self) -> list[bytes]:
        """Each by itself."""
        starts = range(0, len(self.data), self.step)
        return [self.data[at + RUN_HEAD : at + RUN_HEAD + self.size] for at in starts]

    def split(self) -> list[Run]:
        """Each as a run of its own."""
        step = self.step
        return [Run(self.size, 1, self.data[at : at + step]) for at in range(0, len(self.data), step)]


RUN_HEAD = 8


def step_of(size: int) -> int:
    """Bytes from one record of a run to the next, each of them ``size`` bytes."""
    return (size + RUN_HEAD + 7) & ~7


def same_ahead(words: memoryview, at: int, step: int, most: int) -> int:
    """How many words in a row, ``step`` of them apart, are as the one at ``at``, itself counted; at most ``most``."""
    word = words[at]
    if most < 2 or words[at + step] != word:  # where records differ this is asked for each
        return 1
    number, look = 2, 2
    while number < most:
        look = min(look, most - number)
        start = at + number * step
        ahead = words[start : start + look * step : step]
        if look < _MANY or ahead != _row(words.format, word, look):  # to compare so takes a quarter of the time
            found = ahead.tolist()
            if found.count(word) < look:
                return number + next(place for place, other in enumerate(found) if other != word)
        number += look
        look *= 8
    return number


_MANY = 256
_rows: dict[tuple[str, int], memoryview] = {}


def _row(form: str, word: int, number: int) -> memoryview:
    """So many times the same word. A few rows are remembered: records of one log have few sizes."""
    row = _rows.get((form, word))
    if row is None or len(row) < number:
        if len(_rows) == 4:
            _rows.clear()
        words = max(number, 4096)
        whole = memoryview(word.to_bytes(8 if form == "Q" else 4, "little") * words)
        row = _rows[form, word] = whole.cast("Q") if form == "Q" else whole.cast("I")
    return row[:number]


# System calls as a whole: the result (8 bytes), then these registers of the program at the entry, as they lie in struct
# pt_regs; then, for each argument that leads to a string or to what else is shown, its room
# (kernel.callcontents.Content): that, then zeros, and in the last byte where it is from. The field is the last of its
# record, and shorter where these take less than MOST_TEXTS of the largest string.
CALL_REGISTERS = ("r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax")
CALL_SIZE = 8 + 8 * len(CALL_REGISTERS)
TEXT_BYTES = 256
MOST_TEXTS = 3
TEXT_KERNEL = 0  # what the kernel has copied and gone by
TEXT_USER = 1  # read from the process's memory for the log
TEXT_NONE = 2  # it could not be read

# Stacks. The kernel itself goes no deeper (sysctl kernel.perf_event_max_stack is 127 unless somebody changed it); of
# user space, of which most code keeps no frame pointers and most stacks end early, less is kept.
STACK_FRAMES = 127
STACK_SIZE = 8 + 8 * STACK_FRAMES
STACK_BENEATH = 0  # the first frame is the one that called the join point's function
STACK_OWN = 1  # it is the join point's own
STACK_OWN_UNLESS_TAIL = 2  # its own; but of a tail call, which leaves no frame, the one beneath
USER_FRAMES = 64
USER_FRAME = Struct("<i20sQ")
USER_FRAMES_SIZE = USER_FRAMES * USER_FRAME.size
USER_STACK_SIZE = USER_FRAME.size + USER_FRAMES_SIZE
USER_FRAME_BUILD_ID = 1  # status: build id and offset in the file (BPF_STACK_BUILD_ID_VALID)
USER_FRAME_ADDRESS = 2  # an address of the process, for its file could not be told at once
USER_FRAME_BESIDE = 3  # of a caller: in the same mapping as the innermost frame, so far from it (signed)

# What is counted of one join point on one CPU; in a CPU's row by join point id.
COUNTERS = Struct("<QQQQQQ")
COUNTER_HITS = 0  # the advice ran: the pointcut, its run-time part included, held
COUNTER_LOST = 8  # a log found no room in the ring buffer
COUNTER_LEFT_OUT = 24  # sample or limit ended the advice
COUNTER_CUT = 32  # a loop of the advice was ended by its bound
COUNTER_DENIED = 40  # around refused
COUNTER_UNMARKED = 16  # a mark could not be kept (map full), so the advice after it will not run
