"""Counts: the programs' own summed over the CPUs, and misses given to the join points that suffered them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.fakekernel import FakeKernel
from support.handmade import artifact, function
from support.minikernel import MiniKernel

from klasy import lang
from klasy.backend.artifact import counter_rows
from klasy.match import PlanOptions, plan_aspect
from klasy.match.mechanism import Mechanism
from klasy.match.plan import Locator, MarkUse, Plan, Point
from klasy.match.runs import must_count, whole
from klasy.record import COUNTERS
from klasy.source import SourceFile
from klasy.weaver.attribution import served
from klasy.weaver.counts import Count, combine, missed_in_all, sum_counters
from klasy.weaver.tracefs import SiteCount

numbers = st.integers(0, 1 << 40)


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.lists(st.lists(st.tuples(*[numbers] * 6), min_size=n, max_size=n), max_size=8)
    )
)
def test_counters_add_up_over_the_cpus(join_points):
    """Hits, lost, unmarked, left out, cut and denied of a join point are the sums over all CPUs, never mixed up."""
    row = counter_rows(1, len(join_points)).row
    each_cpu = [
        b"".join(COUNTERS.pack(*each) for each in cpu).ljust(row, b"\0") for cpu in zip(*join_points, strict=True)
    ]
    words = memoryview(b"".join(each_cpu)).cast("Q")
    assert sum_counters(words, len(join_points)) == [
        tuple(sum(c[k] for c in cpus) for k in range(6)) for cpus in join_points
    ]


def probe(points: list[list[int]], event: int | None = 0, whole: list[list[int] | None] | None = None) -> dict:
    """A probe as the registry entry has it."""
    return {"event": event, "joinpoints": points, "whole": whole or [None] * len(points)}


def entry(*probes: dict, counts_refused: bool = True) -> dict:
    """A registry entry, of which only the probes matter."""
    return {"probes": probes, "counts_refused": counts_refused}


def test_misses_of_a_site_are_its_own_join_points():
    """The kernel's misses at each site go to the join point there, and are not shared."""
    own = [(10, 0, 0), (20, 1, 0), (30, 0, 2)]
    profile = {0: [SiteCount(10, 0), SiteCount(25, 5), SiteCount(30, 0)]}
    assert combine(own, entry(probe([[0], [1], [2]])), profile, {}, {}) == [
        Count(10, 0, 0, 0),
        Count(20, 1, 0, 5),
        Count(30, 0, 2, 0),
    ]


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=9, unique=True), st.integers(0, 999))))
def test_all_misses_of_an_aspect_are_counted_once(points):
    """However many join points share a probe: what was missed in all is what the kernel counted."""
    probes = [probe([ids], event=number) for number, (ids, _) in enumerate(points)]
    profile = {number: [SiteCount(missed, missed)] for number, (_, missed) in enumerate(points)}
    counts = combine([(0, 0, 0)] * 10, entry(*probes), profile, {}, {})
    assert missed_in_all(counts) == sum(missed for _, missed in points)


def test_misses_of_an_entry_are_shared_by_all_its_callers():
    """One probe serves all callers: a miss there may be any one's, and says so; without misses nothing is shared."""
    own = [(1, 0, 0), (2, 0, 0)]
    dispatch = entry(probe([[0, 1]]))
    assert combine(own, dispatch, {0: [SiteCount(6, 3)]}, {}, {}) == [
        Count(1, 0, 0, 3, shared=True),
        Count(2, 0, 0, 3, shared=True),
    ]
    assert combine(own, dispatch, {0: [SiteCount(3, 0)]}, {}, {}) == [Count(1, 0, 0, 0), Count(2, 0, 0, 0)]


def test_refusals_of_a_program_count_beside_those_of_its_points():
    """What a program was refused concerns all points of its probe; a probe without an event has only that."""
    own = [(1, 0, 0), (2, 0, 0), (3, 0, 0)]
    document = entry(probe([[0], [1]]), probe([[2]], event=None))
    counts = combine(own, document, {0: [SiteCount(1, 0), SiteCount(2, 1)]}, {}, {0: 4, 1: 7})
    assert counts == [Count(1, 0, 0, 4, shared=True), Count(2, 0, 0, 5, shared=True), Count(3, 0, 0, 7)]


def test_refusals_show_as_a_difference_where_the_kernel_counts_none():
    """Hits of the kernel since the switching on, less ours, were refused: at the very point where that is so."""
    own = [(10, 0, 0), (20, 0, 0), (5, 0, 0)]
    document = entry(probe([[0], [1], [2]], whole=[[0], [1], None]), counts_refused=False)
    profile = {0: [SiteCount(113, 0), SiteCount(27, 2), SiteCount(500, 0)]}
    assert combine(own, document, profile, {0: [100, 7, 0]}, {}) == [
        Count(10, 0, 0, 3),
        Count(20, 0, 0, 2),
        Count(5, 0, 0, 0, partly=True),
    ]


def test_the_difference_never_counts_twice_nor_below_zero():
    """What the program itself counted is not added to the difference; hits that came in meanwhile make no deficit."""
    own = [(10, 0, 0)]
    document = entry(probe([[0]], whole=[[0]]))
    assert combine(own, document, {0: [SiteCount(14, 0)]}, {0: [0]}, {0: 5}) == [Count(10, 0, 0, 5)]
    assert combine(own, document, {0: [SiteCount(9, 0)]}, {0: [0]}, {}) == [Count(10, 0, 0, 0)]


def test_without_a_base_nothing_is_derived():
    """An entry without the base says that more may have been missed."""
    document = entry(probe([[0]], whole=[[0]]), counts_refused=False)
    assert combine([(1, 0, 0)], document, {0: [SiteCount(99, 0)]}, {}, {}) == [Count(1, 0, 0, 0, partly=True)]


def test_runs_that_a_program_counts_tell_the_refusals_of_guarded_advice():
    """What the kernel saw and the program did not run for was missed there: at one point its own, at several shared."""
    own = [(3, 0, 0), (0, 0, 0)]
    one = entry(probe([[0]]), counts_refused=False)
    assert combine(own[:1], one, {0: [SiteCount(113, 2)]}, {0: [100]}, {}, runs={0: 9}) == [Count(3, 0, 0, 6)]
    two = entry(probe([[0], [1]]), counts_refused=False)
    profile = {0: [SiteCount(113, 2), SiteCount(20, 0)]}
    assert combine(own, two, profile, {0: [100, 0]}, {}, runs={0: 30}) == [
        Count(3, 0, 0, 5, shared=True),
        Count(0, 0, 0, 3, shared=True),
    ]
    assert combine(own, two, profile, {0: [100, 0]}, {}, runs={0: 33})[1] == Count(0, 0, 0, 0)
    assert combine(own, two, profile, {0: [100, 0]}, {}, runs={0: 34})[1] == Count(0, 0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.booleans()), min_size=1, max_size=8))
def test_refusals_add_up_where_only_some_points_are_guarded(points):
    """With advice that is guarded at some points of a probe and not at others, all that was refused is found, once."""
    guarded = [n for n, (_, _, is_guarded) in enumerate(points) if is_guarded]
    whole = [None if n in guarded else [n] for n in range(len(points))]
    document = entry(probe([[n] for n in range(len(points))], whole=whole), counts_refused=False)
    own = [(ran // 2 if n in guarded else ran, 0, 0) for n, (ran, _, _) in enumerate(points)]
    profile = {0: [SiteCount(ran + refused, 0) for ran, refused, _ in points]}
    runs = {0: sum(ran for ran, _, _ in points)} if guarded else {}
    counts = combine(own, document, profile, {0: [0] * len(points)}, {}, runs=runs)
    assert missed_in_all(counts) == sum(refused for _, refused, _ in points)
    assert not any(count.partly for count in counts)
    for n, (_, refused, is_guarded) in enumerate(points):
        assert is_guarded or counts[n].missed == refused


def test_many_functions_by_one_link_on_a_kernel_that_counts_no_refusals():
    """A link to many functions has no profile: where the kernel counts no refusals more may have been missed."""
    for mechanism in (Mechanism.KPROBE_MULTI, Mechanism.KRETPROBE_MULTI):
        multi = probe([[0]], event=None) | {"mechanism": mechanism.value}
        assert combine([(1, 0, 0)], entry(multi, counts_refused=False), {}, {}, {})[0].partly
        assert not combine([(1, 0, 0)], entry(multi), {}, {}, {})[0].partly
    fentry = probe([[0]], event=None) | {"mechanism": Mechanism.FENTRY.value}
    assert not combine([(1, 0, 0)], entry(fentry, counts_refused=False), {}, {}, {})[0].partly


KERNEL = """
struct list { int n; };
struct item *take(struct list *from);
int one(struct list *l);
int two(struct list *l);
"""
CALLS = """
one: take take
two: take jmp:take
"""


def plan(advice: str, force: str | None) -> Plan:
    """The plan of one advice about calls of take."""
    text = f'aspect a {{ pointcut p(struct list *l): call("struct item *take(struct list *l)"); {advice} }}'
    (aspect,) = lang.load(SourceFile("a.asp", text))
    return plan_aspect(aspect, FakeKernel(KERNEL, CALLS), PlanOptions(force=force))


def test_every_probe_of_a_plan_serves_someone():
    """Whichever way a call is reached, each point of each probe serves a join point, and each join point has one."""
    for force in ("sites", "dispatch"):
        for advice in ("before(struct list *l): p(l) {}", "after(struct list *l): p(l) {}"):
            made = plan(advice, force)
            for_points = [ids for one in made.probes for ids in served(made, one)]
            assert for_points
            assert all(for_points)
            assert {i for ids in for_points for i in ids} == {j.id for j in made.joinpoints}


def test_a_site_serves_its_own_join_point_alone():
    """With a probe on each call, a miss at one concerns that call; so does a mark that was not written there."""
    for advice in ("before(struct list *l): p(l) {}", "after(struct list *l): p(l) {}"):
        made = plan(advice, "sites")
        for one in made.probes:
            if one.locator is Locator.ADDRESS or one.mark is MarkUse.WRITE:
                for point, ids in zip(one.points, served(made, one), strict=True):
                    shadows = {made.joinpoints[i].shadow.address for i in ids}
                    assert point.address in shadows or len(ids) > 1
                    if point.address in shadows:
                        assert shadows == {point.address}


def test_an_entry_serves_all_callers():
    """With dispatch, a miss at the callee's entry concerns every call."""
    made = plan("before(struct list *l): p(l) {}", "dispatch")
    (entry,) = [one for one in made.probes if one.locator is Locator.DISPATCH]
    direct = {j.id for j in made.joinpoints}
    assert set(served(made, entry)[0]) == direct


def test_what_lies_behind_an_access_is_missed_once():
    """Of two probes at an access and behind it both serve the join point; what the second missed, the first did too,
    and others who get there are nobody's."""
    code = ["0f 1f 44 00 00", "85 f6", "74 03", "89 77 08", "c3"]  # a jump over mov %esi,0x8(%rdi)
    kernel = MiniKernel("struct item { long a; int b; }; int f(struct item *it, int n);", {"f": code})
    (aspect,) = lang.load(SourceFile("a.asp", "aspect a { after(): set(struct item.b) { log(1); } }"))
    made = plan_aspect(aspect, kernel)
    assert [served(made, one) for one in made.probes] == [[[0]], [[0]]]
    assert [must_count(made, one) for one in made.probes] == [True, False]
    probes = [probe([[0]], n) | {"takes_notes": one.takes_notes} for n, one in enumerate(made.probes)]
    profile = {0: [SiteCount(4, 2)], 1: [SiteCount(9, 5)]}
    assert combine([(4, 0, 0)], entry(*probes), profile, {}, {1: 3}) == [Count(4, 0, 0, 2)]


def test_whole_tells_whose_hits_are_the_runs():
    """Where advice runs at every hit without a condition, its hits count the runs of the program."""
    f = function("f", 0x1000)
    sites = [Point(0x1010, f), Point(0x1020, f)]
    made = artifact("a", [(Mechanism.KPROBE, sites), (Mechanism.FENTRY, [Point(0x1000, f)])])
    assert whole(made.plan, made.plan.probes[0]) == [[0], [1]]
    assert whole(made.plan, made.plan.probes[1]) == [[2]]
    guarded = plan("before(struct list *l): p(l) && if(l->n) {}", "sites")
    assert all(ids is None for one in guarded.probes for ids in whole(guarded, one))
    assert all(must_count(guarded, one) for one in guarded.probes)
    assert not any(must_count(made.plan, one) for one in made.plan.probes)
