"""JSON documents of many rows."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from klasy.cli.document import dumps

SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["},\n      {", "}", "\\n", '"'])
ROWS = st.lists(st.dictionaries(st.text(), SCALARS, min_size=1, max_size=4), max_size=4)


@given(st.dictionaries(st.text(), ROWS, min_size=1, max_size=3))
def test_as_the_standard_library_prints_it(tables):
    """Tables are printed, byte for byte, as the standard library prints them with an indent of two."""
    assert dumps(tables) == json.dumps(tables, indent=2)


@given(ROWS, st.dictionaries(st.text(), st.recursive(SCALARS, lambda s: st.lists(s) | st.dictionaries(st.text(), s))))
def test_other_members(rows, others):
    """So are members of any depth behind the tables."""
    others.pop("rows", None)
    assert dumps({"rows": rows}, others) == json.dumps({"rows": rows} | others, indent=2)
