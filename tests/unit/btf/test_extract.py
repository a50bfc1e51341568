"""One type by itself, as it is handed along."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klasy.btf.btf import Btf
from klasy.btf.extract import ROOT, extract
from klasy.btf.types import Enum, Struct
from klasy.kernel.snapshot import SnapshotKernel
from klasy.log.memory import decode

SNAPSHOT = Path(__file__).parent.parent.parent / "data" / "kernels" / "6.1.snapshot"


@pytest.fixture(scope="module")
def module() -> Btf:
    """The types of tun, which go on where the kernel's end."""
    kernel = SnapshotKernel.load(str(SNAPSHOT))
    found = kernel.module_btf("tun")
    assert found is not None
    return found


@given(st.data())
def test_shown_alike(module: Btf, data: st.DataObject) -> None:
    """Whatever bytes an object has, it is shown by the extract as by all types of the module and the kernel."""
    names = ["tun_struct", "tun_file", "sk_buff", "net_device", "task_struct", "tun_flow_entry", "sock"]
    (found, *_) = module.find(data.draw(st.sampled_from(names)), Struct)
    size = module.size_of(found)
    seed = data.draw(st.binary(min_size=1, max_size=64))
    raw = (seed * size)[:size]
    assert decode(Btf(extract(module, found)), ROOT, raw, 7) == decode(module, found, raw, 7)


def test_what_pointers_lead_to_is_named_only(module: Btf) -> None:
    """An extract is small: nothing behind pointers has members or constants."""
    (found,) = module.find("tun_struct", Struct)
    blob = extract(module, found)
    assert len(blob) < 6000
    own = Btf(blob)
    whole = [name for name, type_id in own.names(Struct) if own.type(type_id).members]
    assert whole[0] == "tun_struct"
    assert "net_device" not in whole
    assert own.c_name(ROOT) == "struct tun_struct"


def test_enumerations(module: Btf) -> None:
    """Constants come along."""
    (found,) = module.find("skb_drop_reason", Enum)
    assert Btf(extract(module, found)).type(ROOT).values == module.type(found).values
