"""Measures what klasy costs, on the machine it runs on: ``klasy bench NAME``.

Each module of :data:`EXPERIMENTS` answers one question by variants of one load: without anything, under klasy, under
what else does the same. The variants take turns within one run, each round beginning with another one, so that a drift
of the machine hits all alike; what is told are medians, how far the rounds lie apart, and ratios. The absolute times
of an emulated machine mean nothing.

Not here: what is a matter of one command's start, and of single aspects. ``benchmarks/`` of a checkout has scripts.
"""

from __future__ import annotations

EXPERIMENTS = {
    "hits": "what a hit costs, by mechanism: klasy, a program written by hand, an empty one, other tools",
    "syscalls": "what a program loses whose system calls are traced, with strings and with stacks: klasy, other tools",
    "unwoven": "that what is not woven costs nothing",
    "log": "events a second from a hot join point into a file, none lost: text, JSON, raw, and other tools",
    "weaving": "how long weaving and unweaving take, for 1 to 4,000 join points, against bpftrace",
    "traps": "what TCP loses by 0 to 1000 traps on the way of each packet, as the founding experiment asked",
}
