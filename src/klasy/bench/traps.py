"""The founding experiment: what TCP over a virtual Ethernet loses by traps on the way of each packet.

KLASY's paper counted traps on the path of ``ip_output`` and saw no loss up to 300, on a link that was slower than its
processors. Here the same is measured at a tenth of what the sender can send, which is how that link was, and as fast
as it goes, where nothing hides what a trap costs; and with trampolines (fentry), which do not trap.

The path is what each packet passes between the sender's ``ip_output`` and the receiver's socket, on one processor. An
aspect on all its branches is woven first, to find those that each packet passes exactly once; of these aspects take as
many as are asked for, by ``at(FUNCTION+OFFSET)``. Each is a call or a jump, or a short instruction right before one,
none of which the kernel can make into a jump (an optimised kprobe): so each hit is a trap. How many hits there were for
each packet stands beside each figure. Of functions there are fewer: where more programs are asked for, several
aspects are woven on each.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from klasy.bench import own, peers
from klasy.bench.measure import Limit, Missing, Report, Variant, rows, run, tell
from klasy.bench.veth import VethLoad
from klasy.errors import SystemRefusal
from klasy.kernel import arch_x86_64 as arch
from klasy.kernel import insn_x86_64 as insn
from klasy.kernel.live import running_kernel
from klasy.kernel.model import Clone, Way
from klasy.plain import NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klasy.backend.artifact import Artifact
    from klasy.bench.measure import Row, Scale
    from klasy.kernel.model import Function

COUNTS = (0, 1, 10, 50, 100, 300, 1000)
MOST_OF_PEERS = 300  # bpftrace lets go of its probes one by one, at a tenth of a second each in an emulated machine
SHARE = 10  # of what can be sent: the speed of the slow link
SLOW, FAST, FENTRY = f"kprobes, at 1/{SHARE} of the speed", "kprobes", "fentry"
PEER = "bpftrace, kprobes"
LIMIT = Limit("up to 300, slow", least=0.95)
PATH = """
    ip_output nf_hook_slow apparmor_ip_postroute ip_finish_output __ip_finish_output ip_finish_output2 __dev_queue_xmit
    netdev_core_pick_tx validate_xmit_skb netif_skb_features passthru_features_check skb_network_protocol
    skb_csum_hwoffload_help validate_xmit_xfrm dev_hard_start_xmit veth_xmit skb_clone_tx_timestamp __dev_forward_skb
    __local_bh_enable_ip __dev_forward_skb2 skb_scrub_packet eth_type_trans __netif_rx netif_rx_internal
    enqueue_to_backlog __netif_receive_skb __netif_receive_skb_one_core __netif_receive_skb_core ip_rcv ip_rcv_core
    ip_rcv_finish
    ip_rcv_finish_core tcp_v4_early_demux __inet_lookup_established inet_ehashfn ip_local_deliver
    ip_local_deliver_finish ip_protocol_deliver_rcu raw_local_deliver tcp_v4_rcv tcp_inbound_md5_hash
    tcp_parse_md5sig_option tcp_inbound_hash tcp_filter sk_filter_trim_cap security_sock_rcv_skb
    apparmor_socket_sock_rcv_skb bpf_lsm_socket_sock_rcv_skb tcp_v4_fill_cb
"""
"""Functions that each packet passes; those that a kernel has not, or not on the way, drop out."""
_ONCE = 0.03  # how far the hits of what each packet passes may be from its packets
_ALTERNATIVES = 400  # of one advice's pointcut
_LONG = 5  # bytes: an instruction as long as this may be made into a jump
_SECONDS = 1.0  # of a sample
_WARM = 0.2
_LEAST_LOOK, _LOOK = 40, 3  # branches looked at, beyond and for each join point wanted
_MOST_ON_A_FUNCTION = 30  # programs on one trampoline: the kernel takes 38


class Place(NamedTuple):
    """An instruction on the way."""

    function: Function
    offset: int

    @property
    def address(self) -> int:
        """Where it is."""
        return self.function.address + self.offset

    @property
    def text(self) -> str:
        """As tracers name it."""
        return f"{self.function.name}+{self.offset}"


class _Way(NamedTuple):
    """What each packet passes once: instructions, and functions that a trampoline can be put on."""

    places: list[Place]
    functions: list[Function]


def measure(scale: Scale) -> Report:
    """Run the experiment. ``scale.only`` names its parts, by words of a group and a number."""
    seconds = scale.seconds or _SECONDS

    def wanted(group: str, number: int) -> bool:
        return not number or scale.wanted(f"{group}, {number},")

    groups = [group for group in (SLOW, FAST, FENTRY, PEER) if any(wanted(group, n) for n in COUNTS if n)]
    with VethLoad() as load:
        way = _explored(load, max((n for n in COUNTS for group in groups if wanted(group, n)), default=0))
        full = max(load.over(seconds).mbit for _ in range(3))
        bench = _Bench(load, way, seconds, full / SHARE)
        variants = [each for each in bench.variants() if each.group in groups and wanted(each.group, int(each.name))]
        samples, missing = run(variants, scale)
    found = [replace(row, note=bench.notes.get((row.group, row.name), "")) for row in rows(variants, samples)]
    notes = (
        f"{len(way.places)} instructions and {len(way.functions)} functions are passed once by each packet; "
        f"not woven: {full:.0f} Mbit/s",
    )
    title = "TCP over a pair of virtual Ethernet devices, by join points on the way of each packet"
    return Report(
        "traps", title, "Mbit/s", tuple(compared(found)), missing, (LIMIT,), notes, "join points on the way of a packet"
    )


def compared(found: list[Row]) -> list[Row]:
    """The rows with their ratio to that of their group that has nothing woven."""
    bare = {row.group: row.median for row in found if row.name == "0"}
    result = []
    for row in found:
        ratios = {"of unwoven": row.median / bare[row.group]} if bare.get(row.group) else {}
        if ratios and row.group == SLOW and 0 < int(row.name) <= 300:
            ratios[LIMIT.name] = ratios["of unwoven"]
        result.append(replace(row, ratios=ratios))
    return result


class _Bench:
    """The variants. ``notes``: hits for each packet, by group and name."""

    def __init__(self, load: VethLoad, way: _Way, seconds: float, slow: float) -> None:
        self._load = load
        self._way = way
        self._seconds = seconds
        self._slow = slow
        self._built: dict[tuple[str, int], list[Artifact]] = {}
        self._packets = 0  # sent so far
        self.notes: dict[tuple[str, str], str] = {}

    def variants(self) -> list[Variant]:
        """All of them; where fewer are to be had than are asked for, as many as there are."""
        places, programs = len(self._way.places), len(self._way.functions) * _MOST_ON_A_FUNCTION
        found = []
        for group, rate in ((SLOW, self._slow), (FAST, None)):
            found += [self._variant(group, n, rate) for n in _up_to(places)]
        found += [self._variant(FENTRY, n, None) for n in _up_to(programs)]
        numbers = [n for n in _up_to(places) if n <= MOST_OF_PEERS]
        found += [Variant(PEER, str(n), "peer", lambda n=n: self._bpftrace(n)) for n in numbers]  # type: ignore[misc]
        return found

    def _variant(self, group: str, number: int, rate: float | None) -> Variant:
        role = "klasy" if number else "reference"
        return Variant(group, str(number), role, lambda: self._woven(group, number, rate))

    @contextmanager
    def _woven(self, group: str, number: int, rate: float | None) -> Iterator[Callable[[], float]]:
        if not number:
            yield self._sampler(rate)
            return
        artifacts = self._artifacts(FENTRY if group == FENTRY else FAST, number)
        with own.all_woven(artifacts) as made:

            def hits() -> int:
                return sum(count.hits for aspect in made for count in aspect.counts())

            before, packets = hits(), self._packets
            yield self._sampler(rate)
            passed = (hits() - before) / (self._packets - packets)
            self.notes[group, str(number)] = f"{passed:.1f} hits a packet"
            if passed < 0.9 * number:
                raise SystemRefusal(f"{group}: of {number} join points only {passed:.1f} were hit by each packet")

    def _sampler(self, rate: float | None) -> Callable[[], float]:
        def sent(seconds: float) -> float:
            done = self._load.over(seconds, rate)
            self._packets += done.packets
            return done.mbit

        sent(_WARM)
        return lambda: sent(self._seconds)

    def _artifacts(self, kind: str, number: int) -> list[Artifact]:
        known = self._built.get((kind, number))
        if known is None:
            tell(f"{kind}: compiling {number}")
            known = self._fentry(number) if kind == FENTRY else [own.aspect(_at(self._way.places[:number]))]
            self._built[kind, number] = known
        return known

    def _fentry(self, number: int) -> list[Artifact]:
        """Aspects with so many programs together, spread evenly over the functions."""
        functions = self._way.functions
        made: list[Artifact] = []
        while number > 0:
            body = " || ".join(f"execution({function.name})" for function in functions[:number])
            made.append(own.aspect(f"pointcut {body}; before() {{ }}", force="fentry", name=f"{own.NAME}_{len(made)}"))
            number -= len(functions)
        return made

    @contextmanager
    def _bpftrace(self, number: int) -> Iterator[Callable[[], float]]:
        peers.require("bpftrace")
        if not number:
            yield self._sampler(None)
            return
        plain = [place for place in self._way.places if "." not in place.function.name]  # it knows no others
        probes = ",".join(f"kprobe:{place.text}" for place in plain[:number])
        command = ["bpftrace", "--unsafe", "-e", f"{probes} {{ @ = count(); }}"]
        with peers.tool(command, lambda process: peers.perf_events(process) >= number) as running:
            yield self._sampler(None)
            peers.end_tool(running.process)
            if "@:" not in running.output.read_text(errors="replace"):
                raise Missing("bpftrace counted nothing")


def _up_to(most: int) -> list[int]:
    """The numbers that are measured where at most so many can be."""
    return list(dict.fromkeys(min(number, most) for number in COUNTS))


def _at(places: Sequence[Place]) -> str:
    """Advice that counts at instructions."""
    parts = (places[at : at + _ALTERNATIVES] for at in range(0, len(places), _ALTERNATIVES))
    return "\n".join(f"before(): {_either([f'at({place.text})' for place in part])} {{ }}" for part in parts)


def _either(texts: Sequence[str]) -> str:
    """All alternatives, as a tree: a long chain is nested too deeply."""
    middle = len(texts) // 2
    return texts[0] if len(texts) == 1 else f"({_either(texts[:middle])} || {_either(texts[middle:])})"


# --- which instructions each packet passes --------------------------------------------------------------------------


def _explored(load: VethLoad, most: int) -> _Way:
    """Weave an aspect on all branches of the path, see which are hit once by each packet, and what is right before.

    Where at most so many join points are wanted only some of the path is looked at.
    """
    branches, entries = _branches_of_path()
    del branches[_LEAST_LOOK + _LOOK * most :]
    tell(f"looking which of {len(branches)} branches each packet passes once")
    once = _once(load, [place for place, _ in branches], entries)
    candidates = [place for place, short in branches if place.address in once for place in (*short, place)]
    tell(f"and which of {len(candidates)} instructions")
    confirmed = _once(load, candidates, entries)
    places = []
    for branch, short in branches:
        if branch.address in confirmed:
            # From one that does not fit on, what is before it is left out: then it could be made into a jump.
            near = next((n for n, place in enumerate(reversed(short)) if place.address not in confirmed), len(short))
            places += [*short[len(short) - near :], branch]
    kernel = running_kernel()
    functions = [place.function for place in entries if place.address in confirmed]
    possible = [f for f in functions if kernel.refusal(f.address, f, Way.FENTRY) is None]
    return _Way(places, possible)


def _branches_of_path() -> tuple[list[tuple[Place, list[Place]]], list[Place]]:
    """The calls and jumps of the path, each with the short instructions right before it; and of each function the
    instruction behind its hook for tracing, that of ``ip_output`` first."""
    kernel = running_kernel()
    branches, entries = [], []
    for name in PATH.split():
        for function in kernel.functions(name):
            code = kernel.text(function.address, function.size)
            hook = arch.ftrace_offset(code)
            if hook is None or function.clone is Clone.COLD or function.duplicates > 1:
                continue
            behind = hook[0] + arch.FENTRY_CALL_BYTES
            entries.append(Place(function, behind))
            short: list[Place] = []
            for offset, length in insn.instructions(code, behind, function.size):
                place = Place(function, offset)
                if _is_branch(code, offset):
                    branches.append((place, short))
                    short = []
                else:
                    short = [*short, place] if length < _LONG else []
    return branches, entries


def _once(load: VethLoad, places: Sequence[Place], entries: Sequence[Place]) -> set[int]:
    """The addresses that each packet passes once: as often as the first of the entries."""
    artifact = own.aspect(_at(list(dict.fromkeys([*entries, *places]))))
    addresses = [joinpoint.shadow.address for joinpoint in artifact.plan.joinpoints]
    with own.woven(artifact) as made:
        load.over(_WARM)
        first = [count.hits for count in made.counts()]
        load.over(_SECONDS)
        last = [count.hits for count in made.counts()]
    hits = {address: b - a for address, a, b in zip(addresses, first, last, strict=True)}
    packets = hits[entries[0].address]
    if not packets:
        raise SystemRefusal("no packet passed ip_output")
    return {address for address, number in hits.items() if abs(number - packets) <= _ONCE * packets}


def _is_branch(code: bytes, offset: int) -> bool:
    """Whether an instruction is a direct call or jump, conditional ones included."""
    at = insn.opcode_offset(code, offset)
    opcode = code[at]
    far = opcode == 0x0F and at + 1 < len(code) and 0x80 <= code[at + 1] < 0x90
    return far or opcode in (0xE8, 0xE9, 0xEB) or 0x70 <= opcode < 0x80
