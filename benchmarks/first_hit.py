"""From the start of the command to the first logged hit, for one execution aspect that reads a struct member.

klasy against bpftrace, both ways that bpftrace has to read the member. In the guest:

    klasy lab -- .venv/bin/python benchmarks/first_hit.py

The aim: at most a fifth of bpftrace's time. "cold" is klasy without its caches, as in the first use after a boot.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from common import KLASY, background, measure, table, until_first_line

ASPECT = """
aspect first_hit {
    pointcut execution("ssize_t vfs_read(struct file *file, ..)");
    before(struct file *file) { log("flags %x", file->f_flags); }
}
"""
KFUNC = 'kfunc:vfs_read { printf("flags %x\\n", args->file->f_flags); }'
KPROBE = 'kprobe:vfs_read { printf("flags %x\\n", ((struct file *)arg0)->f_flags); }'

# One read each 2 ms: often enough to be met at once, seldom enough to leave the processor to what is measured.
TRAFFIC = """
import os, time
fd = os.open("/proc/self/stat", os.O_RDONLY)
while True:
    os.pread(fd, 10, 0)
    time.sleep(0.002)
"""
CACHES = [Path("/var/cache/klasy"), Path("~/.cache/klasy").expanduser()]


def is_hit(line: str) -> bool:
    """bpftrace says 'Attaching 1 probe...' first."""
    return "flags " in line


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder, background(TRAFFIC):
        aspect = Path(folder) / "first_hit.asp"
        aspect.write_text(ASPECT)
        weave = [KLASY, "weave", "-f", str(aspect)]

        def cold() -> float:
            for cache in CACHES:
                shutil.rmtree(cache, ignore_errors=True)
            return until_first_line(weave, is_hit)

        times = measure(
            rounds,
            {
                "bpftrace kfunc": lambda: until_first_line(["bpftrace", "-B", "line", "-e", KFUNC], is_hit),
                "bpftrace kprobe": lambda: until_first_line(["bpftrace", "-B", "line", "-e", KPROBE], is_hit),
                "klasy, cold": cold,
                "klasy": lambda: until_first_line(weave, is_hit),
            },
        )
    fastest = min(("bpftrace kfunc", "bpftrace kprobe"), key=lambda name: sorted(times[name])[len(times[name]) // 2])
    table("start to first logged hit of execution(vfs_read), reading file->f_flags", times, fastest)


if __name__ == "__main__":
    main()
