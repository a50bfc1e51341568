#!/bin/sh
# Weaves follow.asp, sends a segment that waits in a socket, and shows who looks at its length. As root:
#     klasy lab -- sh examples/follow/demo.sh
# A "set" in __alloc_skb that changes nothing is no write to this packet: the lab's emulator takes an unaligned store near by for one.
set -e
cd "$(dirname "$0")"
ip link set lo up 2>/dev/null || ifconfig lo up
klasy weave follow.asp
python3 segment.py
klasy log follow
klasy joinpoints follow
klasy status --json | grep -E '"(armed_after_ns|first_cpu_armed_after_ns)"'
klasy unweave follow
