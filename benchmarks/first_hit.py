"""From the start of the command to the first logged hit, for one execution aspect that reads a struct member.

klasy against bpftrace, both ways that bpftrace has to read the member. In the guest:

    klasy lab -- .venv/bin/python benchmarks/first_hit.py

The aim: at most a fifth of bpftrace's time, for the first aspect. The second reads a member of another struct. klasy
keeps the kernel's symbols and where its types lie, by the kernel's build: "cold" is without that, as in the first use
of all with a kernel. It also keeps what it built of an aspect: "again" is an aspect that was woven since the kernel
was booted (as bpftrace's always are here, which keeps nothing), "new" one that klasy has never seen, "checked" one
that klasy check has just been run on. A bare start of Python is what it can never go below.

    benchmarks/first_hit.py [ROUNDS] [--in-memory]

--in-memory: with the files that either opens in the guest's memory, as they would be on a machine that has been used
for a while; else each time that one is opened the host is asked for it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import CACHES, KLASY, background, bring_in, measure, table, timed

from klasy.bench import weaving
from klasy.bench.peers import heed_interrupts

ASPECT = """
aspect first_hit {
    pointcut execution("ssize_t vfs_read(struct file *file, ..)");
    before(struct file *file) { log("flags %x", file->f_flags); }
}
"""
KFUNC = 'kfunc:vfs_read { printf("flags %x\\n", args->file->f_flags); }'
KPROBE = 'kprobe:vfs_read { printf("flags %x\\n", ((struct file *)arg0)->f_flags); }'

SECOND = """
aspect second {
    pointcut execution("void consume_skb(struct sk_buff *skb)");
    before(struct sk_buff *skb) { log("flags %x", skb->protocol); }
}
"""
SECOND_KPROBE = 'kprobe:consume_skb { printf("flags %x\\n", ((struct sk_buff *)arg0)->protocol); }'

PYTHON = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]

# One hit of each each 2 ms: often enough to be met at once, seldom enough to leave the processor to what is measured.
TRAFFIC = """
import os, socket, time
fd = os.open("/proc/self/stat", os.O_RDONLY)
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
while True:
    os.pread(fd, 10, 0)
    one.send(b"x")
    other.recv(1)
    time.sleep(0.002)
"""


def until_hit(command: list[str]) -> float:
    """Seconds from the start of a command to its first line of a hit: bpftrace says 'Attaching 1 probe...' first."""
    return weaving.timed(command, lambda line: "flags " in line).first


def main() -> None:
    """Measure and print."""
    numbers = [word for word in sys.argv[1:] if word.isdecimal()]
    rounds = int(numbers[0]) if numbers else 5
    with tempfile.TemporaryDirectory() as folder, background(TRAFFIC):
        aspects = []
        for name, text in (("first_hit", ASPECT), ("second", SECOND)):
            aspects.append(Path(folder) / f"{name}.asp")
            aspects[-1].write_text(text)
        weave, weave_second = ([KLASY, "weave", "-f", str(file)] for file in aspects)

        def cold() -> float:
            for cache in CACHES:
                shutil.rmtree(cache, ignore_errors=True)
            return until_hit(weave)

        def forget() -> None:
            for cache in CACHES:
                for kept in cache.glob("artifact-*"):
                    kept.unlink()

        def new(command: list[str]) -> float:
            forget()
            return until_hit(command)

        def checked() -> float:
            forget()
            subprocess.run([KLASY, "check", aspects[0]], check=True, stdout=subprocess.DEVNULL)
            return until_hit(weave)

        def printing(program: str) -> list[str]:
            return ["bpftrace", "-B", "line", "-e", program]

        def bpftrace(program: str) -> float:
            return until_hit(printing(program))

        if "--in-memory" in sys.argv[1:]:
            heed_interrupts()
            files = bring_in([printing(KFUNC), printing(KPROBE), weave, weave_second, PYTHON])
            print(f"{files} files brought into memory", file=sys.stderr)

        times = measure(
            rounds,
            {
                "bpftrace kfunc": lambda: bpftrace(KFUNC),
                "bpftrace kprobe": lambda: bpftrace(KPROBE),
                "klasy, cold": cold,
                "klasy, new": lambda: new(weave),
                "klasy, checked": checked,
                "klasy, again": lambda: until_hit(weave),
                "klasy, new, sk_buff": lambda: new(weave_second),
                "klasy, again, sk_buff": lambda: until_hit(weave_second),
                "bpftrace kprobe, sk_buff": lambda: bpftrace(SECOND_KPROBE),
                "bare Python": lambda: timed(PYTHON),
            },
        )
    fastest = min(("bpftrace kfunc", "bpftrace kprobe"), key=lambda name: sorted(times[name])[len(times[name]) // 2])
    table("start to first logged hit of execution(vfs_read), reading file->f_flags", times, fastest)


if __name__ == "__main__":
    main()
