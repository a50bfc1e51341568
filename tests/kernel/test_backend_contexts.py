"""Each kind of probe finds the arguments, the result and the join point, where the test itself made the traffic.

vfs_read(file, buf, count, pos) runs once for each of our reads; count and result are ours to choose. ksys_read calls
it for read(2), ksys_pread64 (or what it was inlined into) for pread(2).
"""

from __future__ import annotations

import ctypes
import os
from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.backend import generate, plan, probe
from support.bpf_kernel import no_leaks  # noqa: F401
from support.livebackend import LiveKernel, Woven, live, logging_program, set_fsuid
from support.livekernel import symbols, text

from klasy.compiler import ir
from klasy.compiler.builder import Builder
from klasy.errors import KernelRefused
from klasy.kernel.model import CallKind, CallSite
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Argument, Locator, MarkRole, MarkUse, Point
from klasy.plain import replace
from klasy.record import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = Argument(2)
SIZES = [1, 10, 17, 0, 4096]
READ, WRITE = live("vfs_read"), live("vfs_write")
READ_POINT, WRITE_POINT = Point(READ.address, READ), Point(WRITE.address, WRITE)
HELD = 100  # bytes in the file
EXPECTED = [[size, min(size, HELD)] for size in SIZES]


@contextmanager
def open_file() -> Iterator[int]:
    """A file of 100 bytes."""
    file = os.memfd_create("klasy-test")
    os.write(file, bytes(HELD))
    try:
        yield file
    finally:
        os.close(file)


@pytest.fixture
def file() -> Iterator[int]:
    """The same."""
    with open_file() as file:
        yield file


def read_all(file: int) -> None:
    """Read with each of the sizes, from the start."""
    for size in SIZES:
        os.lseek(file, 0, os.SEEK_SET)
        os.read(file, size)


def pread_all(file: int) -> None:
    """The same by the other system call."""
    for size in SIZES:
        os.pread(file, size, 0)


def symbol_at(address: int) -> str:
    """The unique symbol before an address."""
    ordered = sorted((at, name) for name, at in symbols().items())
    return ordered[bisect_right(ordered, (address, "\xff")) - 1][1]


def woven(*probes, programs=None, joinpoints=4, sites=(), **options) -> Woven:
    """Weave hand-made probes."""
    made = plan(*probes, joinpoints=joinpoints, sites=sites)
    return Woven(generate(programs or [logging_program(p, **options) for p in probes], made, LiveKernel()))


# --- arguments and results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [Context.FENTRY, Context.ENTRY])
def test_arguments_at_entry(file: int, context: Context) -> None:
    """Programs at a function's entry see the arguments of each of our calls."""
    with woven(probe(context, points=[READ_POINT], arms=[{READ.address: 0}]), arguments=[COUNT]) as aspect:
        read_all(file)
        assert aspect.words() == [[0, size] for size in SIZES]
        assert aspect.hits()[0] == len(SIZES)


def test_pointers_are_bare_numbers(file: int) -> None:
    """Pointer arguments of a fentry program can be reckoned with and compared, which typed ones could not be."""
    buffer = ctypes.create_string_buffer(64)
    one = probe(Context.FENTRY, points=[READ_POINT], arms=[{READ.address: 0}])
    made = ir.Program(one.name, 0)
    build = Builder(made)
    build.begin(build.block())
    ours, behind = build.block(), build.block()
    file_pointer, buffer_pointer = build.value(), build.value()
    build.add(ir.Argument(file_pointer, Argument(0)))
    build.add(ir.Argument(buffer_pointer, Argument(1)))
    build.branch("eq", buffer_pointer, ctypes.addressof(buffer), ours, behind)
    build.begin(ours)
    values = [
        build.binary("lshr", file_pointer, 56),
        build.compare("eq", file_pointer, 0),
        build.binary("add", buffer_pointer, buffer_pointer, 32),
        build.binary("xor", buffer_pointer, -1),
    ]
    parts = tuple(ir.StoreField(HEADER_SIZE + 8 * i, 8, value) for i, value in enumerate(values))
    build.add(ir.Emit(0, HEADER_SIZE + 8 * len(parts), 0, parts))
    build.jump(behind)
    build.begin(behind)
    build.add(ir.Return())
    with woven(one, programs=[made]) as aspect:
        ctypes.CDLL(None).read(file, buffer, 64)
        address = ctypes.addressof(buffer)
        assert aspect.words() == [[0, 0xFF, 0, 2 * address & 0xFFFFFFFF, address ^ ir.MASK64]]


def test_arguments_and_result_at_exit(file: int) -> None:
    """A fexit program sees the arguments as they came and what the function returned."""
    one = probe(Context.FEXIT, points=[READ_POINT], arms=[{READ.address: 0}])
    with woven(one, arguments=[COUNT], result=True) as aspect:
        read_all(file)
        assert aspect.words() == [[0, *row] for row in EXPECTED]


def test_functions_are_told_apart_by_address(file: int) -> None:
    """One kprobe program on two functions knows at which it is, endbr64 at the entry or not."""
    one = probe(
        Context.ENTRY,
        Locator.ADDRESS,
        points=[READ_POINT, WRITE_POINT],
        arms=[{READ.address: 0, WRITE.address: 1}, {WRITE.address: 2}],
    )
    with woven(one, arguments=[COUNT]) as aspect:
        os.read(file, 7)
        os.write(file, bytes(9))
        assert sorted(aspect.words()) == [[0, 7], [1, 9], [2, 9]]
        assert aspect.hits()[:3] == [1, 1, 1]


def test_arguments_at_return_come_from_the_mark(file: int) -> None:
    """A kretprobe program sees the result, and the arguments that the entry's program marked."""
    returning = probe(
        Context.RETURN,
        Locator.ADDRESS,
        mark=MarkUse.TAKE,
        role=MarkRole.ENTRY,
        points=[READ_POINT],
        arms=[{READ.address: 0}],
    )
    entry = probe(
        Context.ENTRY, Locator.ADDRESS, mark=MarkUse.WRITE, role=MarkRole.ENTRY, points=[READ_POINT], arms=[], index=1
    )
    programs = [logging_program(returning, [COUNT], result=True), logging_program(entry)]
    with woven(returning, entry, programs=programs) as aspect:
        read_all(file)
        assert aspect.words() == [[0, *row] for row in EXPECTED]
        assert dict(aspect.maps["marks"].items()) == {} or _marks_of_others(aspect)


def _marks_of_others(aspect: Woven) -> bool:
    """Whether all marks left are of calls under way elsewhere (a read that waits)."""
    return all(int.from_bytes(value[16:24], "little") >> 32 != os.getpid() for _, value in aspect.maps["marks"].items())


def test_arguments_on_the_stack() -> None:
    """The seventh argument is found on the stack by a kprobe at the entry, and by a trampoline where it has one."""
    do_futex = live("do_futex")
    libc = ctypes.CDLL(None)
    contexts = [Context.ENTRY]
    with woven(
        probe(contexts[0], points=[Point(do_futex.address, do_futex)], arms=[{do_futex.address: 0}]),
        arguments=[Argument(0), Argument(1), Argument(2), Argument(6)],
    ) as aspect:
        # an operation there is none of: nothing happens but the call
        libc.syscall(202, ctypes.c_void_p(0x1000), 99, 11, None, ctypes.c_void_p(0x2000), 0x12345678)
        rows = [row for row in aspect.words() if row[2] & 0xFFFFFFFF == 99]
    ((_, address, _, number, last),) = rows
    assert (address, number & 0xFFFFFFFF, last & 0xFFFFFFFF) == (0x1000, 11, 0x12345678)


# --- dispatch -------------------------------------------------------------------------------------------------------


def return_addresses(file: int) -> tuple[int, int]:
    """Where vfs_read returns to for read(2) and for pread(2), found by a program that knows no site."""
    found = []
    for work in (read_all, pread_all):
        one = probe(Context.ENTRY, Locator.DISPATCH, points=[READ_POINT], arms=[{}], otherwise=3)
        with woven(one, arguments=[COUNT]) as aspect:
            work(file)
            assert [row for row in aspect.words()] == [[3, size] for size in SIZES]
            # As often as we called, and maybe for others who read meanwhile.
            (address,) = (a for a, n in aspect.unknown().items() if n >= len(SIZES) and "read" in symbol_at(a))
            found.append(address)
    return found[0], found[1]


@pytest.fixture(scope="module")
def sites() -> list[CallSite]:
    """The calls of vfs_read in read(2) and pread(2), as direct calls in live text."""
    start, code = text()
    made = []
    with open_file() as file:
        found = return_addresses(file)
    for address in found:
        at = address - 5 - start
        distance = int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
        assert code[at] == 0xE8
        assert address + distance == READ.address
        caller = live(symbol_at(address))
        made.append(CallSite(address - 5, 5, CallKind.DIRECT, caller, READ))
    return made


@pytest.mark.parametrize("context", [Context.ENTRY, Context.FEXIT, Context.RETURN])
def test_calls_are_told_apart_by_return_address(file: int, sites: list[CallSite], context: Context) -> None:
    """One program at the callee knows the call site, from the trampoline's frame too; others it knows as others."""
    first, second = sites
    one = probe(
        context,
        Locator.DISPATCH,
        points=[READ_POINT],
        arms=[{}, {}],
        returns=[{first.return_address: 0}, {first.return_address: 1}],
        otherwise=2,
    )
    with woven(one) as aspect:
        read_all(file)
        assert aspect.hits() == [5, 5, 0, 0]
        pread_all(file)
        assert aspect.hits() == [5, 5, 10, 0]
        assert aspect.unknown()[second.return_address] == len(SIZES)


@pytest.mark.parametrize("context", [Context.ENTRY, Context.FEXIT, Context.RETURN])
@pytest.mark.parametrize("other", [Context.FENTRY, Context.FEXIT, Context.ENTRY, Context.RETURN])
def test_dispatch_beside_others(file: int, sites: list[CallSite], context: Context, other: Context) -> None:
    """The return address is found with others' programs on the same function, attached before and after.

    That of a kretprobe is behind the kernel's trampoline, once or twice.
    """
    first, second = sites
    one = probe(
        context,
        Locator.DISPATCH,
        points=[READ_POINT],
        arms=[{}],
        returns=[{first.return_address: 0, second.return_address: 1}],
        otherwise=2,
    )
    foreign = probe(other, points=[READ_POINT], arms=[{READ.address: 0}])
    with woven(foreign), woven(foreign), woven(one) as aspect, woven(foreign) as late:
        started = aspect.hits(), late.hits()  # attaching the last one reads files too
        read_all(file)
        pread_all(file)
        assert [now - then for now, then in zip(aspect.hits(), started[0], strict=True)] == [5, 5, 0, 0]
        assert late.hits()[0] - started[1][0] == 10


def test_many_sites_go_into_a_map(file: int, sites: list[CallSite]) -> None:
    """With more sites than a tree of comparisons is for, the join point comes out of a hash map, for each arm."""
    first, second = sites
    many = {0xFFFF_FFFF_8000_0000 + i: 3 for i in range(1000)}
    one = probe(
        Context.ENTRY,
        Locator.DISPATCH,
        points=[READ_POINT],
        arms=[{}, {}, {}],
        returns=[many | {first.return_address: 0, second.return_address: 1}, {}, {second.return_address: 2}],
    )
    with woven(one, arguments=[COUNT]) as aspect:
        read_all(file)
        pread_all(file)
        assert aspect.hits() == [5, 5, 5, 0]


# --- calls ----------------------------------------------------------------------------------------------------------


def test_calls_and_what_is_behind_them(file: int, sites: list[CallSite]) -> None:
    """At a call instruction the arguments are there; behind it the result is, and by the mark the arguments."""
    before = probe(
        Context.SITE,
        Locator.ADDRESS,
        mark=MarkUse.WRITE,
        points=[Point(site.address, site.caller) for site in sites],
        arms=[{site.address: i for i, site in enumerate(sites)}],
        index=1,
    )
    after = probe(
        Context.BEHIND,
        Locator.MARK,
        mark=MarkUse.TAKE,
        points=[Point(site.return_address, site.caller) for site in sites],
        arms=[{site.address: 2 + i for i, site in enumerate(sites)}],
        index=0,
    )
    programs = [logging_program(after, [COUNT], result=True), logging_program(before, [COUNT])]
    with woven(after, before, programs=programs, sites=sites) as aspect:
        read_all(file)
        rows = aspect.words()
        assert [row for row in rows if row[0] == 0] == [[0, size] for size in SIZES]
        assert [row for row in rows if row[0] == 2] == [[2, *row] for row in EXPECTED]
        pread_all(file)
        assert aspect.hits() == [5, 5, 5, 5]
        assert [row[2] for row in aspect.counters()] == [0, 0, 0, 0]


def test_a_mark_that_cannot_be_kept_is_counted(file: int, sites: list[CallSite]) -> None:
    """With room for one mark only, and that taken, each call counts as unmarked for what waits behind it."""
    (site, _) = sites
    before = probe(
        Context.SITE, Locator.ADDRESS, mark=MarkUse.WRITE, points=[Point(site.address, site.caller)], arms=[], index=1
    )
    after = probe(
        Context.BEHIND,
        Locator.MARK,
        mark=MarkUse.TAKE,
        points=[Point(site.return_address, site.caller)],
        arms=[{site.address: 1}],
    )
    programs = [logging_program(after, [COUNT], result=True), logging_program(before)]
    with woven(after, before, programs=programs, sites=sites[:1]) as aspect:
        marks = aspect.maps["marks"]
        for number in range(marks.info().max_entries):
            try:
                marks.update(number.to_bytes(16, "little"), bytes(72))
            except KernelRefused:
                break
        read_all(file)
        hits, lost, unmarked = aspect.counters()[1]
        assert (hits, lost) == (0, 0)
        assert unmarked >= len(SIZES)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_a_full_ring_buffer_is_counted(file: int) -> None:
    """What finds no room is counted as lost: hits are what was logged and what was lost."""
    one = probe(Context.FENTRY, points=[READ_POINT], arms=[{READ.address: 0}])
    made = plan(one)
    artifact = generate([logging_program(one, [COUNT])], made)
    small = tuple(replace(spec, max_entries=4096) if spec.name == "events" else spec for spec in artifact.maps)
    with Woven(replace(artifact, maps=small)) as aspect:
        for _ in range(200):
            os.pread(file, 3, 0)
        logged = len(aspect.words())
        hits, lost, _ = aspect.counters()[0]
        assert hits == 200
        assert 0 < lost < 200
        assert logged + lost == 200


def test_nothing_happens_until_it_is_switched_on(file: int) -> None:
    """With the control word at 0 a program returns at once."""
    one = probe(Context.ENTRY, points=[READ_POINT], arms=[{READ.address: 0}])
    with woven(one) as aspect:
        aspect.maps["control"].update(bytes(4), bytes(8))
        read_all(file)
        assert aspect.hits()[0] == 0


def test_many_functions_by_kprobe_multi(file: int) -> None:
    """Where the kernel has kprobe.multi, its programs know their function, arguments and result as kprobes do."""
    entry = probe(
        Context.ENTRY,
        Locator.ADDRESS,
        mark=MarkUse.WRITE,
        role=MarkRole.ENTRY,
        points=[READ_POINT, WRITE_POINT],
        arms=[{READ.address: 0, WRITE.address: 1}],
        index=1,
    )
    returning = probe(
        Context.RETURN,
        Locator.ADDRESS,
        mark=MarkUse.TAKE,
        role=MarkRole.ENTRY,
        points=[READ_POINT, WRITE_POINT],
        arms=[{READ.address: 2, WRITE.address: 3}],
    )
    entry, returning = (
        replace(entry, mechanism=Mechanism.KPROBE_MULTI),
        replace(returning, mechanism=Mechanism.KRETPROBE_MULTI),
    )
    programs = [logging_program(returning, [COUNT], result=True), logging_program(entry, [COUNT])]
    try:
        aspect = woven(returning, entry, programs=programs)
    except KernelRefused as refusal:
        pytest.skip(f"no kprobe.multi: {refusal}")
    with aspect:
        os.pread(file, 7, 0)
        os.write(file, bytes(9))
        assert sorted(aspect.words()) == [[0, 7], [1, 9], [2, 7, 7], [3, 9, 9]]


# --- tail calls -----------------------------------------------------------------------------------------------------


def tail_call(caller: str, callee: str) -> Point:
    """The jump from a function to another's entry."""
    start, code = text()
    first, goal = symbols()[caller], symbols()[callee]
    for address in range(first, first + 32):
        at = address - start
        if code[at] == 0xE9 and address + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True) == goal:
            return Point(address, live(caller))
    raise AssertionError(f"no tail call from {caller} to {callee}")


@pytest.mark.parametrize("returning", [Context.FEXIT, Context.RETURN])
def test_tail_calls(returning: Context) -> None:
    """A jump to another function is seen at the jump, and by its mark at the callee's entry and return."""
    callee = live("__sys_setfsuid")
    jump, entry = tail_call("__x64_sys_setfsuid", "__sys_setfsuid"), Point(callee.address, callee)
    by_jump = {jump.address: 2}
    marks = {"role": MarkRole.TAIL}
    probes = [
        probe(returning, Locator.DISPATCH, mark=MarkUse.TAKE, points=[entry], arms=[by_jump], index=0, **marks),
        probe(
            Context.ENTRY,
            Locator.DISPATCH,
            mark=MarkUse.READ,
            points=[entry],
            arms=[{jump.address: 1}, {}],
            otherwise=3,
            index=1,
            **marks,
        ),
        probe(
            Context.TAIL,
            Locator.ADDRESS,
            mark=MarkUse.WRITE,
            points=[jump],
            arms=[{jump.address: 0}],
            index=2,
            **marks,
        ),
    ]
    uid = Argument(0)
    programs = [
        logging_program(probes[0], [uid], result=True),
        logging_program(probes[1], [uid]),
        logging_program(probes[2]),
    ]
    with woven(*probes, programs=programs) as aspect:
        assert set_fsuid(7, 8, 0) == [0, 7, 8]
        rows = [[value & 0xFFFFFFFF for value in row] for row in aspect.words()]
        assert [row for row in rows if row[0] == 1] == [[1, 7], [1, 8], [1, 0]]
        assert [row for row in rows if row[0] == 2] == [[2, 7, 0], [2, 8, 7], [2, 0, 8]]
        assert aspect.hits() == [3, 3, 3, 0]
        assert _marks_of_others(aspect)


def test_without_its_mark_a_tail_call_counts_as_unknown() -> None:
    """Where the jump is not probed, the callee's entry knows only that no call it knows was made."""
    callee = live("__sys_setfsuid")
    one = probe(
        Context.ENTRY,
        Locator.DISPATCH,
        mark=MarkUse.TAKE,
        role=MarkRole.TAIL,
        points=[Point(callee.address, callee)],
        arms=[{0xFFFF_FFFF_8000_0000: 0}],
        otherwise=3,
    )
    with woven(one) as aspect:
        assert set_fsuid(7, 0) == [0, 7]
        assert aspect.hits() == [0, 0, 0, 2]
