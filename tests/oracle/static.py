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
from typing import Any

from klasy.errors import KlasyError
from klasy.flow.index import Index
from klasy.flow.sites import CONFIDENCE, kernel_member
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

    def place(self, address: int, module: str | None) -> str:
        """As the oracle names it."""
        base = module or "_text"
        return f"{base}+{address - self.bases[base]:#x}"


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
    if arguments.snapshot:
        from klasy.kernel.snapshot import SnapshotKernel

        kernel: KernelImage = SnapshotKernel.load(arguments.snapshot)
    else:
        from klasy.kernel.live import running_kernel

        kernel = running_kernel()
    if oracle["kernel"] != kernel.release:
        sys.exit(f"the oracle is of {oracle['kernel']}, this is {kernel.release}")
    wanted = {}
    missing = []
    for name, seen in oracle["members"].items():
        if not arguments.members or name in arguments.members:
            try:
                wanted[name] = kernel_member(kernel, seen["struct"], seen["path"])
            except KlasyError as error:
                missing.append(f"{name}: {error}")
    started = time.monotonic()

    def progress(done: int, of: int) -> None:
        print(f"\r{done} of {of} functions, {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)

    index = Index(kernel, use_cache=arguments.cache)
    index.accesses(list(wanted.values()), progress)
    seconds = time.monotonic() - started
    places = Places(kernel)
    found: dict[str, Any] = {}
    for name, member in wanted.items():
        sites = index.accesses([member])
        rows = {}
        for access in sites.accesses:
            rows[places.place(access.address, access.function.module)] = {
                "function": access.function.name, "offset": access.offset, "module": access.function.module or "",
                "kind": ("r" if access.reads else "") + ("w" if access.writes else ""), "base": access.base_register,
                "base_offset": access.base_offset, "indexed": access.index >= 0, "per_cpu": access.per_cpu,
                "text": access.disassembly, "confidence": CONFIDENCE[access.confidence],
                "derivation": access.derivation, "placed_in": access.placed_in,
            }  # fmt: skip
        found[name] = {"sites": rows, "untyped": sites.untyped, "known": {}}
    _explain(index, places, oracle, found)
    document = {"kernel": kernel.release, "seconds": round(seconds, 1), "missing": missing, "members": found}
    json.dump(document, sys.stdout, indent=1)
    print()


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
