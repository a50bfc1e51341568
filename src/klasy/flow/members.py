"""Where the parts of structs lie: what a pointer points to after a load, and which struct holds which.

A *place* is a type id and an offset in bytes: what a pointer points to. Types are those of one object's BTF; ids are
of types without qualifiers and typedefs. What is asked once is remembered: functions ask the same thousands of times.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

from klasy.btf import read
from klasy.btf.alike import alike
from klasy.btf.btf import Btf
from klasy.btf.read import BtfError
from klasy.btf.types import Array, Datasec, FuncProto, Ptr, Struct, Var
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Place = tuple[int, int]
    Part = tuple[int, int, int, str]

_DEEPEST = 16
_FAR = 1 << 40  # where a flexible array ends
_WORD = 8
_MOST_PARTS = 1 << 15  # remembered; some 10 MB
_LONG = 6  # members
_ELEMENTS = 16  # of an array of structs, whose members are told apart

# Integers of the kernel that hold a pointer with flags in its low bits: (struct, member) -> struct pointed to.
# include/linux/skbuff.h, include/linux/page-flags.h, include/linux/rbtree_types.h, include/linux/file.h
_TAGGED = {
    ("sk_buff", "_skb_refdst"): "dst_entry",
    ("sk_buff", "_nfct"): "nf_conn",
    ("page", "compound_head"): "page",
    ("rb_node", "__rb_parent_color"): "rb_node",
    ("fd", "word"): "file",
}
# Structs that say anew what another one, which they hold, has in the same places. include/linux/mm_types.h
_OVERLAYS = frozenset((("folio", "page"),))
# Structs from whose address container_of finds the object that they are a part of. include/linux/types.h and others.
_LISTED = frozenset(
    ("list_head", "hlist_node", "hlist_nulls_node", "hlist_bl_node", "llist_node", "rb_node", "plist_node")
)
_ENTITIES = frozenset(("sched_entity", "sched_rt_entity", "sched_dl_entity"))
_NODES = frozenset(
    (
        *_LISTED,
        *("callback_head", "work_struct", "delayed_work", "rcu_work", "irq_work", "timer_list", "hrtimer", "shrinker"),
        *("wait_queue_entry", "wake_q_node", "kref", "kobject", "device", "notifier_block", "percpu_ref"),
        *_ENTITIES,
    )
)
# What holds nodes of others. include/linux/rwsem.h, mutex.h, wait.h, swait.h
_HEADS = frozenset(("rw_semaphore", "mutex", "wait_queue_head", "swait_queue_head", "completion", "semaphore"))


class Types:
    """The types of the kernel proper, or of a module (whose ids begin where the kernel's end)."""

    def __init__(self, btf: Btf, base: Types | None = None) -> None:
        self.btf = btf
        self.base = base
        self._pointers: dict[tuple[int, int], int] = {}
        self._tables: dict[int, list[tuple[int, int, int, str]]] = {}
        self._parts: dict[tuple[int, int], tuple[Part, ...]] = {}
        self._structs: dict[int, bool] = {}
        self._sizes: dict[int, int] = {}
        self._within: dict[tuple[int, int, int], bool] = {}
        self._pointees: dict[int, int] = {}
        self._arrays: dict[tuple[int, int], int] = {}
        self.fitting: dict[tuple[int, int, int], bool] = {}  # what enlarge.fits found
        self.links: dict[int, bool] = {}  # what enlarge.is_link found
        self._embedded: dict[tuple[int, int], list[int]] = {}
        self._own_structs: dict[int, list[tuple[int, int]]] = {}
        self._nodes: dict[int, Mapping[int, bool]] = {}
        self._leads: dict[int, dict[int, set[int]]] = {}
        self._resolved: dict[int, int] = {}

    # --- single types

    def size(self, type_id: int) -> int:
        """Size in bytes, 0 where there is none."""
        found = self._sizes.get(type_id)
        if found is None:
            kind = self.btf.type(type_id)
            found = self._sizes[type_id] = kind.size if isinstance(kind, Datasec) else self.btf.size_of(type_id)
        return found

    def pointee(self, type_id: int) -> int:
        """What a pointer type points to: the id of a struct, a pointer, a function type or an array; 0 for others.

        Others are void and what has no parts: pointers to them say nothing of what lies there.
        """
        found = self._pointees.get(type_id)
        if found is None:
            found = self._pointees[type_id] = self._find_pointee(type_id)
        return found

    def _find_pointee(self, type_id: int) -> int:
        target = self.btf.pointee(type_id)
        return self.canonical(target) if target is not None else 0

    def canonical(self, type_id: int) -> int:
        """The id of a type with parts, without qualifiers and typedefs; 0 for one without parts.

        A module's own copy of one of the kernel's structs counts as the kernel's.
        """
        resolved = self.btf.resolve(type_id)
        found = self.btf.type(resolved)
        if isinstance(found, Struct):
            if self.base is not None and resolved >= self.btf.first and found.name:
                for same in self.base.btf.find(found.name, type(found)):
                    if alike((self.base.btf, same), (self.btf, resolved)):
                        return same
            return resolved
        return resolved if isinstance(found, Ptr | FuncProto | Array | Datasec) else 0

    def of_other(self, other: Types, type_id: int) -> int:
        """The id here of a type of another module's; 0 where it is none of the kernel's and there is no copy of it."""
        if type_id < other.btf.first:
            return type_id
        found = other.btf.type(type_id)
        if self.base is None or not isinstance(found, Struct) or not found.name:
            return 0
        copies = [each for each in self.btf.find(found.name, type(found)) if each >= self.btf.first]
        return next((each for each in copies if alike((self.btf, each), (other.btf, type_id))), 0)

    def is_struct(self, type_id: int) -> bool:
        """Whether it is a struct or a union."""
        found = self._structs.get(type_id)
        if found is None:
            found = self._structs[type_id] = isinstance(self.btf.type(type_id), Struct)
        return found

    def name(self, type_id: int) -> str:
        """As C writes it."""
        found = self.btf.type(type_id)
        return found.name if isinstance(found, Datasec) else self.btf.c_name(type_id)

    # --- parts

    def parts(self, type_id: int, offset: int) -> tuple[Part, ...]:
        """What lies over a byte of a type, outermost first: (type id, its offset there, depth, member's name).

        Members of anonymous structs and unions count as deep as these. Of an array, its element.
        """
        key = type_id, offset
        found = self._parts.get(key)
        if found is None:
            if len(self._parts) >= _MOST_PARTS:
                self._parts.clear()
            found = self._parts[key] = tuple(self._find_parts(type_id, offset))
        return found

    def _find_parts(self, type_id: int, offset: int) -> Iterator[Part]:
        found = self.btf.type(type_id)
        if isinstance(found, Struct):
            for start, end, part, name in self._over(type_id, found, offset):
                if start <= offset < end:
                    yield part, offset - start, 0, name
                    yield from self._deeper(part, offset - start, 0 if not name else 1)
        elif isinstance(found, Array):
            part = self.btf.resolve(found.type_id)
            size = self.size(part)
            if size:
                yield part, offset % size, 0, ""
                yield from self._deeper(part, offset % size, 0)
        elif isinstance(found, Datasec):
            for variable in found.variables:
                if variable.offset <= offset < variable.offset + variable.size:
                    holder = self.btf.type(variable.type_id)
                    assert isinstance(holder, Var)
                    part = self.btf.resolve(holder.type_id)
                    yield part, offset - variable.offset, 0, holder.name
                    yield from self._deeper(part, offset - variable.offset, 1)

    def _deeper(self, type_id: int, offset: int, depth: int) -> Iterator[Part]:
        for part, inside, below, name in self.parts(type_id, offset):
            yield part, inside, depth + below, name

    def _over(self, type_id: int, struct: Struct, offset: int) -> list[tuple[int, int, int, str]]:
        """The members that may lie over a byte: of a long struct the last that begins before it, else all."""
        table = self._table(type_id, struct)
        if len(table) < _LONG or struct.is_union:
            return table
        behind = bisect_right(table, (offset, _FAR + 1))
        return table[max(0, behind - 1) : behind]

    def _table(self, type_id: int, struct: Struct) -> list[tuple[int, int, int, str]]:
        """The members of a struct but bit-fields: (start, end, type, name)."""
        found = self._tables.get(type_id)
        if found is None:
            found = self._tables[type_id] = []
            for member in struct.members:
                if not member.bitfield_size:
                    part = self.btf.resolve(member.type_id)
                    start, size = member.bit_offset // 8, self.size(part)
                    end = start + size
                    if self._is_flexible(part, size) and start + _WORD > struct.size:
                        end = _FAR  # others without elements only mark a place
                    found.append((start, end, part, member.name))
        return found

    def _is_flexible(self, type_id: int, size: int) -> bool:
        return not size and isinstance(self.btf.type(type_id), Array)

    def loaded(self, type_id: int, offset: int, tagged: bool = False) -> Place | None:
        """What the 8 bytes at a place point to, if they are a pointer to something with parts.

        Of several members of a union the least deep counts, as sk_buff's ``next``, if what the others point to may be
        the beginning of what it points to, or is a node of a tree (which ``dev`` of sk_buff shares its place with);
        else nothing is known.
        ``tagged``: their low bits are masked off, so that they may be an integer that holds a pointer and flags.
        """
        key = type_id, offset << 1 | tagged
        found = self._pointers.get(key)
        if found is None:
            try:
                found = self._find_loaded(type_id, offset, tagged)
            except BtfError:
                found = 0
            self._pointers[key] = found
        return (found >> 4, 0) if found else None

    def _find_loaded(self, type_id: int, offset: int, tagged: bool) -> int:
        outer = self.btf.type(type_id)
        if isinstance(outer, Ptr):
            return self.pointee(type_id) << 4 if offset % 8 == 0 else 0
        found: dict[int, int] = {}  # what is pointed to -> the least depth of such a member
        holder = outer.name if isinstance(outer, Struct) else ""
        for part, inside, depth, name in self.parts(type_id, offset):
            kind = self.btf.type(part)
            if isinstance(kind, Struct) and kind.name:
                if (holder, kind.name) in _OVERLAYS and found:
                    break
                holder = kind.name
            target = 0
            if not inside and isinstance(kind, Ptr):
                target = self.pointee(part)
            elif not inside and tagged and (target := self.tagged(holder, name)):
                return target << 4
            if target:
                found.setdefault(target, depth)
        least = min(found.values(), default=0)
        best = [target for target, depth in found.items() if depth == least]
        if len(best) != 1 or not all(
            target == best[0] or self.holds(best[0], 0, target) or self._is_tree_link(target) for target in found
        ):
            return 0
        return best[0] << 4

    def tagged(self, struct: str, member: str) -> int:
        """What a member points to that is an integer of a pointer and flags; 0 for others."""
        ids = self.btf.find(_TAGGED[struct, member], Struct) if (struct, member) in _TAGGED else ()
        return ids[0] if len(ids) == 1 else 0

    def leads(self, type_id: int) -> dict[int, set[int]]:
        """What the pointers in a type point to, by where they lie; of arrays, the first elements. Not to be changed."""
        if type_id < self.btf.first and self.leads_as_base:
            assert self.base is not None
            return self.base.leads(type_id)
        found = self._leads.get(type_id)
        if found is None:
            found = self._leads[type_id] = {}
            kind = self.btf.type(type_id)
            if isinstance(kind, Ptr):
                target = self.pointee(type_id)
                if target:
                    found[0] = {target}
            elif isinstance(kind, Struct):
                for member in kind.members:
                    if not member.bitfield_size:
                        at = member.bit_offset // 8
                        self._add_leads(found, member.type_id, at)
                        tagged = self.tagged(kind.name, member.name)
                        if tagged:
                            found.setdefault(at, set()).add(tagged)
            elif isinstance(kind, Array):
                size = self.size(kind.type_id)
                for number in range(max(1, min(kind.count, _ELEMENTS))):
                    if not self._add_leads(found, kind.type_id, number * size):
                        break
        return found

    @cached_property
    def leads_as_base(self) -> bool:
        """Whether the kernel's types lead to the same here as in the kernel: but for what is known by name they do."""
        base = self.base
        return base is not None and all(
            self.btf.find(name, Struct) == base.btf.find(name, Struct) for name in _TAGGED.values()
        )

    def _add_leads(self, found: dict[int, set[int]], type_id: int, at: int) -> bool:
        """Add what a part's pointers point to; whether it has any."""
        inner = self.leads(self._resolve(type_id))
        for offset, targets in inner.items():
            found.setdefault(at + offset, set()).update(targets)
        return bool(inner)

    def _resolve(self, type_id: int) -> int:
        found = self._resolved.get(type_id)
        if found is None:
            found = self._resolved[type_id] = self.btf.resolve(type_id)
        return found

    def _is_tree_link(self, type_id: int) -> bool:
        """Whether a pointer to a type is one of a tree's node, beside which a union's other members may be used."""
        kind = self.btf.type(type_id)
        return isinstance(kind, Struct) and kind.name == "rb_node"

    def member_name(self, type_id: int, offset: int) -> str:
        """The member at a place, as C writes it behind a dot: the first of those in a union."""
        names: list[str] = []
        depth_seen = -1
        for _, _, depth, name in self.parts(type_id, offset):
            if depth <= depth_seen:
                break
            if name:
                names.append(name)
                depth_seen = depth
        return ".".join(names) or f"+{offset:#x}"

    def array_element(self, type_id: int, offset: int) -> int:
        """Size of the elements of the innermost array that holds a byte, 0 where none does."""
        key = type_id, offset
        found = self._arrays.get(key)
        if found is None:
            found = 0
            for part, _, _, _ in self.parts(type_id, offset):
                kind = self.btf.type(part)
                if isinstance(kind, Array):
                    found = self.size(self.btf.resolve(kind.type_id))
            self._arrays[key] = found
        return found

    def holds(self, outer: int, offset: int, inner: int) -> bool:
        """Whether a type has, at an offset, a part of another type (or is it, at offset 0)."""
        if outer == inner:
            return offset == 0
        if offset < 0:
            return False
        key = outer, offset, inner
        found = self._within.get(key)
        if found is None:
            found = any(part == inner and not inside for part, inside, _, _ in self.parts(outer, offset))
            self._within[key] = found
        return found

    def larger(self, first: Place, second: Place) -> Place | None:
        """Which of two places is that of the larger object, if one is a part of the other; else None."""
        if first == second:
            return first
        if self.holds(second[0], second[1] - first[1], first[0]):
            return second
        if self.holds(first[0], first[1] - second[1], second[0]):
            return first
        return None

    def beside(self, first: Place, second: Place) -> bool:
        """Whether the object of the second place says nothing against the first: it lies before or behind it, or begins
        and ends within it, as what is kept in an array of bytes does (``cb`` of a struct sk_buff)."""
        start, end = -first[1], self.size(first[0]) - first[1]
        other, behind = -second[1], self.size(second[0]) - second[1]
        return end <= other or behind <= start or (start < other and behind <= end)

    def containers(self, inner: int) -> list[tuple[int, int]]:
        """The structs that have a type as a member of their own: (struct, offset). Anonymous ones as they are."""
        found = self.container_table.get(inner, [])
        return found + self.base.container_table.get(inner, []) if self.base is not None else found

    @cached_property
    def container_table(self) -> dict[int, list[tuple[int, int]]]:
        """Of all structs of this object: where they hold which others. One pass over the records, 0.2 s."""
        blob, first = self.btf.blob, self.btf.first
        words, offsets = blob.words, blob.layout.offsets
        kinds = [words[at + 1] >> 24 & 0x1F for at in offsets]
        aliases = {
            first + index: words[offsets[index] + 2]
            for index, kind in enumerate(kinds)
            if kind in (read.TYPEDEF, read.CONST, read.VOLATILE, read.TYPE_TAG)
        }
        structs = {first + index for index, kind in enumerate(kinds) if kind in (read.STRUCT, read.UNION)}
        found: dict[int, list[tuple[int, int]]] = {}
        made_up = self.btf.find("bpf_ctx_convert", Struct)  # holds what BPF programs are given, and is never an object
        for outer in structs.difference(made_up):
            at = offsets[outer - first]
            info = words[at + 1]
            mask = 0xFF_FFFF if info >> 31 else 0xFFFF_FFFF
            for place in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
                inner = words[place + 1]
                while inner in aliases:
                    inner = aliases[inner]
                if inner in structs or (inner < first and self.base is not None and self.base.is_aggregate(inner)):
                    offset = words[place + 2]
                    if not (info >> 31 and offset >> 24):
                        found.setdefault(inner, []).append((outer, (offset & mask) // 8))
        return found

    def is_aggregate(self, type_id: int) -> bool:
        """Whether a type is a struct or union, through typedefs and qualifiers."""
        return self.is_struct(self.btf.resolve(type_id)) if type_id else False

    def embedded(self, outer: int, inner: int) -> list[int]:
        """At which offsets a struct lies within a type; of arrays, within the first elements."""
        key = outer, inner
        found = self._embedded.get(key)
        if found is None:
            found = self._embedded[key] = []
            self._embed(outer, inner, 0, 0, found)
        return found

    def _embed(self, outer: int, inner: int, at: int, depth: int, found: list[int]) -> None:
        if outer == inner:
            found.append(at)
            return
        if depth > _DEEPEST or self.size(outer) < self.size(inner):
            return
        for part, place in self.structs_in(outer):
            self._embed(part, inner, at + place, depth + 1, found)

    def structs_in(self, outer: int) -> list[tuple[int, int]]:
        """The structs among a type's own members, and the first elements of arrays of such: (type, offset)."""
        found = self._own_structs.get(outer)
        if found is None:
            found = self._own_structs[outer] = []
            kind = self.btf.type(outer)
            if isinstance(kind, Struct):
                for member in kind.members:
                    found += self._struct_parts(member.type_id, member.bit_offset // 8)
            elif isinstance(kind, Array):
                found += self._struct_parts(outer, 0)
            elif isinstance(kind, Datasec):
                for variable in kind.variables:
                    holder = self.btf.type(variable.type_id)
                    assert isinstance(holder, Var)
                    found += self._struct_parts(holder.type_id, variable.offset)
        return found

    def _struct_parts(self, type_id: int, at: int) -> list[tuple[int, int]]:
        part = self.canonical(type_id)
        kind = self.btf.type(part)
        if isinstance(kind, Struct):
            return [(part, at)]
        if isinstance(kind, Array):
            element = self.canonical(kind.type_id)
            if isinstance(self.btf.type(element), Struct | Array):
                step = self.size(element)
                return [(element, at + step * i) for i in range(max(1, min(kind.count, _ELEMENTS)))]
        return []

    def nodes(self, struct: int) -> Mapping[int, bool]:
        """At which offsets the parts of a struct begin, however deep, by which it is found: members of lists and trees,
        timers, work items and the like, whose pointers the kernel hands about in the place of the object's own. Each
        with whether it links the object itself, and not another such part or what waits for a lock in it."""
        found = self._nodes.get(struct)
        if found is None:
            starts: dict[int, bool] = {}
            for part, at in self.structs_in(struct):
                kind = self.btf.type(part)
                name = kind.name if isinstance(kind, Struct) else ""
                if name in _NODES:
                    starts[at] = name in _LISTED
                for inner, own in self.nodes(part).items():
                    starts.setdefault(at + inner, own and name not in _NODES and name not in _HEADS)
            found = self._nodes[struct] = starts
        return found

    def entities(self, struct: int) -> frozenset[int]:
        """At which offsets of a struct the parts begin that stand for it wherever the scheduler deals with it."""
        return frozenset(
            at
            for part, at in self.structs_in(struct)
            if isinstance(kind := self.btf.type(part), Struct) and kind.name in _ENTITIES
        )

    def around(self, inner: int, limit: int) -> list[tuple[int, int]] | None:
        """All structs that hold a struct, it itself included, and where in them it lies; None: more than a limit."""
        level = {(inner, 0)}
        seen = set(level)
        while level:
            level = {(holder, at + place) for type_id, at in level for holder, place in self.containers(type_id)} - seen
            seen |= level
            if len(seen) > limit:
                return None
        return sorted(seen)
