"""Varied work for the kernel: each scenario keeps objects open for the collector to watch, and does much with them.

A scenario's ``step`` uses the objects it has shown, from many sides, and leaves them open; ``churn`` does away with
them and makes new ones, which the kernel mostly puts in the same slots of its slabs. Every action may fail: a kernel
without a feature only sees less traffic.
"""

from __future__ import annotations

from oracle.scenario import Scenario
from oracle.traffic_datagrams import Datagrams, Device
from oracle.traffic_files import Ext4, Files
from oracle.traffic_pipes import Pipes
from oracle.traffic_tasks import Tasks
from oracle.traffic_tcp import Tcp, Tcp6

SCENARIOS: dict[str, type[Scenario]] = {
    "tcp": Tcp, "tcp6": Tcp6, "datagrams": Datagrams, "device": Device, "tasks": Tasks, "files": Files, "ext4": Ext4,
    "pipes": Pipes,
}  # fmt: skip
