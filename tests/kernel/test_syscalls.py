"""System calls against what the program that made them knows: numbers of calls, arguments, results."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from pathlib import Path

import pytest
from support.children import child, let_go
from support.weaving import woven

from klasy.errors import InputError
from klasy.kernel.live import LiveKernel
from klasy.source import SourceFile
from klasy.weaver.build import build

LIBC = ctypes.CDLL(None, use_errno=True)


pytestmark = pytest.mark.usefixtures("nothing_left")


NAME = "/tmp/klasy-no-such-file"


def test_macros_mean_what_they_mean_to_programs() -> None:
    """Errors, flags, families and signals by their names in the headers: in conditions, advice, keys and functions."""

    def act() -> None:
        LIBC.open(NAME.encode(), os.O_WRONLY | os.O_APPEND)
        LIBC.open(NAME.encode(), os.O_RDONLY)
        LIBC.open(b"/", os.O_WRONLY)
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close()
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        os.kill(os.getpid(), signal.SIGWINCH)

    number, go = child(act)
    text = f"""aspect a {{
        count families[int];
        bool appends(int flags) {{ return (flags & O_APPEND) != 0; }}
        after(int flags) returning (long r): syscall(openat) && if(pid == {number} && r == -ENOENT) {{
            log("no such file, %d, %d", appends(flags), (flags & O_ACCMODE_) == O_WRONLY);
        }}
        after() returning (long r): syscall(openat) && if(pid == {number} && r == -EISDIR) {{ log("directory"); }}
        before(int family): syscall(socket) && if(pid == {number} && family == AF_UNIX) {{ families[AF_UNIX]++; }}
        before(int sig): syscall(kill) && if(pid == {number} && sig == SIGWINCH) {{ log("sends %d", SIGWINCH); }}
    }}""".replace("O_ACCMODE_", "(O_WRONLY | O_RDWR)")
    with woven(text) as a:
        let_go(number, go)
        messages = [e.message for e in a.events()]
    assert messages == ["no such file, 1, 1", "no such file, 0, 0", "directory", f"sends {int(signal.SIGWINCH)}"]


def test_arguments_and_results_are_the_programs(tmp_path: Path) -> None:
    """Calls of a process with known arguments: a name, flags, numbers; each once before and once after."""
    file = tmp_path / "f"
    file.write_bytes(b"12345")

    def act() -> None:
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CLOEXEC):
            descriptor = LIBC.open(str(file).encode(), flags)  # openat in the C library
            os.lseek(descriptor, 3, os.SEEK_SET)
            os.close(descriptor)
        LIBC.open(NAME.encode(), os.O_RDONLY)
        os.umask(0o123)

    number, go = child(act)
    text = f"""aspect a {{
        pointcut mine(const char *filename): syscall(openat) && if(pid == {number} && filename != "/etc/ld.so.cache");
        before(const char *name): mine(name) {{ log(name); }}
        after(int dfd, const char *filename, int flags) returning (long r): syscall(openat) && if(pid == {number}) {{
            log("%d %s %d %d", dfd, filename, flags, r);
        }}
        after(unsigned int fd, off_t offset, unsigned int whence) returning (off_t at):
            syscall(lseek) && if(pid == {number}) {{ log("%d %d %d", offset, whence, at); }}
        before(int mask): syscall(umask) && if(pid == {number}) {{ log(mask); }}
        after() returning (int r): syscall(clos*) && !syscall(close_range) && if(pid == {number}) {{ log(r); }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        logged = a.events()
        assert {point.kind for point in a.aspect.joinpoints} == {"syscall"}
        assert {point.function for point in a.aspect.joinpoints} == {"openat", "lseek", "umask", "close"}
        assert {point.mechanism for point in a.aspect.joinpoints} == {"fentry", "fexit"}
    opened = [e.message for e in logged if e.advice == "after#1"]
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CLOEXEC)
    descriptors = [int(message.split()[-1]) for message in opened]
    assert opened == [f"-100 {file} {flag} {fd}" for flag, fd in zip(flags, descriptors, strict=False)] + [
        f"-100 {NAME} 0 -2"
    ]
    assert all(descriptor > 2 for descriptor in descriptors[:3])
    assert [dict(e.values)["name"] for e in logged if e.advice == "before#0"] == [str(file)] * 3 + [NAME]
    assert [e.message for e in logged if e.advice == "after#2"] == ["3 0 3"] * 3
    assert [dict(e.values)["mask"] for e in logged if e.advice == "before#3"] == [0o123]
    assert [dict(e.values)["r"] for e in logged if e.advice == "after#4"] == [0, 0, 0]
    assert {e.joinpoint.place for e in logged if e.advice == "after#1"} == {"syscall openat"}


def test_both_ends_are_paired_through_fork_exec_and_exit() -> None:
    """A fork returns once in who made it, not in its child; an exec returns; an exit does not."""

    def act() -> None:
        grandchild = os.fork()
        if not grandchild:
            os.execv("/bin/true", ["true"])
        os.waitpid(grandchild, 0)

    number, go = child(act)
    text = f"""aspect a {{
        after() returning (long r): syscall(clone) && if(pid == {number} || r == 0) {{ log(pid, r); }}
        before(const char *filename): syscall(execve) {{ log(pid, filename); }}
        after() returning (long r): syscall(execve) {{ log(pid, r); }}
        before(int error_code): syscall(exit_group) && if(pid == {number}) {{ log(error_code); }}
        after() returning (long r): syscall(wait4) && if(pid == {number}) {{ log(r); }}
    }}"""
    with woven(text) as a:
        let_go(number, go)
        logged = a.events()
    values = {n: [dict(e.values) for e in logged if e.advice.endswith(f"#{n}")] for n in range(5)}
    assert len(values[0]) == 1
    grandchild = values[0][0]["r"]
    assert values[0][0]["pid"] == number
    assert grandchild > number
    assert {"pid": grandchild, "filename": "/bin/true"} in values[1]
    assert {"pid": grandchild, "r": 0} in values[2]
    assert values[3] == [{"error_code": 0}]
    assert values[4] == [{"r": grandchild}]


def test_errors_name_what_there_is() -> None:
    """Of the live kernel: a misspelt call, a misspelt argument, what exec replaces, what never returns."""
    text = """aspect a {
        before(): syscall(opnat) { log(1); }
        before(): syscall(__x64_sys_openat) { log(1); }
        before(const char *path): syscall(openat) { log(path); }
        before(int filename): syscall(openat) { log(filename); }
        after(const char *filename): syscall(execve) { log(filename); }
        after(): syscall(exit_group) { log(1); }
    }"""
    with pytest.raises(InputError) as caught:
        build(SourceFile("test.asp", text), LiveKernel())
    found = caught.value.diagnostics
    assert [d.code for d in found if d.severity.value == "error"] == [
        "unknown-syscall",
        "unknown-syscall",
        "unknown-argument",
        "wrong-argument-type",
    ]
    hints = [hint for d in found for hint in d.hints]
    assert "did you mean 'openat' or 'openat2'?" in hints or "did you mean 'openat'?" in hints
    assert "write syscall(openat)" in hints
    assert "it is openat(int dfd, const char *filename, int flags, umode_t mode)" in hints
