"""What happens to a machine while aspects are woven: modules go, bpffs goes, disks fill up, the clock is set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.commands import Running, good, klasy_command, start
from support.inventory import inventory
from support.livekernel import definitions, leftovers

from klasy.source import SourceFile
from klasy.weaver.build import build

MADE = "aspect made { before(): execution(vfs_mkdir) && if(pid == PID) { log(pid); } }".replace("PID", str(os.getpid()))
DATA = "aspect data { before(): set(init_net.ipv4.sysctl_ip_default_ttl) { log(value); } }"
SITES = "aspect made { before(): call(vfs_mkdir) && within(do_mkdirat) { log(comm); } }"


pytestmark = pytest.mark.usefixtures("unwoven_after")


@pytest.fixture(scope="module", autouse=True)
def _known_kernel():
    """The kernel is read once, here, and not by each command that is forked off."""
    build(SourceFile("made.asp", MADE))


def status() -> dict:
    """What klasy status says of the only aspect."""
    (found,) = json.loads(good("status", "--json").out)["aspects"]
    return found


@contextmanager
def dummy():
    """The module, with a device."""
    subprocess.run(["modprobe", "dummy", "numdummies=0"], check=True)
    try:
        yield
    finally:
        subprocess.run(["rmmod", "dummy"], check=False, stderr=subprocess.DEVNULL)


def test_a_module_is_unloaded_under_an_aspect():
    """Its join points are gone, and klasy says so, also when the module is back. A trampoline keeps it from going."""
    text = "aspect mod { before(): call(*) && within(dummy_xmit) { log(comm); } before(): execution(vfs_mkdir) {} }"
    with dummy():
        good("weave", "-", stdin=text)
        found = status()
        assert found["gone"] is None
        points = found["joinpoints"]
        subprocess.run(["rmmod", "dummy"], check=True)
        gone = status()["gone"]
        assert gone == {"joinpoints": points - 1, "modules": ["dummy"]}
        subprocess.run(["modprobe", "dummy", "numdummies=0"], check=True)
        assert status()["gone"] == gone
        said = good("status").out
        assert f"mod: {points - 1} join points went with the module dummy, which was unloaded" in said
        good("weave", "--replace", "-", stdin="aspect mod { before(): execution(dummy_xmit) { log(comm); } }")
        refused = subprocess.run(["rmmod", "dummy"], check=False, capture_output=True, text=True)
        assert "in use" in refused.stderr
        assert status()["gone"] is None
        good("unweave")
        subprocess.run(["rmmod", "dummy"], check=True)


def test_bpffs_is_unmounted():
    """All aspects are gone with it; what is left of their probe events goes with the next weave."""
    before = inventory()
    good("weave", "-", stdin=SITES)
    subprocess.run(["umount", "/sys/fs/bpf"], check=True)
    assert "no aspect is woven" in good("status").out
    good("weave", "-", stdin=SITES)
    assert len(definitions("klasy")) == 1
    good("unweave")
    assert not inventory() - before


def test_no_room_for_the_cache(tmp_path):
    """A full disk keeps nothing from being woven, and leaves no torn file."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", tmp_path], check=True)
    try:
        done = klasy_command("weave", "-", stdin=MADE, prepare=lambda: os.environ.update(KLASY_CACHE=str(tmp_path)))
        assert (done.status, "Traceback" in done.err) == (0, False), done
        assert [path.name for path in tmp_path.iterdir() if path.stat().st_size == 0 or "tmp" in path.name] == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    good("unweave")


def test_no_room_for_the_log(tmp_path):
    """Where the log cannot be written, the command says so, ends with 3, and takes the aspect out."""
    (tmp_path / "made.asp").write_text(MADE)
    with open("/dev/full", "w") as full:
        running = start("weave", "-f", str(tmp_path / "made.asp"), stdout=full.fileno())
        running.until(lambda: "woven: made" in running.err)
        with suppress(FileExistsError):
            os.mkdir(tmp_path / "a")
        done = running.wait()
    assert done.status == 3
    assert "No space left on device" in done.err
    assert leftovers() == {}


def test_data_followed_to_the_end():
    """What watches data is followed, and taken out by another klasy or by itself, without complaint."""
    for other in (False, True):
        running = start("weave", "-f", "--for", "1h" if other else "300ms", "-", stdin=DATA)
        running.until(lambda running=running: "woven: data" in running.err)
        if other:
            good("unweave", "data")
        done = running.wait()
        assert done.status == 0, done
        said = ["klasy: aspect 'data' was unwoven"] if other else []
        assert done.err.splitlines()[1:] == said, done


def seconds_of_day(running: Running, name: Path) -> float:
    """By the log, when a directory was made just now."""
    before = running.out.count("\n")
    name.mkdir()
    running.until(lambda: running.out.count("\n") > before)
    hours, minutes, seconds = re.findall(r"\b(\d\d):(\d\d):(\d\d\.\d+)", running.out.splitlines()[-1])[0]
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


@contextmanager
def clock_set(by: float):
    """The clock on the wall goes wrong."""
    wrong = time.monotonic()
    before = time.time()
    time.clock_settime(time.CLOCK_REALTIME, before + by)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, before + time.monotonic() - wrong)


@pytest.mark.parametrize("by", [-7200.0, 7200.0], ids=["back", "forward"])
def test_the_clock_is_set(tmp_path, by):
    """A log that is followed goes by the new time of day; records keep their order, and how long is woven stays so."""
    (tmp_path / "made.asp").write_text(MADE)
    running = start("weave", "-f", str(tmp_path / "made.asp"))
    running.until(lambda: "woven: made" in running.err)
    early = seconds_of_day(running, tmp_path / "a")
    with clock_set(by):
        late = seconds_of_day(running, tmp_path / "b")
        now = time.localtime()
        told = 3600 * now.tm_hour + 60 * now.tm_min + now.tm_sec
        assert -30 < (told - late + 43200) % 86400 - 43200 < 30
        assert abs((late - early - by + 43200) % 86400 - 43200) < 60
        assert re.search(r"^made +\d+ (s|min)", good("status").out, re.MULTILINE)
    running.signal(2)
    assert running.wait().status == 0


@pytest.mark.parametrize("function", ["_raw_spin_unlock_irqrestore", "_raw_spin_lock_irqsave"])
def test_an_aspect_on_the_lock_of_its_own_buffer(function):
    """Programs that log where the ring buffer's lock is taken and given back, each in the others' logging: the machine
    goes on, and what was passed over is counted."""
    text = f"""aspect made {{
        pointcut execution({function});
        before() {{ log("before"); }}
        after() {{ log("after"); }}
        before(): execution(vfs_read) {{ log("read"); }}
    }}"""
    good("weave", "-", stdin=text)
    for _ in range(200):
        Path("/proc/self/stat").read_text()
    points = json.loads(good("joinpoints", "made", "--json").out)["joinpoints"]
    assert min(point["hits"] for point in points) > 200
    assert max(point["missed"] for point in points) > 0
    assert {point["mechanism"] for point in points} == {"kprobe", "kretprobe"}
