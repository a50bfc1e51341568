"""Programs in the kernel: loading, asking, test-running.

    with load(u.BPF_PROG_TYPE_KPROBE, assembled, name="entry", maps={"hits": hits}) as program: ...

Loading attaches nothing: see :mod:`klasy.bpf.links`. A program lives as long as a descriptor, a pin or a link holds it.
"""

from __future__ import annotations

import errno
import struct

from klasy.bpf import sys
from klasy.bpf import uapi as u
from klasy.bpf.assembled import Assembled
from klasy.bpf.sys import Buffer, Descriptor
from klasy.errors import KernelRefused
from klasy.plain import TYPE_CHECKING, NamedTuple, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klasy.bpf.maps import Map

# union bpf_attr of BPF_PROG_LOAD, up to attach_btf_obj_fd; the kernel takes what follows as zero
_LOAD = struct.Struct("<IIQQIIQII16sIIIIQIIQIII")
# union bpf_attr of BPF_PROG_TEST_RUN
_TEST = struct.Struct("<IIIIQQIIIIQQIII4x")
# struct bpf_prog_info, up to attach_btf_id
_INFO = struct.Struct("<II8sIIQQQIIQ16sIIQQIIQQIIQIIQQIIIIQQQQIII4x")

_LOG_START = 1 << 16
_LOG_LIMIT = 1 << 24  # what is longer nobody reads
_LOG_PATH, _LOG_VERDICT = 1, 4
_TRIES = 10  # the verifier gives up with EAGAIN when a signal is pending


class ProgramInfo(NamedTuple):
    """What the kernel knows of a program. Times in ns; those of running only while BPF statistics are on."""

    id: int
    type: int
    name: str
    tag: str
    load_time: int
    jited_bytes: int
    xlated_bytes: int
    map_ids: tuple[int, ...]
    run_time: int
    run_count: int
    #: hits refused because the program, or for kprobes any of its kind, was running on the CPU (6.7 for kprobes)
    recursion_misses: int
    verified_instructions: int
    attach_btf_id: int


class TestRun(NamedTuple):
    """What BPF_PROG_TEST_RUN gave. ``duration`` is ns a run, of as many as were asked for."""

    result: int
    duration: int
    data: bytes


class Program(Descriptor):
    """A loaded program."""

    def __init__(self, fd: int, name: str = "", log: str = "") -> None:
        super().__init__(fd)
        self.name = name
        #: what the verifier wrote, if a log was asked for
        self.log = log

    def info(self) -> ProgramInfo:
        """Ask the kernel. KernelRefused on failure."""
        map_ids = Buffer(64 * 4)  # a program can use no more than 64 maps
        info = Buffer(_INFO.size)
        struct.pack_into("<IQ", info.view, 52, 64, map_ids.address)  # nr_map_ids, map_ids
        sys.object_info(self.fileno(), info, f"asking about program {self.name!r}")
        f = _INFO.unpack(info.view)
        return ProgramInfo(
            id=f[1],
            type=f[0],
            name=f[11].rstrip(b"\0").decode(errors="replace"),
            tag=f[2].hex(),
            load_time=f[7],
            jited_bytes=f[3],
            xlated_bytes=f[4],
            map_ids=struct.unpack_from(f"<{f[9]}I", map_ids.view),
            run_time=f[32],
            run_count=f[33],
            recursion_misses=f[34],
            verified_instructions=f[35],
            attach_btf_id=f[37],
        )

    def xlated(self) -> bytes:
        """The code as the verifier rewrote it; print it with :mod:`klasy.bpf.text`. Empty if the kernel hides it."""
        code = Buffer(self.info().xlated_bytes)
        info = Buffer(_INFO.size)
        struct.pack_into("<I", info.view, 20, code.size)
        struct.pack_into("<Q", info.view, 32, code.address)
        sys.object_info(self.fileno(), info, f"asking for the code of program {self.name!r}")
        return code.bytes()

    def test_run(
        self, *, data: bytes = b"", context: bytes = b"", repeat: int = 0, cpu: int | None = None, room: int = 0
    ) -> TestRun:
        """Run it now. Socket filters take ``data`` (14 bytes or more); raw tracepoints ``context``, and a ``cpu``.

        ``room`` is how many bytes of data to take back. Kprobe and perf_event programs cannot be run this way.
        """
        given, arguments, taken = Buffer(data), Buffer(context), Buffer(room)
        attributes = Buffer(
            _TEST.pack(
                self.fileno(),
                0,
                len(data),
                room,
                given.address if data else 0,
                taken.address if room else 0,
                repeat,
                0,
                len(context),
                0,
                arguments.address if context else 0,
                0,
                u.BPF_F_TEST_RUN_ON_CPU if cpu is not None else 0,
                cpu or 0,
                0,
            )
        )
        sys.bpf(u.BPF_PROG_TEST_RUN, attributes, f"test-running program {self.name!r}")
        f = _TEST.unpack(attributes.view)
        return TestRun(f[1], f[7], taken.bytes()[: f[3]])


def load(
    kind: int,
    code: Assembled | bytes,
    *,
    name: str = "",
    maps: Mapping[str, Map | int] | None = None,
    expected_attach_type: int = 0,
    attach_btf_id: int = 0,
    attach_btf_obj_fd: int = 0,
    license: str = "GPL",
    flags: int = 0,
    kern_version: int = 0,
    log_level: int = 0,
) -> Program:
    """Load a program of type ``kind`` (``BPF_PROG_TYPE_*``).

    ``maps`` gives each map that the code names. Tracing and LSM programs say where they will be attached:
    ``expected_attach_type`` (``BPF_TRACE_FENTRY`` ..) and the BTF id of the function, in the BTF object
    ``attach_btf_obj_fd`` if it is a module's. Only the first 15 characters of ``name`` reach the kernel.

    VerifierError if the verifier refuses; KernelRefused if it does not come so far. Its log is asked for when a first
    attempt has failed, so that success costs nothing. ``log_level`` asks for it in any case, and leaves it in the
    program's ``log``: 2 for the way taken with all registers, 4 for statistics.
    """
    described = _described(code)
    metadata: tuple[object, ...] = ()
    if isinstance(code, Assembled):
        metadata = code.metadata
        code = code.link(
            {key: value if isinstance(value, int) else value.fileno() for key, value in (maps or {}).items()}
        )
    instructions, gpl = Buffer(code), Buffer(license.encode() + b"\0")

    def attempt(level: int, log: Buffer | None) -> tuple[int, int]:
        attributes = Buffer(
            _LOAD.pack(
                kind,
                len(code) // 8,
                instructions.address,
                gpl.address,
                level if log else 0,
                log.size if log else 0,
                log.address if log else 0,
                kern_version,
                flags,
                sys.object_name(name),
                0,
                expected_attach_type,
                *functions,
                *(0, 0, 0),
                attach_btf_id,
                attach_btf_obj_fd,
            )
        )
        for _ in range(_TRIES):
            fd, error = sys.bpf_raw(u.BPF_PROG_LOAD, attributes)
            if error != errno.EAGAIN:
                break
        return fd, error

    def logged(level: int, limit: int) -> tuple[int, int, str]:
        size = _LOG_START
        while True:
            log = Buffer(size)
            fd, error = attempt(level, log)
            if error != errno.ENOSPC or size >= limit:
                return fd, error, log.text()
            size *= 4

    with described as functions:
        if log_level:
            fd, error, text = logged(log_level, _LOG_LIMIT)
        else:
            fd, error = attempt(0, None)
            text = ""
        if not error:
            return Program(fd, name, text)
        what = f"loading program {name!r}"
        if error == errno.E2BIG and not text:
            # After a million instructions, which took a 6.12 kernel up to half a minute. It would only say that again.
            raise _verifier_error(what, error, "", metadata)
        # The verdict alone, at level 4, is short. The way may be long, and says nothing where the verifier gave up.
        fd, again, verdict = logged(_LOG_VERDICT, _LOG_START)
        if again and verdict.strip() and "too complex" not in verdict:
            fd, again, text = logged(_LOG_PATH, _LOG_LIMIT)
            verdict = text + verdict if again == errno.ENOSPC else text
        if not again:
            return Program(fd, name)
        raise _load_error(what, error, verdict, metadata, attach_btf_id)


@contextmanager
def _described(code: Assembled | bytes) -> Iterator[tuple[int, int, int, int]]:
    """What tells the kernel the types of a program's functions, prog_btf_fd to func_info_cnt; zeros for nothing."""
    if not (isinstance(code, Assembled) and code.has_callbacks):
        yield 0, 0, 0, 0
        return
    from klasy.bpf.functypes import ROW_BYTES, FunctionTypes

    with FunctionTypes(code) as types:
        yield types.fileno(), ROW_BYTES, types.rows.address, types.number


def _verifier_error(what: str, error: int, log: str, metadata: tuple[object, ...]) -> KernelRefused:
    from klasy.bpf.verifier import VerifierError  # brings regular expressions with it

    return VerifierError(what, error, log, metadata)


def _load_error(what: str, error: int, log: str, metadata: tuple[object, ...], attach_btf_id: int) -> KernelRefused:
    if log.strip():
        return _verifier_error(what, error, log, metadata)
    hints = {
        errno.EINVAL: "this kernel does not know the program type, or not for what it is to be attached to",
        errno.ENOENT: "what it is to be attached to does not exist (any more)",
    }
    if attach_btf_id:
        hints[errno.EINVAL] = "this kernel cannot attach a program to that function"
    return sys.refused(what, error, hints)


def open_id(number: int) -> Program:
    """The loaded program with this id. KernelRefused (ENOENT) if there is none."""
    program = Program(sys.open_id(u.BPF_PROG_GET_FD_BY_ID, number, f"opening program {number}"))
    program.name = program.info().name
    return program
