"""All types of the lab's kernels, against what bpftool reads from the same BTF."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from klasy.btf import types as t
from klasy.btf.btf import Btf
from klasy.btf.walk import members
from klasy.kernel.snapshot import SnapshotKernel

SNAPSHOTS = Path(__file__).parents[1] / "data" / "kernels"
BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")

pytestmark = pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")


def anonymous(name: str) -> str:
    return "" if name == "(anon)" else name


def unsigned(values: list[tuple[str, int]], kind: str) -> list[tuple[str, int]]:
    """Constants without their signs: older bpftools take every value for signed."""
    return [(name, value & (0xFFFF_FFFF_FFFF_FFFF if kind == "ENUM64" else 0xFFFF_FFFF)) for name, value in values]


def ours(btf: Btf, type_id: int) -> dict:
    """A type in the words of bpftool's JSON."""
    found = btf.type(type_id)
    match found:
        case t.Int():
            return {
                "kind": "INT",
                "name": found.name,
                "size": found.size,
                "nr_bits": found.bits,
                "bits_offset": found.offset,
            }
        case t.Array():
            return {
                "kind": "ARRAY",
                "type_id": found.type_id,
                "index_type_id": found.index_type_id,
                "nr_elems": found.count,
            }
        case t.Struct():
            kind = "UNION" if found.is_union else "STRUCT"
            parts = [(m.name, m.type_id, m.bit_offset, m.bitfield_size) for m in found.members]
            return {"kind": kind, "name": found.name, "size": found.size, "members": parts}
        case t.Enum():
            kind = "ENUM64" if found.size == 8 else "ENUM"
            return {
                "kind": kind,
                "name": found.name,
                "size": found.size,
                "values": unsigned(found.values, kind),
            }
        case t.Fwd():
            return {"kind": "FWD", "name": found.name, "fwd_kind": "union" if found.is_union else "struct"}
        case t.FuncProto():
            params = [(p.name, p.type_id) for p in found.params] + [("", 0)] * found.variadic
            return {"kind": "FUNC_PROTO", "ret_type_id": found.ret, "params": params}
        case t.Datasec():
            variables = [(v.type_id, v.offset, v.size) for v in found.variables]
            return {"kind": "DATASEC", "name": found.name, "size": found.size, "vars": variables}
        case t.Float():
            return {"kind": "FLOAT", "name": found.name, "size": found.size}
    kind = {t.TypeTag: "TYPE_TAG", t.DeclTag: "DECL_TAG"}.get(type(found), type(found).__name__.upper())
    return {"kind": kind, "name": getattr(found, "name", ""), "type_id": found.type_id}


def theirs(found: dict) -> dict:
    """bpftool's description, as far as it is compared."""
    kind = found["kind"]
    result = {"kind": kind}
    for key in ("size", "nr_bits", "bits_offset", "type_id", "index_type_id", "nr_elems", "ret_type_id", "fwd_kind"):
        if key in found and not (kind in ("STRUCT", "UNION", "ENUM") and key == "type_id"):
            result[key] = found[key]
    if kind not in ("ARRAY", "FUNC_PROTO"):
        result["name"] = anonymous(found["name"])
    if kind in ("STRUCT", "UNION"):
        result["members"] = [
            (anonymous(m["name"]), m["type_id"], m["bits_offset"], m.get("bitfield_size", 0)) for m in found["members"]
        ]
    elif kind in ("ENUM", "ENUM64"):
        result["values"] = unsigned([(v["name"], v["val"]) for v in found["values"]], kind)
    elif kind == "FUNC_PROTO":
        result["params"] = [(anonymous(p["name"]), p["type_id"]) for p in found["params"]]
    elif kind == "DATASEC":
        result["vars"] = [(v["type_id"], v["offset"], v["size"]) for v in found["vars"]]
    return result


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def blobs(request, tmp_path_factory):
    """The BTF of a kernel and of one of its modules, in files."""
    kernel = SnapshotKernel.load(str(SNAPSHOTS / f"{request.param}.snapshot"))
    folder = tmp_path_factory.mktemp(request.param)
    for name in ("", "tun"):
        (folder / (name or "vmlinux")).write_bytes(bytes(kernel._parts[f"btf {name}"]))
    return kernel, folder


def dump(*arguments) -> list[dict]:
    done = subprocess.run([BPFTOOL, "-j", *arguments], capture_output=True, check=True)
    return json.loads(done.stdout)["types"]


def test_every_type_of_the_kernel(blobs):
    """Each of the 100,000 types reads as bpftool reads it: sizes, members, offsets, bit-fields, values, parameters."""
    kernel, folder = blobs
    types = dump("btf", "dump", "file", str(folder / "vmlinux"))
    assert len(types) == kernel.btf.end - 1 > 100_000
    for found in types:
        assert ours(kernel.btf, found["id"]) == theirs(found)


def test_every_type_of_a_module(blobs):
    """The same for a module's, whose ids and strings go on behind the kernel's."""
    kernel, folder = blobs
    types = dump("-B", str(folder / "vmlinux"), "btf", "dump", "file", str(folder / "tun"))
    btf = kernel.module_btf("tun")
    assert len(types) == btf.end - btf.first > 100
    for found in types:
        assert ours(btf, found["id"]) == theirs(found)


def test_offsets_of_members_in_anonymous_ones(blobs):
    """The offsets that walk adds up lie inside the struct, and each member's bytes too."""
    btf = blobs[0].btf
    (sk_buff,) = btf.find("sk_buff", t.Struct)
    size = btf.size_of(sk_buff)
    places = list(members(btf, sk_buff))
    assert len(places) > 80
    for place in places:
        bits = place.bitfield_size or 8 * btf.size_of(place.type_id)
        assert 0 <= place.bit_offset <= place.bit_offset + bits <= 8 * size
