"""Every function of the network stack that can be probed, woven at once, under load: counted rightly, and no harm done.

The functions are taken by what their names begin with. For a sample of them, some that traffic passes and some drawn at
random, klasy's counts are compared with those of kernel probes of the run's own. Those that klasy leaves out it names,
each with the reason.

A full run compiles on the host, for a snapshot of the guest's kernel.
"""

from __future__ import annotations

import marshal
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.inventory import KernelLog, inventory, memory, settled

from klasy.match.options import PlanOptions
from klasy.source import SourceFile
from klasy.weaver.build import build
from klasy.weaver.recipe import Recipe, from_data, recipe_of, to_data
from klasy.weaver.session import machine_of, weave
from klasy.weaver.unweave import unweave
from stress.account import Account, disagreements, reading
from stress.churn import busy_kernel

if TYPE_CHECKING:
    from klasy.kernel.image import KernelImage
    from klasy.kernel.snapshot import SnapshotKernel
    from klasy.weaver.counts import Count
    from stress import Figures

PREFIXES = [
    "udp", "tcp", "ip", "skb", "sk", "sock", "inet", "dev", "netdev", "netif", "napi", "neigh", "__skb", "__sk",
    "__sock", "__inet", "__dev", "__netif", "__napi", "__neigh", "__ip", "__tcp", "__udp", "net", "fib", "rt", "dst",
    "arp", "icmp", "igmp", "raw", "ipv4", "netlink", "__netlink", "rtnl", "rtnetlink", "unix", "packet", "qdisc",
    "__qdisc", "tc", "tcf", "sch", "pfifo", "nf", "__nf", "xfrm", "eth", "ethtool", "ethnl", "genl", "flow",
    "bpf_skb", "bpf_sock", "xdp", "page_pool", "scm", "gro", "ip6", "ipv6", "inet6", "fib6", "rt6", "udpv6",
    "tcp_v6", "icmpv6", "igmp6", "rawv6", "ndisc", "addrconf",
]  # fmt: skip
FULL, SMALL = len(PREFIXES), 1  # prefixes, of the first

SECONDS = 5.0  # under load; scaled down, less
SETTLE = 120.0
DRAWN = 12
PASSED = [
    "tcp_sendmsg", "tcp_recvmsg", "tcp_v4_rcv", "tcp_rcv_established", "tcp_write_xmit", "tcp_v4_do_rcv", "ip_rcv",
    "ip_output", "ip_local_deliver", "__ip_queue_xmit", "udp_sendmsg", "udp_recvmsg", "udp_rcv", "skb_clone",
    "skb_release_data", "sock_def_readable", "inet_sendmsg", "inet_recvmsg", "dev_hard_start_xmit",
    "__dev_queue_xmit", "netif_rx", "sk_free", "inet_release",
]  # fmt: skip


class Made(NamedTuple):
    """What is woven; of each join point its number and the function's name and address; what is left out, by reason."""

    recipe: Recipe
    points: list[tuple[int, str, int]]
    left_out: dict[str, int]


def _make(kernel: KernelImage, size: int, options: PlanOptions | None = None) -> Made:
    every = " || ".join(f"execution({prefix}_*)" for prefix in PREFIXES[:size])
    text = f"aspect network {{\n    count n;\n    before(): ({every}) && withinmodule(vmlinux) {{ n++; }}\n}}\n"
    (artifact,) = build(SourceFile("network.asp", text), kernel, options)
    plan = artifact.plan
    points = [(p.id, p.shadow.function.name, p.shadow.address) for p in plan.joinpoints if p.shadow.function]
    return Made(recipe_of(artifact), points, dict(Counter(each.reason for each in plan.unreached)))


def prepare(kernel: SnapshotKernel, size: int, _: int) -> Path:
    """On the host: compile for the guest's kernel; the file for :func:`run`."""
    from stress.host import WORK, features

    path = WORK / f"network-{kernel.release}-{size}"
    made = _make(kernel, size, PlanOptions(features(kernel)))
    with open(path, "wb") as file:
        marshal.dump((kernel.build_id, kernel.symbols[None].base, to_data(made.recipe), *made[1:]), file)
    return path


def run(size: int, seed: int, made: str | None = None) -> Figures:
    """The functions whose names begin with the first ``size`` prefixes."""
    from klasy.kernel.live import LiveKernel

    print(f"network: seed {seed}")
    kernel = LiveKernel()
    if made is None:
        recipe, points, left_out = _make(kernel, size)
    else:
        with open(made, "rb") as file:
            build_id, base, data, points, left_out = marshal.load(file)
        assert (build_id, base) == (kernel.build_id, kernel.symbols[None].base), f"made for another boot: {made}"
        recipe = from_data(data)
    rng = random.Random(seed)
    sample = [each for each in points if each[1] in PASSED]
    sample += rng.sample(points, min(DRAWN, len(points)))
    sample = sorted(set(sample), key=lambda each: each[2])
    log, nothing, free = KernelLog(), inventory(), memory()["MemAvailable"]
    with busy_kernel(), Account([address for _, _, address in sample]) as account:
        begun = time.monotonic()
        (aspect,) = weave([recipe], machine_of(kernel))
        weaving = time.monotonic() - begun
        print(f"    woven: {len(points)} functions in {weaving:.1f} s", flush=True)
        with aspect:

            def counts() -> list[Count]:
                every = aspect.counts()
                return [every[number] for number, _, _ in sample]

            before = aspect.counts()
            first = reading(account, counts)
            time.sleep(SECONDS if size == FULL else 1.0)
            last = reading(account, counts)
            after = aspect.counts()
            took = free - memory()["MemAvailable"]
        begun = time.monotonic()
        unweave([aspect.name])
        unweaving = time.monotonic() - begun
    wrong = [f"{sample[number][1]}: {what}" for number, what in disagreements(first, last)]
    assert not wrong, "\n".join(wrong)
    left = settled(lambda found: not found - nothing, SETTLE) - nothing
    assert not left, left.text()
    complaints = log.complaints()
    log.close()
    assert not complaints, complaints
    grown = [now.hits - then.hits for then, now in zip(before, after, strict=True)]
    compared = [now.hits - then.hits for then, now in zip(first.counts, last.counts, strict=True)]
    assert any(compared)
    return {
        "functions woven at once": len(points),
        "mechanisms": dict(Counter(hook.mechanism.value for hook in recipe.probes)),
        "left out, why": left_out,
        "functions that were hit, hits": f"{sum(map(bool, grown))}, {sum(grown)}",
        "missed, and said so": round(sum(now.part - then.part for then, now in zip(before, after, strict=True))),
        "compared, of them hit, their hits": f"{len(sample)}, {sum(map(bool, compared))}, {sum(compared)}",
        "counted wrongly": 0,
        "complaints of the kernel": 0,
        "left over": 0,
        "MB of memory while woven": took // 1024,
        "seconds to weave, to unweave": f"{weaving:.1f}, {unweaving:.1f}",
    }
