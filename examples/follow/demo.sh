#!/bin/sh
# Weaves follow.asp, sends a segment that waits in a socket, and shows who looks at its length. As root:
#     klasy lab -- sh examples/follow/demo.sh
set -e
cd "$(dirname "$0")"
ip link set lo up 2>/dev/null || ifconfig lo up
klasy weave follow.asp
python3 segment.py
klasy log follow
klasy joinpoints follow
klasy status --json | grep -E '"(armed_after_ns|first_cpu_armed_after_ns)"'
klasy unweave follow
