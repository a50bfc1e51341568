"""Ways among types, against a search that follows every pointer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klasy.flow.paths import ALWAYS, Paths

OFFSETS = st.sampled_from((ALWAYS, 0, 8, 16))
FIRST = 6  # of the module's types
GRAPHS = st.dictionaries(
    st.integers(0, 11), st.dictionaries(OFFSETS, st.frozensets(st.integers(0, 11), max_size=3)), max_size=12
)
SOME = st.frozensets(st.integers(0, 11), max_size=3)


def reached(graph, starts, offsets):
    """All that some types lead to, themselves included."""
    found, todo = set(starts), list(starts)
    while todo:
        for offset, targets in graph.get(todo.pop(), {}).items():
            if offset == ALWAYS or offset in offsets:
                todo += targets - found
                found |= targets
    return found


def made(graph, starts):
    """The kernel's types, and a module's upon them."""
    base = Paths(lambda type_id: graph.get(type_id, {}))
    paths = Paths(lambda type_id: graph.get(type_id, {}), base, FIRST)
    paths.add(starts)
    return paths


def of_kernel(graph):
    """A graph in which the kernel's types do not lead to the module's."""
    return {
        type_id: {
            offset: frozenset(t for t in targets if type_id >= FIRST or t < FIRST) for offset, targets in t_.items()
        }
        for type_id, t_ in graph.items()
    }


@given(GRAPHS, SOME, SOME, st.frozensets(st.sampled_from((0, 8, 16))))
def test_ways(graph, starts, wanted, offsets):
    """A way is found where there is one, whichever side it is sought from."""
    graph = of_kernel(graph)
    paths = made(graph, starts)
    assert paths.lead(starts, wanted, offsets) == (not reached(graph, starts, offsets).isdisjoint(wanted))
    behind = paths.back_from(wanted, offsets)
    assert wanted <= behind
    everything = reached(graph, starts, {0, 8, 16})
    for type_id in everything:
        assert (type_id in behind) == (not reached(graph, {type_id}, offsets).isdisjoint(wanted))


@given(GRAPHS, SOME, SOME, st.frozensets(st.sampled_from((0, 8, 16))))
def test_one_step(graph, starts, types, offsets):
    """What types lead to at once, and what leads to them, is told by the same pointers."""
    graph = of_kernel(graph)
    paths = made(graph, starts | types)

    def follows(type_id):
        return {t for offset, to in graph.get(type_id, {}).items() if offset == ALWAYS or offset in offsets for t in to}

    assert paths.after(types, offsets) == set().union(*map(follows, types))
    known = reached(graph, starts | types, {0, 8, 16})
    assert paths.before(types, offsets) == {type_id for type_id in known if follows(type_id) & types}


def test_types_named_later():
    """A way that begins at a type which was added after the others is found, too."""
    paths = Paths(lambda type_id: {8: {type_id + 1}} if type_id < 5 else {})
    paths.add({3})
    assert paths.back_from({5}, {8}) == {3, 4, 5}
    paths.add({1})
    assert paths.back_from({5}, {8}) == {1, 2, 3, 4, 5}
    assert paths.lead({1}, {5}, {8})
    assert not paths.lead({1}, {5}, {16})
