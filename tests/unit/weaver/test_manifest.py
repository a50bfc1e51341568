"""The registry entry: what goes in comes out, and what is not ours is told."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.handmade import artifact, function

from klasy.match.mechanism import Mechanism
from klasy.match.plan import Point
from klasy.record import Format
from klasy.weaver import manifest
from klasy.weaver.woven import WovenAspect

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=8))
def test_any_document_comes_back(document):
    """What is packed comes back the same, in chunks of one size, whatever follows in the last chunk."""
    chunks = manifest.pack(document)
    assert {len(chunk) for chunk in chunks} == {manifest.CHUNK}
    assert manifest.unpack([*chunks, b"\xff" * manifest.CHUNK]) == document


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=8))
def test_it_is_json(document):
    """The text is what the module json writes and reads, with its C half and without."""
    text = json.dumps(document, separators=(",", ":"))
    assert manifest._to_json(document) == text
    assert manifest._from_json(text) == document
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "_json", None)
        assert manifest._to_json(document) == text
        assert manifest._from_json(text) == document


@pytest.mark.parametrize("text", ["", "{", '{"a":1}}', '{"a":1', "[1,]", '{"a":nothing}', "\x00"])
def test_what_is_no_json_is_a_value_error(text):
    """Whatever the C half says of it."""
    with pytest.raises(ValueError, match=r"."):
        manifest._from_json(text)


def test_a_large_document_takes_several_chunks():
    """A document that does not compress into one chunk is read back from all of them."""
    document = {"numbers": [hash((n, "x")) for n in range(4000)]}
    chunks = manifest.pack(document)
    assert len(chunks) > 3
    assert manifest.unpack(chunks) == document


def _flipped(chunks: list[bytes], at: int) -> list[bytes]:
    changed = bytearray(chunks[0])
    changed[at] ^= 0x40
    return [bytes(changed), *chunks[1:]]


@pytest.mark.parametrize(
    ("at", "message"), [(0, "not a registry entry"), (8, "version"), (16, "damaged"), (20, "damaged")]
)
def test_what_is_not_ours_or_damaged_is_refused(at, message):
    """One bit in the magic, the version, the length or the body: each is told, none is taken apart."""
    with pytest.raises(manifest.UnknownRegistry, match=message):
        manifest.unpack(_flipped(manifest.pack({"a": 1}), at))


def test_too_short_an_entry_is_refused():
    """An empty map is no registry entry."""
    with pytest.raises(manifest.UnknownRegistry, match="short"):
        manifest.unpack([])


@given(st.lists(st.tuples(st.integers(), st.none() | st.sampled_from(["a", "b"]), st.text(max_size=4)), max_size=40))
def test_tables_come_back(table):
    """Rows packed as columns come back as the same rows, repeated values or not, none at all included."""
    columns = ("number", "kind", "name")
    back = manifest.unpack_table(manifest.unpack(manifest.pack(manifest.pack_table(columns, table))))
    assert tuple(back) == columns
    assert list(zip(*back.values(), strict=True)) == table


def test_an_aspect_is_described_in_full():
    """The entry of an aspect says all that status, joinpoints and log show of it later."""
    one, other = function("one", 0x1000), function("other", 0x2000, module="mod")
    made = artifact(
        "both",
        [
            (Mechanism.FENTRY, [Point(0x1000, one)]),
            (Mechanism.KPROBE, [Point(0x1010, one), Point(0x2020, other)]),
        ],
    )
    circumstances = manifest.Circumstances(
        time_ns=5,
        monotonic_ns=6,
        pid=7,
        token="1_7_2_1",
        group="klasy_both_1_7_2_1",
        klasy="0.1.0",
        release="6.1",
        build_id="abcd",
        boot_id="b-o-o-t",
        counts_refused=False,
        options={"force": None},
    )
    document = manifest.unpack(
        manifest.pack(manifest.complete(manifest.describe(made.plan, made.formats), circumstances, {1: 0}))
    )
    woven = WovenAspect("both", "/nowhere", document)
    assert (woven.since_ns, woven.monotonic_ns) == (5, 6)
    assert woven.source_name == "both.asp"
    assert woven.source_text == made.plan.aspect.source.text
    assert woven.formats == made.formats
    assert all(isinstance(f, Format) for f in woven.formats)
    assert [(j.id, j.advice, j.kind, j.function, j.offset, j.module, j.address) for j in woven.joinpoints] == [
        (0, "before#0", "execution", "one", 0, None, 0x1000),
        (1, "before#0", "execution", "one", 0x10, None, 0x1010),
        (2, "before#0", "execution", "other", 0x20, "mod", 0x2020),
    ]
    assert [j.mechanism for j in woven.joinpoints] == ["fentry", "kprobe", "kprobe"]
    assert [(p["event"], p["joinpoints"]) for p in document["probes"]] == [(None, [[0]]), (0, [[1], [2]])]
    assert document["kernel"] == {"release": "6.1", "build_id": "abcd", "boot_id": "b-o-o-t"}
    assert woven.unreached == []
