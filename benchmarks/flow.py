"""How long, and in how much memory, accesses of members are found: benchmarks/flow.py [--snapshot FILE] [-n N ..]

For each number of members, from nothing that is kept, then once more with what was. In the lab's guest without
``--snapshot``; a snapshot with all text (tests/gen/kernel_snapshot.py --all) measures this machine instead:

    klasy lab -- .venv/bin/python benchmarks/flow.py -n 1 10
    .venv/bin/python benchmarks/flow.py --snapshot 6.1.whole -n 1 10 100

Each run is a process of its own. The memory is what it and its workers hold together at the worst moment, as the kernel
accounts it (PSS: what several share counts once), looked at ten times a second. A run that takes more than a gigabyte,
or a second one that takes more than a second of a processor (a fresh process, which reads what the first one kept; told
on hardware only) fails. ``--whole``: every function, as for all members of all types.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

MEMBERS = """
tcp_sock.snd_cwnd sk_buff.len task_struct.prio inode.i_size file.f_pos sock.sk_rcvbuf dentry.d_name mm_struct.total_vm
tcp_sock.rcv_nxt net_device.mtu tcp_sock.snd_ssthresh tcp_sock.snd_una tcp_sock.copied_seq tcp_sock.write_seq
tcp_sock.srtt_us tcp_sock.mss_cache tcp_sock.packets_out tcp_sock.retrans_out tcp_sock.sacked_out tcp_sock.lost_out
sk_buff.data_len sk_buff.data sk_buff.head sk_buff.protocol sk_buff.dev sk_buff.truesize sk_buff.priority sk_buff.mark
sk_buff.ip_summed sk_buff.users sk_buff.tail sk_buff.end sock.sk_sndbuf sock.sk_wmem_queued sock.sk_forward_alloc
sock.sk_err sock.__sk_common.skc_flags sock.__sk_common.skc_prot sock.sk_socket sock.sk_rcvtimeo sock.sk_sndtimeo
sock.sk_mark sock.sk_priority task_struct.flags task_struct.mm task_struct.pid task_struct.tgid task_struct.comm
task_struct.signal task_struct.cred task_struct.exit_state task_struct.exit_code task_struct.files task_struct.fs
task_struct.nsproxy task_struct.policy task_struct.static_prio task_struct.normal_prio task_struct.start_time
task_struct.parent task_struct.utime task_struct.stime task_struct.on_cpu task_struct.on_rq task_struct.wake_cpu
task_struct.ptrace inode.i_mode inode.i_uid inode.i_gid inode.i_flags inode.i_sb inode.i_ino inode.i_blocks
inode.i_state inode.i_count inode.i_mapping inode.i_op inode.i_fop inode.i_rdev inode.i_nlink inode.i_bytes
file.f_flags file.f_mode file.f_count file.f_inode file.f_op file.private_data file.f_mapping file.f_cred file.f_owner
dentry.d_flags dentry.d_inode dentry.d_parent dentry.d_sb mm_struct.pgd mm_struct.mm_users mm_struct.mm_count
mm_struct.start_code mm_struct.brk mm_struct.stack_vm net_device.flags net_device.ifindex net_device.features
""".split()  # noqa: SIM905  # a hundred names are read more easily so


MOST_MEMORY = 1000  # MB
MOST_SECONDS = 1.0  # of what was asked before


def one(snapshot: str | None, names: list[str], whole: bool, debug_root: str | None) -> None:
    """What the process of one measurement does: ask, and say what it took."""
    from klasy.errors import KlasyError
    from klasy.flow.index import Index
    from klasy.flow.sites import kernel_member
    from klasy.kernel.live import running_kernel
    from klasy.kernel.snapshot import SnapshotKernel

    kernel = SnapshotKernel.load(snapshot) if snapshot else running_kernel()
    if debug_root:
        kernel.seek_debug_info(debug_root)
    if snapshot:  # decompressing is no part of the measurement
        for module in kernel.symbols:
            kernel.object_text(module)
    members = []
    for name in names:
        try:
            members.append(kernel_member(kernel, *name.split(".", 1)))
        except KlasyError as error:
            print(f"{name}: {error}", file=sys.stderr)
    begun = time.process_time()
    started = time.perf_counter()
    found = Index(kernel).accesses(members, whole=whole)
    seconds = time.perf_counter() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(used.ru_utime + used.ru_stime for used in usage) - begun
    print(
        f"{len(members):4} members {seconds:8.2f} s ({processor:.2f} s of processors)"
        f"  {found.functions:6} of {found.of} functions {len(found.accesses):6} sites {found.untyped:6} untyped",
        flush=True,
    )


def family(pid: int) -> list[int]:
    """A process and what descends from it."""
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in file.read().split():
                    found += family(int(child))
    except OSError:
        pass  # it ended
    return found


def held(pid: int) -> float:
    """MB that a process and its children hold together."""
    total = 0
    for each in family(pid):
        try:
            with open(f"/proc/{each}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            continue
    return total / 1024


def run(command: list[str], folder: str) -> tuple[float, float]:
    """Run one measurement: the most memory that was held, in MB, and the seconds of processors that it says it took."""
    environment = {**os.environ, "KLASY_CACHE": folder}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        most = 0.0
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.1)
        assert process.stdout is not None
        said = process.stdout.read().strip()
    if process.returncode:
        raise SystemExit(f"{command} failed")
    print(f"{said}  {most:.0f} MB in all", flush=True)
    return most, float(said.split("(")[1].split()[0])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot")
    parser.add_argument("-n", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--names", nargs="+", help="these members, in the place of a number of them")
    parser.add_argument("--debug-root", help="with debug information beneath this folder")
    parser.add_argument("--whole", action="store_true", help="every function, once, instead")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.snapshot, arguments.names, arguments.whole, arguments.debug_root)
        return
    print(f"{len(os.sched_getaffinity(0))} CPUs, kernel {arguments.snapshot or os.uname().release}")
    over = []
    for names in [arguments.names] if arguments.names else [MEMBERS[:count] for count in arguments.n]:
        with tempfile.TemporaryDirectory() as folder:
            for kept in (False, True):
                command = [sys.executable, __file__, "--one", "--names", *names]
                command += ["--snapshot", arguments.snapshot] if arguments.snapshot else []
                command += ["--debug-root", arguments.debug_root] if arguments.debug_root else []
                command += ["--whole"] if arguments.whole else []
                print("kept: " if kept else "fresh:", end=" ", flush=True)
                most, seconds = run(command, folder)
                if most > MOST_MEMORY or (kept and arguments.snapshot and seconds > MOST_SECONDS):
                    over.append(f"{len(names)} members: {most:.0f} MB, {seconds} s")
    if over:
        raise SystemExit("over the limits: " + "; ".join(over))


if __name__ == "__main__":
    main()
