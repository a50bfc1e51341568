#!/usr/bin/env python3
"""klasy's own account of the members in an oracle's document: the static sites of :mod:`klasy.flow`, as JSON.

    .venv/bin/python tests/oracle/static.py oracle-6.1.json --snapshot kernel-6.1.snapshot > static-6.1.json
    klasy lab -- .venv/bin/python tests/oracle/static.py oracle-6.1.json > static-6.1.json

``members``: for each the sites by place, and ``known``: for each place that the oracle caught and that is no site of
the member, what the analysis took the object for (nothing: no type), so that a miss can be explained.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from klasy.errors import KlasyError
from klasy.flow.index import Index
from klasy.flow.sites import CONFIDENCE, covers, kernel_member
from klasy.kernel.image import KernelImage


class Places:
    """Addresses of this kernel by the oracle's names for them, and back."""

    def __init__(self, kernel: KernelImage) -> None:
        text = kernel.place("_text")
        self.bases = {module or "_text": table.base for module, table in kernel.symbols.items()}
        self.bases["_text"] = text or self.bases["_text"]

    def address(self, place: str) -> int | None:
        """None where the module is not there."""
        base, _, offset = place.partition("+")
        return self.bases[base] + int(offset, 16) if base in self.bases else None

    def holders(self, kernel: KernelImage, oracle: dict[str, Any]) -> Callable[[str | None, int], bool]:
        """Which functions hold an instruction that the oracle caught."""
        caught = {site["place"] for member in oracle["members"].values() for site in member["sites"]}
        addresses = [address for place in caught if (address := self.address(place)) is not None]
        found = {function.base for address in addresses if (function := kernel.function_at(address)) is not None}

        def where(module: str | None, address: int) -> bool:
            function = kernel.function_at(address)
            return function is not None and function.base in found

        return where

    def place(self, address: int, module: str | None) -> str:
        """As the oracle names it."""
        base = module or "_text"
        return f"{base}+{address - self.bases[base]:#x}"


def static_sites(
    oracle: dict[str, Any],
    kernel: KernelImage | None = None,
    only: list[str] | None = None,
    *,
    use_cache: bool = False,
    caught_only: bool = False,
) -> dict[str, Any]:
    """The document for an oracle's, of a kernel or the running one. ``caught_only``: look at no other functions than
    those in which something was caught, which is enough to judge recall."""
    if kernel is None:
        from klasy.kernel.live import running_kernel

        kernel = running_kernel()
    if oracle["kernel"] != kernel.release:
        raise SystemExit(f"the oracle is of {oracle['kernel']}, this is {kernel.release}")
    wanted = {}
    missing = []
    for name, seen in oracle["members"].items():
        if not only or name in only:
            try:
                wanted[name] = kernel_member(kernel, seen["struct"], seen["path"])
            except KlasyError as error:
                missing.append(f"{name}: {error}")
    started = time.monotonic()

    def progress(done: int, of: int) -> None:
        if done == of or not done % 4096:
            print(f"{done} of {of} functions, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    index = Index(kernel, use_cache=use_cache)
    places = Places(kernel)
    where = places.holders(kernel, oracle) if caught_only else None
    structs = list(dict.fromkeys(member.struct for member in wanted.values()))
    if len(structs) > 1:  # all at once: what follows then only picks out
        index.accesses(list(wanted.values()), progress, where=where)
    found: dict[str, Any] = {name: {"sites": {}, "untyped": 0, "known": {}} for name in wanted}
    names = {member: name for name, member in wanted.items()}
    for struct in structs:  # one at a time: where it lies differs
        members = [member for member in wanted.values() if member.struct == struct]
        for access in index.accesses(members, progress, where=where).accesses:
            module = access.function.module
            row = {
                "function": access.function.name, "offset": access.offset, "module": module or "",
                "kind": ("r" if access.reads else "") + ("w" if access.writes else ""),
                "base": access.base_register, "base_offset": access.base_offset, "indexed": access.index >= 0,
                "per_cpu": access.per_cpu, "text": access.disassembly,
                "confidence": CONFIDENCE[access.confidence], "derivation": access.derivation,
                "placed_in": access.placed_in,
            }  # fmt: skip
            for member in access.members:
                found[names[member]]["sites"][places.place(access.address, module)] = row
    unknown = _untyped(index)
    for name, member in wanted.items():
        found[name]["untyped"] = sum(n for (at, width), n in unknown.items() if covers(member, at, width, -1))
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s: sites taken", file=sys.stderr, flush=True)
    _explain(index, places, oracle, found)
    return {"kernel": kernel.release, "seconds": round(seconds, 1), "missing": missing, "members": found}


def main() -> None:
    """Every member of the document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("oracle")
    parser.add_argument("--snapshot", help="a kernel's snapshot (default: the running kernel)")
    parser.add_argument("--members", nargs="*", help="only these")
    parser.add_argument("--cache", action="store_true", help="use what is kept of earlier runs")
    arguments = parser.parse_args()
    with open(arguments.oracle) as file:
        oracle = json.load(file)
    kernel = None
    if arguments.snapshot:
        from klasy.kernel.snapshot import SnapshotKernel

        kernel = SnapshotKernel.load(arguments.snapshot)
    only = arguments.members
    json.dump(static_sites(oracle, kernel, only, use_cache=arguments.cache), sys.stdout, indent=1)
    print()


def _untyped(index: Index) -> Counter[tuple[int, int]]:
    """How many accesses of unknown type there are, by offset and width."""
    found: Counter[tuple[int, int]] = Counter()
    for module in index.kernel.symbols:
        part = index.object(module)
        offsets, widths = part.columns[2], part.columns[4]
        found.update((offsets[row], widths[row]) for row in part.by_type.get(0, ()))
    return found


def _explain(index: Index, places: Places, oracle: dict[str, Any], found: dict[str, Any]) -> None:
    """What the analysis knows of the instructions that the oracle caught and it does not give."""
    rows: dict[str | None, dict[int, list[int]]] = {}
    for name, known in found.items():
        for site in oracle["members"][name]["sites"]:
            address = places.address(site["place"])
            if site["place"] in known["sites"] or address is None:
                continue
            module = site["module"] or None
            part = index.object(module)
            if module not in rows:
                rows[module] = {}
                for row, at in enumerate(part.columns[0]):
                    rows[module].setdefault(at, []).append(row)
            text = index.engine.text(module)
            types = index.engine.seeds.types_of(module)
            said = []
            for row in rows[module].get(address - text.base, ()):
                _, type_id, offset, shift, width, _, reason = (column[row] for column in part.columns)
                what = types.name(type_id) if type_id else "unknown"
                said.append(f"{what} at {offset} ({width} bytes, base {shift:+}): {part.reasons[reason]}")
            known["known"][site["place"]] = said or ["no access seen here"]


if __name__ == "__main__":
    main()
