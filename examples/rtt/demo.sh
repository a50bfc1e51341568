#!/bin/sh
# Weaves rtt.asp, sends some data over the loopback interface, and shows what was kept. As root:
#     klasy lab -- sh examples/rtt/demo.sh
set -e
cd "$(dirname "$0")"
ip link set lo up 2>/dev/null || ifconfig lo up
klasy weave rtt.asp
python3 transfer.py
klasy stat rtt
klasy unweave rtt
