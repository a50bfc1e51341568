"""What system calls are given in memory and fill there, against what a program knows of its own calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.weaving import woven

from klasy.log.format_text import call_text

pytestmark = pytest.mark.usefixtures("nothing_left")

PROGRAM = """
import ctypes, os, resource, select, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
folder, go = sys.argv[1], sys.stdin.readline()
told = []
tell = told.append
B = ctypes.create_string_buffer
file = os.open(folder + "/file", os.O_RDWR | os.O_CREAT, 0o640)

# vectors
os.writev(file, [b"hello ", b"x" * 40, b"", b"a\\n"])
first = '{iov_base="hello ", iov_len=6}, {iov_base="' + "x" * 32 + '".., iov_len=40}'
tell(f'writev({file}, [{first}, {{iov_base="", iov_len=0}}, {{iov_base="a~n", iov_len=2}}], 4) = 48')
os.pwritev(file, [b"%d" % n for n in range(6)], 48)
tell(f'pwritev2({file}, [{{iov_base="0", iov_len=1}}, {{iov_base="1", iov_len=1}}, {{iov_base="2", iov_len=1}}, '
     f'{{iov_base="3", iov_len=1}}, ..], 6, 48, 0, 0) = 6')
os.preadv(file, [bytearray(3), bytearray(50)], 43)
tell(f'preadv2({file}, [{{iov_base="xxx", iov_len=3}}, {{iov_base="a~n012345", iov_len=50}}], 2, 43, 0, 0) = 11')
pair = struct.pack("4Q", 16, 5, 0, 0)
libc.syscall(20, file, B(pair), 2)
tell(f"writev({file}, [{{iov_base=0x10, iov_len=5}}, {{iov_base=NULL, iov_len=0}}], 2) = -1 EFAULT (Bad address)")
libc.syscall(20, file, ctypes.c_void_p(16), 2)
tell(f"writev({file}, 0x10, 2) = -1 EFAULT (Bad address)")
libc.syscall(20, file, B(pair), -1)
tell(f"writev({file}, ")

# messages
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("127.0.0.1", 0))
port = here.getsockname()[1]
there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
there.sendmsg([b"ab", b"cd"], [], 0, ("127.0.0.1", port))
two = '{iov_base="ab", iov_len=2}, {iov_base="cd", iov_len=2}'
tell(f"sendmsg({there.fileno()}, {{msg_name=127.0.0.1:{port}, msg_iov=[{two}]}}, 0) = 4")
here.recvmsg(3)
sender = there.getsockname()[1]
tell(f'recvmsg({here.fileno()}, {{msg_name=127.0.0.1:{sender}, msg_iov=[{{iov_base="abc", iov_len=3}}], '
     f"msg_flags=MSG_TRUNC}}, 0) = 3")
left, right = socket.socketpair()
socket.send_fds(left, [b"take"], [file])
tell(f'sendmsg({left.fileno()}, {{msg_iov=[{{iov_base="take", iov_len=4}}], msg_controllen=24}}, 0) = 4')

# options
left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
tell(f"setsockopt({left.fileno()}, SOL_SOCKET, SO_RCVBUF, [5000], 4) = 0")
left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
tell(f'setsockopt({left.fileno()}, SOL_SOCKET, SO_LINGER, "^1^0^0^0^2^0^0^0", 8) = 0')
left.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
tell(f"getsockopt({left.fileno()}, SOL_SOCKET, SO_TYPE, 0x")

# waiting
right.send(b"x")
waits = select.poll()
waits.register(left, select.POLLIN)
waits.poll(7)
tell(f"poll([{{fd={left.fileno()}, events=POLLIN, revents=POLLIN}}], 1, 7) = 1")
many = b"".join(struct.pack("ihh", -1, 4, 0) for _ in range(6))
libc.syscall(7, B(many), 6, 0)
tell("poll([" + "{fd=-1, events=POLLOUT}, " * 4 + "..], 6, 0) = 0")
epoll = select.epoll()
epoll.register(left.fileno(), select.EPOLLIN | select.EPOLLET)
one = left.fileno()
tell(f"epoll_ctl({epoll.fileno()}, EPOLL_CTL_ADD, {one}, {{events=EPOLLIN|EPOLLET, data={{u32={one}, u64=")
epoll.poll(1)
tell(f"[{{events=EPOLLIN, data={{u32={one}, u64=")
event = B(12)
libc.syscall(441, epoll.fileno(), event, 1, B(struct.pack("qq", 0, 5000)), None, 8)
tell(f"epoll_pwait2({epoll.fileno()}, [], 1, {{tv_sec=0, tv_nsec=5000}}, NULL, 8) = 0")
timeout = B(struct.pack("qq", 0, 3000))
libc.syscall(271, None, 0, timeout, None, 8)
tell("ppoll(NULL, 0, 0x")
word = B(4)
libc.syscall(202, word, 128, 0, B(struct.pack("qq", 0, 4000)))
tell("FUTEX_WAIT|FUTEX_PRIVATE_FLAG, 0, {tv_sec=0, tv_nsec=4000}) = -1 ETIMEDOUT (Connection timed out)")

# times
now = B(16)
libc.syscall(228, 1, now)
seconds, nanoseconds = struct.unpack("qq", now.raw[:16])
tell(f"clock_gettime(CLOCK_MONOTONIC, {{tv_sec={seconds}, tv_nsec={nanoseconds}}}) = 0")
libc.syscall(96, now, None)
seconds, microseconds = struct.unpack("qq", now.raw[:16])
tell(f"gettimeofday({{tv_sec={seconds}, tv_usec={microseconds}}}, NULL) = 0")
os.utime(folder + "/file", ns=(5, 7_000_000_009))
tell(f'utimensat(AT_FDCWD, "{folder}/file", [{{tv_sec=0, tv_nsec=5}}, {{tv_sec=7, tv_nsec=9}}], 0) = 0')
signal.setitimer(signal.ITIMER_REAL, 500.25, 3)
tell("{it_interval={tv_sec=3, tv_usec=0}, it_value={tv_sec=500, tv_usec=250000}}, {it_interval={tv_sec=0, tv_usec=0}, "
     "it_value={tv_sec=0, tv_usec=0}}) = 0")
signal.setitimer(signal.ITIMER_REAL, 0)
timer = libc.timerfd_create(1, 0)
libc.syscall(286, timer, 0, B(struct.pack("4q", 1, 2, 3, 4)), None)
times = "{it_interval={tv_sec=1, tv_nsec=2}, it_value={tv_sec=3, tv_nsec=4}}"
tell(f"timerfd_settime({timer}, 0, {times}, NULL) = 0")

# files, limits, processes
os.fstat(file)
tell("{st_mode=S_IFREG|0640, st_size=54, ..}")
os.stat("/dev/null")
tell('"/dev/null", {st_mode=S_IFCHR|0666, st_rdev=makedev(0x1, 0x3), ..}')
libc.syscall(332, -100, (folder + "/file").encode(), 0, 0x7FF, B(256))
tell("{stx_mode=S_IFREG|0640, stx_size=54, ..}) = 0")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
tell(f"prlimit64(0, RLIMIT_NOFILE, NULL, {{rlim_cur={soft}, rlim_max={hard}}}) = 0")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
tell(f"prlimit64(0, RLIMIT_NOFILE, {{rlim_cur={soft - 1}, rlim_max={hard}}}, NULL) = 0")
for end, shown in ((lambda: os._exit(3), "WIFEXITED(s) && WEXITSTATUS(s) == 3"),
                   (lambda: os.kill(os.getpid(), 9), "WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL")):
    child = os.fork()
    if not child:
        end()
    os.waitpid(child, 0)
    tell(f"wait4({child}, [{{{shown}}}], 0, NULL) = {child}")
print(chr(10).join(told))
"""

GIVEN = ("writev", "pwritev2", "sendmsg", "setsockopt", "poll", "epoll_ctl", "futex", "utimensat", "timerfd_settime")
FILLED = ("preadv2", "recvmsg", "clock_gettime", "wait4", "gettimeofday")


@pytest.mark.parametrize("which", ["*", "writev || preadv2 || sendmsg || recvmsg || poll || wait4 || prlimit64"])
def test_as_the_program_has_it(which: str, tmp_path: Path) -> None:
    """Vectors, messages, options, what is waited for, times, files, limits and what became of a process: behind the
    call; before it what it is given, and nothing of what it will fill."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        pointcut = " || ".join(f"syscall({name})" for name in which.split(" || "))
        text = f"""aspect a {{
            after(): ({pointcut}) && if(pid == {program.pid}) {{ log(joinpoint); }}
            before(): ({pointcut}) && if(pid == {program.pid}) {{ log(joinpoint); }}
        }}"""
        with woven(text) as a:
            told = program.communicate("go\n", timeout=300)[0].replace("~", "\\").replace("^", "\\x0").splitlines()
            events = a.events()
    assert len(told) == 31
    told = [line.replace("\\x00", "\\0") for line in told]
    calls = [(event.advice, call_text(event.values[0][1])) for event in events if event.pid == program.pid]
    ended = iter([call for advice, call in calls if advice == "after#0"])
    begun = [call for advice, call in calls if advice == "before#1"]
    for line in told:
        name = line.split("(")[0]
        if which == "*" or ("(" in line and name in which.split(" || ")):
            assert any(line in call for call in ended), line  # in this order
    before = [call.split("(")[0] for call in begun]
    assert not [call for call in begun if call.startswith(FILLED) and ("{" in call or "[" in call)]
    for name in GIVEN:
        if name in before:
            assert any("{" in call or "[" in call for call in begun if call.startswith(f"{name}(")), name
    if which == "*":
        assert "ppoll(NULL, 0, {tv_sec=0, tv_nsec=3000}, NULL, 8)" in begun
