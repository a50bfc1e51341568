"""System calls as a whole, their strings as the kernel used them, all of them at once: against what programs know."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support.children import child, let_go
from support.weaving import woven

from klasy.backend import Options
from klasy.backend.maps import Budget
from klasy.btf.types import Enum
from klasy.kernel.callwords import BPF
from klasy.kernel.live import running_kernel
from klasy.log.format_text import call_text
from klasy.match.filter import Filter, User

LIBC = ctypes.CDLL(None, use_errno=True)
THIRTY_TWO = Path(__file__).parents[1] / "data" / "programs" / "thirty_two"


pytestmark = pytest.mark.usefixtures("nothing_left")


def calls(events, pid: int, advice: str = "after#0") -> list[str]:
    """The calls of a process as they are shown."""
    return [call_text(e.values[0][1]) for e in events if e.pid == pid and e.advice == advice]


def by_name(folder: Path) -> None:
    """Make calls that take strings, all in one thread."""
    f = str(folder / "file").encode()
    for number, name in ((4, f), (21, f), (80, b"/tmp"), (89, f), (83, b"/no/dir"), (87, b"/no/file"), (76, f)):
        LIBC.syscall(number, name, 0, 4)  # stat access chdir readlink mkdir unlink truncate
    LIBC.symlink(b"target", f + b".link")
    LIBC.link(f, f + b".hard")
    LIBC.chmod(f, 0o600)
    LIBC.mount(b"none", str(folder).encode(), b"nosuchfs", 1 | 2, None)
    LIBC.memfd_create(b"thename", 0)


BY_NAME = {"stat", "chdir", "readlink", "mkdir", "unlink", "truncate", "symlink", "link", "chmod", "mount"}


def test_calls_of_a_program_in_a_row(tmp_path: Path) -> None:
    """All system calls woven: those of a known program are logged whole and in order, once each, with what came of
    them; through a signal's handler, a fork, an exec, by a thread too; a call by int 0x80 is none."""
    name = tmp_path / "file"
    name.write_text("x")

    def act() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: LIBC.umask(0o22))
        LIBC.umask(0o123)
        LIBC.open(str(name).encode(), os.O_RDWR | os.O_CLOEXEC)
        LIBC.open(b"/no/such/file", os.O_WRONLY | os.O_CREAT, 0o640)
        LIBC.open(ctypes.c_void_p(16), os.O_RDONLY)
        LIBC.rename(b"/no/old", b"/no/new")
        LIBC.lseek(-1, 7, os.SEEK_END)
        LIBC.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.001)  # the interpreter runs the handler
        number = os.fork()
        if not number:
            LIBC.umask(0o7)
            worker = threading.Thread(target=lambda: os.execv("/bin/true", ["true"]))  # takes the leader's number
            worker.start()
            worker.join()
        os.waitpid(number, 0)
        subprocess.run([THIRTY_TWO], check=True)
        by_name(tmp_path)

    number, go = child(act)
    with woven("aspect a { after(): syscall(*) { log(joinpoint); } count n; before(): syscall(umask) { n++; } }") as a:
        let_go(number, go)
        events = a.events()
        documents = {d["call"]: d for e in events if e.pid == number and (d := a.as_json(e)["values"]["joinpoint"])}
        points = a.aspect.joinpoints
        hits = a.hits(0)
        assert {point.mechanism for point in points} == {"raw tracepoint"}
        assert len(points) > 330
    mine = calls(events, number)
    wanted = (
        "umask",
        "rename",
        "lseek",
        "kill",
        f'openat(AT_FDCWD, "{name}',
        'openat(AT_FDCWD, "/no',
        "openat(AT_FDCWD, 0x10",
    )
    shown = [call for call in mine if call.startswith(wanted)]
    assert [call.split(" = ")[0] for call in shown[:7]] == [
        "umask(0123)",
        f'openat(AT_FDCWD, "{name}", O_RDWR|O_CLOEXEC)',
        'openat(AT_FDCWD, "/no/such/file", O_WRONLY|O_CREAT, 0640)',
        "openat(AT_FDCWD, 0x10, O_RDONLY)",
        'rename("/no/old", "/no/new")',
        "lseek(-1, 7, SEEK_END)",
        f"kill({number}, SIGUSR1)",
    ]
    ends = [call.split(" = ")[1] for call in shown[:7]]
    assert ends[2:7] == [
        "-1 ENOENT (No such file or directory)",
        "-1 EFAULT (Bad address)",
        "-1 ENOENT (No such file or directory)",
        "-1 EBADF (Bad file descriptor)",
        "0",
    ]
    assert int(ends[1]) > 2
    assert "umask(022) = 0123" in mine
    assert sum(call.startswith("rt_sigreturn()") for call in mine) == 1
    forked = [call for call in mine if call.startswith("clone(") and "CLONE_VM" not in call]
    grandchild = int(forked[0].split(" = ")[1])
    theirs = calls(events, grandchild)
    assert not [call for call in theirs if call.endswith(" = 0") and call.startswith("clone(")]
    assert next(call for call in theirs if call.startswith(("umask", "execve"))) == "umask(07) = 022"
    execs = [call for call in theirs if call.startswith('execve("/bin/true", 0x')]
    assert len(execs) == 1
    assert execs[0].endswith(" = 0")
    assert not [
        call for call in mine if call.startswith("writev(")
    ]  # 20 is getpid for 32-bit programs, writev for others
    assert sum(hits.values()) >= len(events)
    # Strings: file names, and what mount takes, as the kernel copied them; of memfd_create it keeps none.
    assert documents.keys() >= BY_NAME
    assert [name for name in sorted(BY_NAME) if "user_memory" in documents[name]] == []
    mounted = documents["mount"]["text"]
    assert mounted.startswith(f'mount("none", "{tmp_path}", "nosuchfs", MS_RDONLY|MS_NOSUID, NULL) = -1 ')
    assert documents["memfd_create"]["user_memory"] == ["uname"]
    assert documents["memfd_create"]["arguments"]["uname"] == "thename"
    assert documents["unlink"]["text"] == 'unlink("/no/file") = -1 ENOENT (No such file or directory)'


def test_what_is_negative_and_narrow(tmp_path: Path) -> None:
    """The C library leaves 0 in the upper half of the register of a pid_t or a uid_t: -1 is -1 still."""

    def act() -> None:
        LIBC.waitpid(-1, None, os.WNOHANG)
        LIBC.kill(ctypes.c_int(-99999999), 0)
        LIBC.setresuid(ctypes.c_uint(2**32 - 1), 0, ctypes.c_uint(2**32 - 1))
        LIBC.fallocate(os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR), 1 << 30, ctypes.c_long(0), ctypes.c_long(1))
        LIBC.syscall(209, ctypes.c_long(0), ctypes.c_long(-5), None)  # io_submit

    pid, go = child(act)
    with woven("aspect a { after(): syscall(*) { log(joinpoint); } }") as a:
        let_go(pid, go)
        made = calls(a.events(), pid)
    for expected in (
        "wait4(-1, NULL, WNOHANG, NULL) = -1 ECHILD (No child processes)",
        "kill(-99999999, 0) = -1 ESRCH (No such process)",
        "setresuid(-1, 0, -1) = 0",
        "io_submit(0, -5, NULL) = -1 EINVAL (Invalid argument)",
    ):
        assert expected in made
    assert any(line.startswith("fallocate(") and " = -1 EOPNOTSUPP (" in line for line in made)


TALKER = """
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None)
sys.stdin.readline()
told = []
tell = told.append  # ~ stands for anything
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    text = lambda port: f"127.0.0.1:{port}" if family == socket.AF_INET else f"[::1]:{port}"
    size = 16 if family == socket.AF_INET else 28
    server, client = socket.socket(family), socket.socket(family)
    server.bind((host, 0))
    tell(f"bind({server.fileno()}, {text(0)}, {size}) = 0")
    port = server.getsockname()[1]
    tell(f"getsockname({server.fileno()}, {text(port)}, 0x")
    server.listen()
    client.connect((host, port))
    tell(f"connect({client.fileno()}, {text(port)}, {size}) = 0")
    peer, (_, from_port, *_) = server.accept()
    tell(f"accept4({server.fileno()}, {text(from_port)}, 0x")
    assert peer.getpeername()[1] == from_port
    tell(f"getpeername({peer.fileno()}, {text(from_port)}, 0x")
    one, other = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    one.bind((host, 0))
    other.sendto(b"abc", (host, one.getsockname()[1]))
    tell(f"sendto({other.fileno()}, ~abc~, 3, 0, {text(one.getsockname()[1])}, {size}) = 3")
    _, (_, from_port, *_) = one.recvfrom(10)
    tell(f"recvfrom({one.fileno()}, ~abc~, 10, 0, {text(from_port)}, 0x")
refused = socket.socket(socket.AF_UNIX)
for name in ("/no/such socket", chr(0) + "nobody listens", "x" * 107):
    refused.connect_ex(name)
    size = 2 + len(name) + (name[0] != chr(0))
    tell(f'connect({refused.fileno()}, unix:"{name.replace(chr(0), "@")}", {size}) = -1 E')
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
netlink.bind((0, 1))
tell(f"bind({netlink.fileno()}, netlink:0,0x1, 12) = 0")
libc.connect(refused.fileno(), ctypes.c_void_p(16), 16)
tell(f"connect({refused.fileno()}, 0x10, 16) = -1 EFAULT (Bad address)")
libc.connect(refused.fileno(), b"", -1)
tell(f"connect({refused.fileno()}, 0x~, -1) = -1 EINVAL (Invalid argument)")
read, write = os.pipe()
tell(f"pipe2([{read}, {write}], O_CLOEXEC) = 0")
left, right = socket.socketpair()
tell(f"socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0, [{left.fileno()}, {right.fileno()}]) = 0")
libc.syscall(35, struct.pack("qq", 0, 1234567), None)
tell("nanosleep({tv_sec=0, tv_nsec=1234567}, NULL) = 0")
print(chr(10).join(told))
"""


@pytest.mark.parametrize("which", ["*", "connect || bind || sendto || recvfrom || accept4 || getsockname || nanosleep"])
def test_what_arguments_lead_to(which: str) -> None:
    """Addresses of sockets, pairs of files and times, as the program has them; before the call what it is given."""
    with subprocess.Popen(
        [sys.executable, "-c", TALKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as talker:
        pointcut = " || ".join(f"syscall({name})" for name in which.split(" || "))
        text = f"""aspect a {{
            after(): ({pointcut}) && if(pid == {talker.pid}) {{ log(joinpoint); }}
            before(): ({pointcut}) && if(pid == {talker.pid}) {{ log(joinpoint); }}
        }}"""
        with woven(text) as a:
            told = talker.communicate("go\n", timeout=300)[0].splitlines()
            events = a.events()
    assert len(told) == 23
    ended, begun = calls(events, talker.pid), calls(events, talker.pid, "before#1")
    shown = iter(ended)
    for line in told:
        if which == "*" or line.split("(")[0] in which.split(" || "):
            assert any(all(part in call for part in line.split("~")) for call in shown), line  # in this order
    given = [line.partition(") = ")[0] for line in told if line.startswith(("bind", "connect", "nanosleep"))]
    assert len(given) == 11
    assert [line for line in given if not any(call.startswith(line.split("~")[0]) for call in begun)] == []
    assert not any(call.startswith(("accept4(3, 127", "pipe2([")) for call in begun)


DATA = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x4000000)  # CLONE_NEWUTS: the name is nobody else's
folder, go = sys.argv[1], sys.stdin.readline()
told = []
tell = told.append
C = lambda data: '"' + data.replace(chr(92), chr(92) * 2).replace(chr(10), chr(92) + "n") + '"'
binary = bytes([0, 255, 10, 27, 92, 34]) + b"end"
as_c = chr(92).join(["", "0", "xff", "n", "x1b", chr(92), chr(34) + "end"])  # as C would write it
file = os.open(folder + "/file", os.O_RDWR | os.O_CREAT)
for size in (0, 1, 31, 32, 33, 5000):
    data = bytes(97 + n % 26 for n in range(size))
    shown = C(data[:32].decode()) + ".." * (size > 32)
    os.pwrite(file, data, 0)
    tell(f"pwrite64({file}, {shown}, {size}, 0) = {size}")
    os.pread(file, 6000, 0)
    tell(f"pread64({file}, {shown}, 6000, 0) = {size}")
os.lseek(file, 0, 0)
os.write(file, binary)
tell(f'write({file}, "{as_c}", 9) = 9')
os.lseek(file, 0, 0)
os.read(file, 9)
tell(f'read({file}, "{as_c}", 9) = 9')
libc.syscall(1, file, ctypes.c_void_p(16), ctypes.c_size_t(5))
tell(f"write({file}, 0x10, 5) = -1 EFAULT (Bad address)")
libc.syscall(1, -1, b"abc" * 20, ctypes.c_size_t(1 << 40 | 3))
tell('write(-1, "' + ("abc" * 20)[:32] + '".., 1099511627779) = -1 EBADF (Bad file descriptor)')
name = folder + "/" + "n" * 100
os.symlink(name, folder + "/link")
os.readlink(folder + "/link")
tell(f'readlink("{folder}/link", "{name}", ')
libc.syscall(267, -100, (folder + "/link").encode(), ctypes.create_string_buffer(9), ctypes.c_int(9))
tell(f'readlinkat(AT_FDCWD, "{folder}/link", {C(name[:9])}, 9) = 9')
os.chdir(folder)
os.getcwd()
tell(f'getcwd("{folder}", ')
drawn = os.getrandom(3)
tell("getrandom(" + ("" if set(drawn) - set(range(32, 127)) | set(drawn) & {34, 92} else C(drawn.decode())))
libc.sethostname(b"klasybox", 5)
tell('sethostname("klasy", 5) = 0')
libc.sethostname(b"klasybox", -1)
tell("sethostname(0x")
libc.syscall(227, 1, ctypes.create_string_buffer((7).to_bytes(8, "little") * 2))
tell("clock_settime(CLOCK_MONOTONIC, {tv_sec=7, tv_nsec=7}) = -1 EINVAL (Invalid argument)")
os.setxattr("/dev/shm", "trusted.klasy", b"value" * 20)
tell('setxattr("/dev/shm", "trusted.klasy", "' + ("value" * 20)[:32] + '".., 100, 0) = 0')
os.getxattr("/dev/shm", "trusted.klasy")
tell('getxattr("/dev/shm", "trusted.klasy", "' + ("value" * 20)[:32] + '".., 128) = 100')
os.removexattr("/dev/shm", "trusted.klasy")
libc.syscall(321, 36, None, 0)
tell("bpf(BPF_TOKEN_CREATE, NULL, 0) = -1 E")
print(chr(10).join(told))
"""


@pytest.mark.parametrize("which", ["*", "pwrite64 || pread64 || write || read || readlink || getcwd || sethostname"])
def test_what_is_read_and_written(which: str, tmp_path: Path) -> None:
    """The bytes that calls were given or have filled, as many as they say, as the program has them."""
    with subprocess.Popen(
        [sys.executable, "-c", DATA, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as talker:
        pointcut = " || ".join(f"syscall({name})" for name in which.split(" || "))
        text = f"""aspect a {{
            after(): ({pointcut}) && if(pid == {talker.pid}) {{ log(joinpoint); }}
            before(): ({pointcut}) && if(pid == {talker.pid}) {{ log(joinpoint); }}
        }}"""
        with woven(text) as a:
            told = talker.communicate("go\n", timeout=300)[0].splitlines()
            events = a.events()
    assert len(told) == 26
    ended, begun = calls(events, talker.pid), calls(events, talker.pid, "before#1")
    shown = iter(ended)
    for line in told:
        if which == "*" or line.split("(")[0] in which.split(" || "):
            assert any(line in call for call in shown), line  # in this order
    given = [line.partition(") = ")[0] for line in told if line.startswith("pwrite64(")]
    assert [line for line in given if not any(call.startswith(line) for call in begun)] == []
    assert all(", 0x" in call for call in begun if call.startswith(("read(", "pread64(")))


def test_the_commands_of_bpf_are_the_kernels_own() -> None:
    """All that this kernel knows, by its own types; klasy may know later ones."""
    btf = running_kernel().btf
    (own,) = btf.find("bpf_cmd", Enum)
    found = dict(btf.type(own).values)
    found.pop("__MAX_BPF_CMD", None)
    assert found.pop("BPF_PROG_RUN") == BPF.choices["BPF_PROG_TEST_RUN"]
    assert {name: BPF.choices.get(name) for name in found} == found
    assert len(found) > 35


def test_the_name_is_the_one_that_the_kernel_used(tmp_path: Path) -> None:
    """Another thread changes the name all the time: what is logged is the file that was opened, each time; in a
    condition too."""
    first, second = tmp_path / "aaaaaaaa", tmp_path / "bbbbbbbb"
    first.write_text("1")
    second.write_text("2")
    script = f"""
import ctypes, os, threading, sys
libc = ctypes.CDLL(None)
name = ctypes.create_string_buffer({str(first)!r}.encode())
names = [{str(first)!r}.encode(), {str(second)!r}.encode()]
at = len(names[0]) - 8
stop = False
def change():
    n = 0
    while not stop:
        n += 1
        ctypes.memmove(ctypes.byref(name, at), names[n % 2][at:], 8)
sys.setswitchinterval(1e-6)
thread = threading.Thread(target=change)
sys.stdin.readline()
thread.start()
opened = []
for _ in range(300):
    fd = libc.open(name, 0)
    opened.append("-" if fd < 0 else os.readlink(f"/proc/self/fd/{{fd}}")[-1])
    if fd >= 0: os.close(fd)
stop = True
thread.join()
print("".join(opened))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as racer:
        text = f"""aspect a {{
            pointcut mine(const char *filename): syscall(openat) && if(pid == {racer.pid});
            after(const char *filename) returning (long fd): mine(filename) {{ log(filename, fd); }}
            after(const char *filename): mine(filename) && if(filename == "{first}") {{ log("first"); }}
            after(): syscall(openat) && if(pid == {racer.pid}) {{ log(joinpoint); }}
        }}"""
        with woven(text) as a:
            opened = racer.communicate("go\n", timeout=300)[0].strip()
            events = [e for e in a.events() if e.pid == racer.pid]
    names = [(str(dict(e.values)["filename"]), dict(e.values)["fd"]) for e in events if e.advice == "after#0"]
    of_race = [(n, fd) for n, fd in names if n.startswith(str(tmp_path))]
    assert len(opened) == 300
    assert len(of_race) == 300
    assert {"a", "b"} <= set(opened)  # else nothing was raced
    expected = [letter for letter in opened]
    assert ["-" if fd < 0 else n[-1] for n, fd in of_race] == expected
    whole = [call_text(e.values[0][1]) for e in events if e.advice == "after#2"]
    assert [c.split('"')[1][-1] for c in whole if str(tmp_path) in c and "= -1" not in c] == [
        o for o in opened if o != "-"
    ]
    assert sum(e.message == "first" for e in events) == sum(n == str(first) for n, _ in of_race)
    # No copy was noted of a call that was under way when the aspect became active, which is said. Only one that the
    # interpreter made at its start can be such.
    ends = [e for e in events if e.advice == "after#0" and "user_memory" in a.as_json(e)]
    assert [e for e in ends if str(dict(e.values)["filename"]).startswith(str(tmp_path))] == []


MIXED = """aspect mixed {
    pointcut by_library(): cflow(user("libc.so.6": execution(umask)));
    count opened[str(filename)];
    after(): syscall(*) && by_library() { log(joinpoint); }
    after(const char *filename) returning (long fd): syscall(openat) && if(fd >= 0) { opened[str(filename)]++; }
    before(): syscall(umask) && !by_library() { log("alone: %s", joinpoint); }
    before(): user("libc.so.6": execution(rename)) && if(pid != 0) { log("library"); }
    before(): event(syscalls:sys_enter_umask) { log("event"); }
    before(): execution(security_file_open) && cflow(execution(do_filp_open)) { log("inside"); }
    before(): get(init_net.ipv4.sysctl_ip_default_ttl) { log("data %u", value); }
}"""


def test_filters_and_a_budget_with_all_kinds(tmp_path: Path) -> None:
    """System calls, programs, events, flows and data together, within a budget: those of the wanted process count, each
    as often as it did them, and nobody else's."""
    file = tmp_path / "file"
    file.write_text("x")

    def work() -> None:
        for mask in (1, 2, 3):
            LIBC.umask(mask)
        LIBC.syscall(95, 4)
        LIBC.rename(b"/no/old", b"/no/new")
        for _ in range(2):
            os.close(os.open(file, os.O_RDONLY))
        Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()

    def act() -> None:
        if (number := os.fork()) != 0:
            work()
            os.waitpid(number, 0)
            return
        Path("/proc/self/comm").write_text("mixedup")
        work()

    number, go = child(act)
    wanted = Filter(pids=(number,), comms=(b"mixedup",), users=(User(0, "root"),), children=True)
    with woven(MIXED, limits=Options(filter=wanted, budget=Budget(100, os.cpu_count() or 1))) as a:
        let_go(number, go)
        work()
        events = a.events()
        assert a.aspect.over_budget() is None
    said = Counter(e.message or call_text(e.values[0][1]).split("(")[0] for e in events)
    assert {e.pid for e in events}.isdisjoint((os.getpid(), number))
    assert said["umask"] == 3
    assert said["alone: umask(04)"] == 1
    assert said["library"] == 1
    assert said["event"] == 4
    assert said["inside"] >= 3
    assert sum(count for key, count in said.items() if key.startswith("data ")) >= 1
