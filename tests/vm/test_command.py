"""``klasy lab`` as a command: its streams, its exit status, its end, and what it does when the lab itself fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.lab_command import KLASY, lab

from klasy.lab.cache import lab_cache
from klasy.lab.kernels import DEFAULT, KERNELS

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
KERNEL_NAMES = [kernel.name for kernel in KERNELS]
EVERY_BYTE = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.write('to stderr'); sys.exit(42)"


@pytest.mark.parametrize("name", KERNEL_NAMES)
def test_streams_and_status_are_the_commands_own(name: str) -> None:
    """Standard output, standard error and exit status are the command's to the byte: the lab adds nothing."""
    done = lab("--kernel", name, "--", sys.executable, "-c", EVERY_BYTE)
    assert (done.returncode, done.stdout, done.stderr) == (42, bytes(range(256)), b"to stderr")


def test_a_failing_commands_own_3_is_not_ours() -> None:
    """A command may end with 3 as well; then the lab says nothing."""
    done = lab("--", "sh", "-c", "exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")


def test_input_is_passed_on() -> None:
    """What is piped in reaches the command, binary and whole, and so does its end."""
    data = bytes(range(256)) * 4096
    done = lab("--", "cat", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_working_directory_is_kept(tmp_path: Path) -> None:
    """The command starts where ``klasy lab`` was called."""
    assert lab("--", "pwd", cwd=tmp_path).stdout.decode() == f"{tmp_path}\n"


def test_no_signal_is_ignored() -> None:
    """A command begins with all signals as a terminal's would: what it starts can be ended by SIGINT."""
    done = lab("--", "sh", "-c", "grep SigIgn /proc/self/status; exec python3 -c 'import os; os.kill(os.getpid(), 2)'")
    assert done.stdout.split() == [b"SigIgn:", b"0" * 16]
    assert b"KeyboardInterrupt" in done.stderr
    assert done.returncode == 130


def test_environment() -> None:
    """klasy's own variables and the kernel's name are handed on, other variables are not."""
    done = lab(
        "--", "sh", "-c", 'echo "$KLASY_SOMETHING|$OTHER|$KLASY_LAB"', env={"KLASY_SOMETHING": "a b", "OTHER": "x"}
    )
    assert done.stdout.decode() == f"a b||{DEFAULT.name}\n"


def test_this_checkouts_klasy_is_on_path() -> None:
    """``klasy`` in the guest is the one of this environment, and runs."""
    done = lab("--", "sh", "-c", "command -v klasy && klasy --version")
    assert done.stdout.decode().splitlines()[0] == KLASY
    assert done.stdout.decode().splitlines()[1].startswith("klasy ")
    assert done.returncode == 0


def test_options_of_the_command_are_its_own() -> None:
    """Nothing behind ``--`` is taken for an option of the lab."""
    done = lab("--", "printf", "%s.", "--kernel", "--", "-v", "--help")
    assert done.stdout == b"--kernel.--.-v.--help."


def test_output_comes_as_it_is_written() -> None:
    """A line that the command prints is there before the command ends."""
    script = "echo first; read -r answer; echo got $answer"
    with subprocess.Popen(
        [KLASY, "lab", "--", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.stdin.write(b"answer\n")
        process.stdin.close()
        assert process.stdout.read() == b"got answer\n"
    assert process.returncode == 0


def test_fresh_boot() -> None:
    """A guest that boots instead of beginning from a kept state serves alike."""
    done = lab("--fresh-boot", "--", "sh", "-c", "uname -r; exit 5")
    assert done.stdout.decode().startswith(f"{DEFAULT.name}.")
    assert (done.returncode, done.stderr) == (5, b"")


@pytest.mark.parametrize("name", KERNEL_NAMES)
def test_without_the_hosts_files(name: str, tmp_path: Path) -> None:
    """--no-9p: klasy, its Python and its checkout are there, in the same places, and the host's other files are not."""
    secret = tmp_path / "file"
    secret.touch()
    script = f"""
        uname -r; pwd; klasy --version; cat /proc/mounts | grep -c 9p
        {sys.executable} -c 'import lark, capstone, elftools, ctypes; print("imports")'
        test -e {secret} || echo absent; ls /sys/kernel/tracing/kprobe_events; exit 9
    """
    done = lab("--kernel", name, "--no-9p", "--", "sh", "-c", script, cwd=CHECKOUT)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith(f"{name}.")
    assert lines[1] == str(CHECKOUT)
    assert lines[2].startswith("klasy ")
    assert lines[3:] == ["0", "imports", "absent", "/sys/kernel/tracing/kprobe_events"]
    assert (done.returncode, done.stderr) == (9, b"")


def test_kernel_panic_is_shown() -> None:
    """When the guest's kernel panics the lab ends with 3 and shows the kernel's last words, on standard error only."""
    done = lab("--", "sh", "-c", "echo before; sleep 3; echo c > /proc/sysrq-trigger; sleep 60")
    assert (done.returncode, done.stdout) == (3, b"before\n")
    assert "sysrq triggered crash" in done.stderr.decode()
    assert done.stderr.decode().splitlines()[-1] == "klasy: the guest's kernel panicked"


def test_timeout() -> None:
    """--timeout ends a command that takes too long with 3 and a message; what it wrote before is not lost."""
    done = lab("--timeout", "6", "--", "sh", "-c", "echo before; sleep 1000")
    assert (done.returncode, done.stdout) == (3, b"before\n")
    assert (
        done.stderr.decode()
        == "klasy: the command ran longer than 6 s and was killed: sh -c 'echo before; sleep 1000'\n"
    )


def test_no_command() -> None:
    """Nothing to run is wrong usage, found before any guest begins."""
    done = lab("--")
    assert done.returncode == 2
    assert "there is no command to run" in done.stderr.decode()


def test_unknown_kernel() -> None:
    """A kernel that is not in the list is wrong usage, and the list is shown."""
    done = lab("--kernel", "2.6", "--", "true")
    assert done.returncode == 2
    assert all(name in done.stderr.decode() for name in KERNEL_NAMES)


def test_without_qemu(tmp_path: Path) -> None:
    """Where QEMU is not installed the lab ends with 3 and says what to install."""
    done = lab("--", "true", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (3, b"")
    assert "needs qemu-system-x86_64" in done.stderr.decode()
    assert "apt-get install qemu-system-x86" in done.stderr.decode()


def test_a_damaged_kept_state_is_replaced(tmp_path: Path) -> None:
    """When a guest cannot begin from the kept state it boots, says so, and the next one begins from a new state."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "kernels").symlink_to(lab_cache() / "kernels")
    cache = {"KLASY_CACHE": str(tmp_path)}
    assert lab("--", "true", env=cache).returncode == 0
    (devices,) = (tmp_path / "lab" / "booted").glob("*/devices")
    devices.write_bytes(devices.read_bytes()[:1000])
    done = lab("--", "echo", "ran", env=cache)
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    assert "booting one" in done.stderr.decode()
    again = lab("--", "echo", "ran", env=cache)
    assert (again.returncode, again.stdout, again.stderr) == (0, b"ran\n", b"")


@contextmanager
def running_lab() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``klasy lab`` with a command under way in its guest, and the number of its QEMU process."""
    # Who runs the tests may have had them ignore signals (nohup, a shell's &), which klasy keeps to.
    heard = ["env", "--default-signal=INT,TERM,HUP"]
    command = [*heard, KLASY, "lab", "--", "sh", "-c", "echo up; sleep 1000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            (qemu,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert "qemu" in Path(f"/proc/{qemu}/comm").read_text()
            yield process, int(qemu)
        finally:
            process.kill()


def ends_soon(process: int) -> bool:
    """True when a process is gone, or a zombie, within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_guest(number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end the lab at once, quietly, and QEMU with it."""
    with running_lab() as (process, qemu):
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert ends_soon(qemu)


def test_killed_outright() -> None:
    """Even a lab that gets SIGKILL leaves no QEMU behind."""
    with running_lab() as (process, qemu):
        os.kill(process.pid, signal.SIGKILL)
        assert ends_soon(qemu)


def test_reader_goes_away() -> None:
    """When nobody reads the output any more the lab ends like a program in a pipeline, without a traceback."""
    command = [KLASY, "lab", "--", "sh", "-c", "yes"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


def test_an_early_interrupt_shows_no_traceback() -> None:
    """Ctrl-C while Python has hardly begun to load klasy ends it as at any other moment: without a word of Python's."""
    aspect = str(CHECKOUT / "examples" / "log_dequeue.asp")
    for number in range(40):
        command = subprocess.Popen(
            ["env", "--default-signal=INT", KLASY, "check", aspect],  # who runs the tests may have it ignored
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        time.sleep(0.002 + number / 2000)
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=60)
        assert b"klasy" not in errors  # before it runs its first line, Python has words of its own
        assert command.returncode in (-signal.SIGINT, 128 + signal.SIGINT) or b"Fatal Python error" in errors
