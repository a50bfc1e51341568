"""The library's guest: what it offers to commands, and that many can run in one."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import sys
import time
from pathlib import Path

import pytest

from klasy.lab.guest import CommandTimeout, Guest
from klasy.lab.kernels import LabKernel

EVERY_BYTE = (
    "import sys; sys.stdout.buffer.write(bytes(range(256)) * 3); sys.stderr.buffer.write(bytes(range(255, -1, -1)))"
)


def test_runs_the_kernel_asked_for(guest: Guest, kernel: LabKernel) -> None:
    """The guest's kernel is of the series that its name in the list says."""
    assert guest.run(["uname", "-r"]).out.startswith(f"{kernel.name}.")


def test_output_is_binary_and_apart(guest: Guest) -> None:
    """Every byte value survives, on standard output and standard error separately, and nothing is added."""
    done = guest.run([sys.executable, "-c", EVERY_BYTE])
    assert done.stdout == bytes(range(256)) * 3
    assert done.stderr == bytes(range(255, -1, -1))
    assert done.returncode == 0


@pytest.mark.parametrize("status", [0, 1, 3, 42, 255])
def test_exit_status(guest: Guest, status: int) -> None:
    """A command's exit status is its own."""
    assert guest.run(f"exit {status}") == (status, b"", b"")


def test_status_of_what_a_signal_ended(guest: Guest) -> None:
    """Death by signal N is 128+N, and a command that is not there 127, as in a shell."""
    assert guest.run("kill -KILL $$").returncode == 128 + 9
    done = guest.run(["no-such-command"])
    assert done.returncode == 127
    assert "no-such-command: not found" in done.err


def test_words_are_not_interpreted(guest: Guest) -> None:
    """A list of words reaches the command as it is, whatever a shell would make of it."""
    words = ["a b", "", "$HOME", "`id`", "'", '"', "*", "\\n", "ü", ";", "--"]
    done = guest.run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *words])
    assert done.out == f"{words}\n"


def test_ten_megabytes(guest: Guest) -> None:
    """Large output arrives whole and in order, while both streams are in use."""
    size = 10 * 1024 * 1024
    script = f"""
import random, sys
sys.stdout.buffer.write(random.Random(7).randbytes({size}))
print("done", file=sys.stderr)
"""
    done = guest.run([sys.executable, "-c", script])
    assert done.err == "done\n"
    assert len(done.stdout) == size
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(random.Random(7).randbytes(size)).digest()


def test_directory_and_environment(guest: Guest, tmp_path: Path) -> None:
    """A command starts in the directory asked for, which is the caller's by default, with ours on PATH and no input."""
    assert guest.run(["pwd"]).out.strip() == os.getcwd()
    odd = tmp_path / "with 'quotes' and $signs"
    odd.mkdir()
    script = 'pwd; echo "$GREETING"; command -v klasy; id -u; cat'
    done = guest.run(script, cwd=str(odd), env={"GREETING": "a 'b' $c"})
    assert done.out.splitlines() == [str(odd), "a 'b' $c", str(Path(sys.executable).with_name("klasy")), "0"]


def test_directory_that_is_not_there(guest: Guest) -> None:
    """Where the directory is missing the command does not run, and the reason is said."""
    done = guest.run("echo ran", cwd="/no/such/directory")
    assert (done.returncode, done.stdout) == (126, b"")
    assert "/no/such/directory" in done.err


def test_host_files_are_copy_on_write(guest: Guest, tmp_path: Path) -> None:
    """The guest reads the host's /tmp and checkout, may write and delete there, and the host sees nothing of it."""
    (tmp_path / "theirs").write_text("from the host")
    checkout = Path(__file__).resolve().parents[2]
    mine = checkout / f"lab-test-{os.getpid()}"
    script = f"""
        set -e
        cd {shlex.quote(str(tmp_path))}
        cat theirs
        echo changed > theirs; cat theirs
        echo new > created; rm theirs; ls
        echo here > {shlex.quote(str(mine))}; cat {shlex.quote(str(mine))}
        rm {shlex.quote(str(checkout / "pyproject.toml"))}
        test ! -e {shlex.quote(str(checkout / "pyproject.toml"))}
    """
    done = guest.run(script)
    assert (done.returncode, done.out) == (0, "from the hostchanged\ncreated\nhere\n"), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert (tmp_path / "theirs").read_text() == "from the host"
    assert not mine.exists()
    assert (checkout / "pyproject.toml").exists()


def test_kernel_interfaces_are_mounted(guest: Guest) -> None:
    """bpffs, tracefs, debugfs and cgroup2 are where everyone expects them, the new bpffs empty."""
    places = ["/sys/fs/bpf", "/sys/kernel/tracing", "/sys/kernel/debug", "/sys/fs/cgroup", "/proc", "/run"]
    done = guest.run(["stat", "-f", "-c", "%T", *places])
    assert done.out.split() == ["bpf_fs", "tracefs", "debugfs", "cgroup2fs", "proc", "tmpfs"]
    assert guest.run("ls /sys/fs/bpf").stdout == b""


def test_kernel_can_be_woven_into(guest: Guest) -> None:
    """The kernel has what klasy needs: kprobes, BTF, live text, and a BPF JIT that is on."""
    script = """
        set -e
        test -s /sys/kernel/tracing/kprobe_events || test -w /sys/kernel/tracing/kprobe_events
        test "$(head -c 2 /sys/kernel/btf/vmlinux | od -An -tx1)" = " 9f eb"
        test "$(head -c 4 /proc/kcore | tail -c 3)" = ELF
        test "$(cat /proc/sys/net/core/bpf_jit_enable)" = 1
        ! grep -q nokaslr /proc/cmdline
    """
    assert guest.run(script) == (0, b"", b"")


def test_modules_can_be_loaded(guest: Guest) -> None:
    """modprobe finds the kernel's own modules and what they need."""
    done = guest.run("modprobe dummy && modprobe veth && cut -d' ' -f1 /proc/modules")
    assert done.returncode == 0, done.err
    assert {"dummy", "veth"} <= set(done.out.split())


def test_loopback_is_up(guest: Guest) -> None:
    """A connection over 127.0.0.1 carries data, without any network outside."""
    script = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=20)
client.sendall(b"over lo")
print(server.accept()[0].recv(100).decode())
"""
    done = guest.run([sys.executable, "-c", script])
    assert done.out == "over lo\n", done.err


def test_time_of_day(guest: Guest) -> None:
    """The guest's clock shows the host's time, also when it began from a state kept long ago."""
    before = time.time()
    shown = float(guest.run(["date", "+%s.%N"]).out)
    assert before - 30 < shown < time.time() + 30  # an emulated clock may fall behind while the machine is busy


def test_timeout_kills_the_command_only(guest: Guest) -> None:
    """A command that runs too long is killed with its children, and the guest goes on."""
    with pytest.raises(CommandTimeout, match="longer than 1 s"):
        guest.run("sleep 77 & sleep 77", timeout=1)
    assert guest.run("ps ax | grep -c '[s]leep 77'").out == "0\n"
    assert guest.run("echo still here").out == "still here\n"


def test_what_a_command_leaves_behind_does_not_hold_it_up(guest: Guest) -> None:
    """A background process that keeps the output open neither delays the end nor mixes into what came before it."""
    started = time.monotonic()
    done = guest.run("sleep 60 & echo finished")
    assert done.out == "finished\n"
    assert time.monotonic() - started < 30


def test_commands_share_the_guest(guest: Guest) -> None:
    """What one command did in the guest the next one sees."""
    guest.run("echo kept > /run/kept")
    assert guest.run("cat /run/kept").out == "kept\n"
