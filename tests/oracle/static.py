#!/usr/bin/env python3
"""klasy's own account of the members in an oracle's document: the static sites of :mod:`klasy.flow`, as JSON.

    .venv/bin/python tests/oracle/static.py oracle-6.1.json --snapshot kernel-6.1.snapshot > static-6.1.json
    klasy lab -- .venv/bin/python tests/oracle/static.py oracle-6.1.json > static-6.1.json

``members``: for each the sites by place, and ``known``: for each place that the oracle caught and that is no site of
the member, what the analysis took the object for (nothing: no type), so that a miss can be explained.

``--asked`` analyses every function and then leaves out of each member's sites those in functions that a question about
this member alone would not have looked at, as ``left_out``: what is lost on the way that a user's question goes counts
as lost. ``--caught`` looks only at the functions in which the oracle caught something, which is enough to judge recall;
``--every 3`` asks for every third member.
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
from klasy.flow import candidates, cfg, reach
from klasy.flow.index import Index
from klasy.flow.sites import CONFIDENCE, Access, Member, covers, kernel_member
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


class Question:
    """Which functions a question about one member alone looks at."""

    def __init__(self, index: Index, member: Member) -> None:
        self._engine = index.engine
        self._member = member
        self._sought = {module: candidates.sought(index.engine, module, [member]) for module in index.kernel.symbols}
        narrow = {module: wanted for module, wanted in self._sought.items() if wanted is not None}
        self._reach = reach.Reach(index.engine, [member], narrow)
        self._chosen: dict[str | None, frozenset[int]] = {}
        self._may: dict[tuple[str | None, int], bool] = {}

    def leaves_out(self, access: Access) -> str:
        """Which of the two choices leaves out the function that an access lies in; empty: none."""
        module = access.function.module
        text = self._engine.text(module)
        place = text.function_index(access.address - text.base)
        unit = self._engine.unit_of(module, place) if place is not None else None
        if unit is None:
            return "no function"
        if module not in self._chosen:
            found = candidates.units(self._engine, module, text.units(), [self._member], self._sought[module])
            self._chosen[module] = frozenset(found)
        if unit not in self._chosen[module]:
            return "candidates"
        key = module, unit
        if key not in self._may:
            self._may[key] = self._reach.may(module, cfg.Unit(text, unit))
        return "" if self._may[key] else "reach"


def static_sites(
    oracle: dict[str, Any],
    kernel: KernelImage | None = None,
    only: list[str] | None = None,
    *,
    use_cache: bool = False,
    caught_only: bool = False,
    asked: bool = False,
    debug_info: bool = True,
) -> dict[str, Any]:
    """The document for an oracle's, of a kernel or the running one. ``caught_only``: look at no other functions than
    those in which something was caught, which is enough to judge recall; ``asked``: see above."""
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

    index = Index(kernel, use_cache=use_cache, debug_info=debug_info)
    places = Places(kernel)
    where = places.holders(kernel, oracle) if caught_only else None
    structs = list(dict.fromkeys(member.struct for member in wanted.values()))
    if len(structs) > 1:  # all at once: what follows then only picks out
        index.accesses(list(wanted.values()), progress, where=where, whole=asked)
    found: dict[str, Any] = {name: {"sites": {}, "untyped": 0, "known": {}, "left_out": {}} for name in wanted}
    names = {member: name for name, member in wanted.items()}
    questions = {member: Question(index, member) for member in wanted.values()} if asked else {}
    for struct in structs:  # one at a time: where it lies differs
        members = [member for member in wanted.values() if member.struct == struct]
        for access in index.accesses(members, progress, where=where, whole=asked).accesses:
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
                why = questions[member].leaves_out(access) if asked else ""
                known = found[names[member]]["left_out" if why else "sites"]
                place = places.place(access.address, module)
                if place in known:  # a copy from one such object to another
                    known[place] = {**known[place], "kind": "rw", "copies": True}
                else:
                    known[place] = {**row, "left_out_by": why} if why else row
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
    parser.add_argument("--caught", action="store_true", help="only the functions in which something was caught")
    parser.add_argument("--debug-root", help="debug information beneath this folder, not beneath /usr/lib/debug")
    parser.add_argument("--btf-alone", action="store_true", help="without debug information, even if it is installed")
    parser.add_argument("--asked", action="store_true", help="leave out what a question about each member would")
    parser.add_argument("--every", type=int, default=1, help="1: all members, 3: every third ..")
    arguments = parser.parse_args()
    with open(arguments.oracle) as file:
        oracle = json.load(file)
    oracle["members"] = dict(list(oracle["members"].items())[:: arguments.every])
    kernel: KernelImage
    if arguments.snapshot:
        from klasy.kernel.snapshot import SnapshotKernel

        kernel = SnapshotKernel.load(arguments.snapshot)
    else:
        from klasy.kernel.live import running_kernel

        kernel = running_kernel()
    if arguments.debug_root:
        kernel.seek_debug_info(arguments.debug_root)
    found = static_sites(
        oracle, kernel, arguments.members,
        use_cache=arguments.cache, caught_only=arguments.caught, asked=arguments.asked,
        debug_info=not arguments.btf_alone,
    )  # fmt: skip
    if arguments.asked:
        left = Counter(site["left_out_by"] for one in found["members"].values() for site in one["left_out"].values())
        kept = sum(len(one["sites"]) for one in found["members"].values())
        print(f"{kept + left.total()} sites, left out of them: {dict(left)}", file=sys.stderr)
    json.dump(found, sys.stdout, indent=1)
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
            if site["place"] in known["left_out"]:
                known["known"][site["place"]] = [f"left out by {known['left_out'][site['place']]['left_out_by']}"]
                continue
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
