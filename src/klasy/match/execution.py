"""How ``execution`` join points are reached: trampolines for a few functions, kprobes for many or where they must."""

from __future__ import annotations

from klasy.kernel.model import Refusal, Way
from klasy.lang.ast import AdviceKind
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Argument, Locator, MarkRole, MarkUse
from klasy.match.probes import Kind
from klasy.match.prototype import argument_words
from klasy.match.shadow import JoinPointKind
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klasy.kernel.model import Function
    from klasy.lang.ast import Advice
    from klasy.match.matched import Match, Outcome
    from klasy.match.planner import Planner

# Loading and attaching one fentry program costs as much as some ten kprobes under one trace event.
_TOO_MANY = "too-many-args"  # the code of what the kernel model refuses
MOST_TRAMPOLINES = 16
MANY = 64  # from here on it pays off to look for what many have in common
BODY = Kind(Mechanism.KPROBE, Context.BODY, Locator.ADDRESS)
# What runs while one of klasy's programs holds a lock of the ring buffer's or of a map's: a program there that takes
# it, too, would wait for the other, if the kernel let it run inside that. Those of trampolines it does.
UNDER_LOCK = (
    *("_raw_spin_", "__raw_spin_", "native_queued_spin_", "__pv_queued_"),
    *("lock:contention_end", "__traceiter_contention_end"),  # when a lock that had to be waited for has been taken
    "__bpf_ringbuf_reserve",
    # To put an element into a hash map, or take it out, its bucket is locked. What is reached then follows from the
    # kernel's code, with which tests/kernel/test_own_code.py compares this.
    *("htab_", "__htab_", "alloc_htab_elem", "free_htab_elem", "lookup_elem_raw", "pcpu_init_value", "pcpu_copy_value"),
    *("pcpu_freelist_", "__pcpu_freelist_", "___pcpu_freelist_", "check_and_free_fields", "bpf_obj_free_fields"),
)
_BEHIND = "behind the hooks at their entries, into which probes are put one by one, each in the time of a hundred"


def runs_under_lock(function: Function) -> bool:
    """Whether a function of the kernel (or an event) may be reached while a program of klasy's holds a lock."""
    return function.name.startswith(UNDER_LOCK) and not function.in_program


def takes_arguments(outcome: Outcome) -> bool:
    """Whether a parameter of the function is bound."""
    return any(isinstance(binding.source, Argument) for binding in outcome.bindings)


def beyond_marks(outcome: Outcome) -> Refusal | None:
    """Why the bound parameters cannot be kept in a mark, if so."""
    for binding in outcome.bindings:
        if isinstance(binding.source, Argument) and binding.source.abi_place >= 6:
            return Refusal(
                "argument-on-stack",
                f"'{binding.name}' (parameter {binding.source.index + 1}) is passed on the stack: it is gone when the "
                "function returns",
            )
    return None


def _in_program(match: Match) -> bool:
    return match.shadow.function is not None and match.shadow.function.in_program


class ExecutionPlanner:
    """Plans the executions of all advice of an aspect together."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.kernel = planner.kernel
        self.options = planner.options
        self._kprobe: dict[tuple[int, Way], Refusal | None] = {}
        self.bodies: Mapping[int, int] = {}  # where kprobes go behind the entries
        # Functions whose execution is a control flow: trampolines see each entry with its return, and all that runs
        # there must run in the same one, in order.
        self.flow_places: set[int] = set()
        self.under_lock: Function | None = None  # one such function that the aspect is woven into

    def plan(self) -> None:
        """Add the probes and join points to the planner's."""
        everything = [(m.advice, match) for m in self.planner.matched.advice for match in m.executions]
        self.under_lock = next((f for f in self._woven_into() if f is not None and runs_under_lock(f)), None)
        todo = [(advice, match) for advice, match in everything if not _in_program(match)]
        if len(todo) < len(everything):
            from klasy.match.programs import plan_executions

            plan_executions(self.planner.probes, [each for each in everything if _in_program(each[1])], self.planner)
        calls = [one for one in todo if one[1].shadow.kind is JoinPointKind.SYSCALL]
        if calls:
            from klasy.match.syscallplan import plan_syscalls

            todo = [one for one in todo if one[1].shadow.kind is not JoinPointKind.SYSCALL]
            self.planner.syscalls = plan_syscalls(self, calls)
        decided = [one for one in todo if one[0].kind is AdviceKind.AROUND]
        if self.planner.matched.flows is not None:
            from klasy.match.cflow import whole_executions

            todo, self.flow_places = whole_executions(self, todo)
        probed = [(a.kind, match.shadow.address) for a, match in todo if a.kind is not AdviceKind.AROUND]
        places = {place for place in probed if place[1] not in self.flow_places}
        many, force = len(places) > MOST_TRAMPOLINES, self.options.force
        self.count = len(places)
        self.multi = many and force not in ("kprobe", "body") and self.options.features.kprobe_multi
        self.trampolines = force == "fentry" or (not many and force not in ("kprobe", "body"))
        writers = self._plan_returns(todo)
        if force == "body" or (many and not self.multi and not self.trampolines and force != "kprobe"):
            entered = [match.shadow.function for advice, match in todo if advice.kind is AdviceKind.BEFORE]
            self.bodies = self.kernel.bodies([f for f in dict.fromkeys(entered) if f and f.address not in writers])
        before = [one for one in todo if one[0].kind is AdviceKind.BEFORE]
        if not self.trampolines and len(before) > MANY:
            from klasy.match.many import plan_befores

            before = plan_befores(self, before, writers)
        for advice, match in before:
            self._before(advice, match, writers)
        for advice, match in decided:
            self._around(advice, match)

    def _woven_into(self) -> Iterator[Function | None]:
        """The functions that an aspect is woven into, and those that it sees called: some more than once."""
        for matched in self.planner.matched.advice:
            yield from [match.shadow.function for match in matched.executions]
            yield from [match.shadow.function for match in matched.places.values()]
            yield from [match.function for match in matched.events]
            yield from dict.fromkeys([match.shadow.callee for match in matched.calls])
            if type(matched.callees) is dict:  # of all that there are it is not to make objects
                yield from matched.callees.values()

    def why_not_nested(self) -> str:
        """Why no program of the aspect may run inside another one, as the user is told; where that is so."""
        assert self.under_lock is not None
        return f"its program would run inside others, and what klasy keeps is locked in {self.under_lock.name}"

    def trampoline_refusal(self, function: Function, way: Way) -> Refusal | None:
        """Why a BPF trampoline cannot be put on a function, or None."""
        features = self.options.features
        if self.under_lock is not None:
            return Refusal("under-lock", self.why_not_nested())
        if not features.fentry:
            return Refusal("no-fentry", "this kernel has no BPF trampolines")
        blacklisted = self.entry_refusal(function, Way.KPROBE)
        if blacklisted is not None and blacklisted.code == "blacklist":
            return blacklisted  # trampolines would get there: into what the handling of every probe goes through
        refusal = self.kernel.refusal(function.address, function, way)
        if refusal is not None and refusal.code != _TOO_MANY:
            return refusal
        if function.btf is not None and function.proto is not None:
            # The kernel's model takes the least that any kernel saves; what this one does was tried.
            words = argument_words(function.btf, function.btf.proto(function.proto))
            if not features.trampoline_saves(words):
                most = features.max_trampoline_arg_registers
                reason = f"its parameters take {words} registers, and a BPF trampoline saves {most} here"
                return Refusal(_TOO_MANY, reason)
        return None

    def entry_refusal(self, function: Function, way: Way) -> Refusal | None:
        """Why a kprobe or kretprobe cannot be put on a function, or None. Asked once."""
        key = function.address, way
        if key not in self._kprobe:
            self._kprobe[key] = self.kernel.refusal(function.address, function, way)
        return self._kprobe[key]

    def know_entries(self, refusals: Mapping[int, Refusal | None]) -> None:
        """Take over what the kernel's model says of kprobes at the entries of functions, by address."""
        self._kprobe.update({(address, Way.KPROBE): refusal for address, refusal in refusals.items()})

    # --- before

    def _before(self, advice: Advice, match: Match, writers: set[int]) -> None:
        function = match.shadow.function
        assert function is not None
        address = function.address
        refusal: Refusal | None = None
        if self.trampolines or address in self.flow_places:
            refusal = self.trampoline_refusal(function, Way.FENTRY)
            if refusal is None:
                self._fentry(advice, match, function, "no trap: a BPF trampoline at the function's entry")
                return
        kprobe = self.entry_refusal(function, Way.KPROBE)
        body = self.bodies.get(address)
        if kprobe is None and body is not None:
            self._add(BODY, advice, match, "kprobe", self.why_body(), address=body)
        elif kprobe is None:
            mechanism = Mechanism.KPROBE_MULTI if self.multi else Mechanism.KPROBE
            writes = MarkUse.WRITE if address in writers else MarkUse.NONE
            kind = Kind(mechanism, Context.ENTRY, Locator.ADDRESS, writes, MarkRole.ENTRY)
            self._add(kind, advice, match, mechanism.value, self.why_kprobe("fentry", refusal))
        elif not self.trampolines and self.trampoline_refusal(function, Way.FENTRY) is None:
            self._fentry(advice, match, function, f"a kprobe is not possible here: {kprobe.reason}")
        else:
            self.planner.unreached(advice, match.shadow, kprobe)

    def _fentry(self, advice: Advice, match: Match, function: Function, why: str) -> None:
        kind = Kind(Mechanism.FENTRY, Context.FENTRY, Locator.FIXED, group=function.address)
        self._add(kind, advice, match, "fentry", why)

    def why_body(self) -> str:
        """Why probes are put behind the entries, as the user is told."""
        return f"{self.count} places in one probe; {_BEHIND}"

    def why_kprobe(self, other: str, refusal: Refusal | None) -> str:
        """Why kprobes and not trampolines are taken, as the user is told."""
        if refusal is not None:
            return f"{other} is not possible here: {refusal.reason}"
        if self.options.force == "kprobe":
            return "asked for"
        if self.count > MOST_TRAMPOLINES:
            return f"{self.count} places in one probe; {other} would need a program for each"
        return f"{other} was not asked for"

    def _add(
        self, kind: Kind, advice: Advice, match: Match, mechanism: str, why: str, *, address: int | None = None
    ) -> None:
        """Add a join point, reached at its function's entry if at no other ``address``."""
        probes, function = self.planner.probes, match.shadow.function
        assert function is not None
        place = function.address if address is None else address
        draft = probes.point(kind, place, function)
        arm = probes.arm(draft, advice, match.outcome)
        arm.by_address[place] = probes.joinpoint(advice, match.shadow, mechanism, why)

    # --- around

    def _around(self, advice: Advice, match: Match) -> None:
        from klasy.match import around

        function = match.shadow.function
        assert function is not None
        refusal = around.refusal(function, self.options.features) or self.trampoline_refusal(function, Way.FENTRY)
        if refusal is not None:
            self.planner.unreached(advice, match.shadow, refusal)
            return
        kind = Kind(Mechanism.FMOD_RET, Context.FENTRY, Locator.FIXED, group=function.address)
        self._add(kind, advice, match, "fmod_ret", "it decides whether the function runs")

    # --- after

    def _plan_returns(self, todo: list[tuple[Advice, Match]]) -> set[int]:
        """Plan the after advice; the entries where marks must be written."""
        writers: set[int] = set()
        for advice, match in todo:
            if advice.kind is AdviceKind.AFTER:
                function = match.shadow.function
                assert function is not None
                if self._after(advice, match, function):
                    writers.add(function.address)
                    mechanism = Mechanism.KPROBE_MULTI if self.multi else Mechanism.KPROBE
                    kind = Kind(mechanism, Context.ENTRY, Locator.ADDRESS, MarkUse.WRITE, MarkRole.ENTRY)
                    self.planner.probes.point(kind, function.address, function)
        return writers

    def _after(self, advice: Advice, match: Match, function: Function) -> bool:
        """Plan one after advice at one function; whether it needs a mark from the entry."""
        refusal = self.trampoline_refusal(function, Way.FEXIT)
        if refusal is not None and refusal.code == "noreturn":
            self.planner.unreached(advice, match.shadow, refusal)
            return False
        if (self.trampolines or function.address in self.flow_places) and refusal is None:
            self._fexit(advice, match, function, "no trap: a BPF trampoline around the function")
            return False
        marked = takes_arguments(match.outcome)
        kprobe = self.entry_refusal(function, Way.KRETPROBE)
        if kprobe is None and marked:
            kprobe = self.entry_refusal(function, Way.KPROBE) or beyond_marks(match.outcome)
        if kprobe is None:
            mechanism = Mechanism.KRETPROBE_MULTI if self.multi else Mechanism.KRETPROBE
            kind = Kind(mechanism, Context.RETURN, Locator.ADDRESS, MarkUse.NONE, MarkRole.ENTRY)
            if marked:
                kind = Kind(mechanism, Context.RETURN, Locator.ADDRESS, MarkUse.TAKE, MarkRole.ENTRY)
            self._add(kind, advice, match, mechanism.value, self.why_kprobe("fexit", refusal))
            return marked
        if refusal is None:
            self._fexit(advice, match, function, f"a kretprobe is not possible here: {kprobe.reason}")
        else:
            self.planner.unreached(advice, match.shadow, kprobe)
        return False

    def _fexit(self, advice: Advice, match: Match, function: Function, why: str) -> None:
        kind = Kind(Mechanism.FEXIT, Context.FEXIT, Locator.FIXED, group=function.address)
        self._add(kind, advice, match, "fexit", why)
