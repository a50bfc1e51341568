"""Logged values equal what is known otherwise: from /proc, from system calls, from the program that caused them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.livekernel import btf, leftovers, symbols
from support.weaving import woven

from klasy.btf.types import Struct
from klasy.btf.walk import find_member
from klasy.kernel.live import LiveKernel
from klasy.log.format_text import event_text
from klasy.log.symbolize import Symbolizer
from klasy.log.value import Char, EnumValue, Fault, Pointer, Record

ASPECT = """
aspect values {
    pointcut synced(struct file *file): execution(vfs_fsync_range(struct file *file, ..));
    pointcut shut(struct socket *sock): execution(inet_shutdown(struct socket *sock, ..));
    pointcut named(struct task_struct *tsk, const char *buf, bool exec):
        execution(__set_task_comm(struct task_struct *tsk, const char *buf, bool exec));
    pointcut attribute(const char *name, const void *value):
        execution(vfs_setxattr(.., const char *name, const void *value, ..));

    before(struct file *file): synced(file) && if(pid == PID) {
        struct inode *inode = file->f_inode;
        log(inode->i_ino, inode->i_size, inode->i_mode, inode->i_nlink, inode->i_uid.val, inode->i_gid.val,
            file->f_pos, file->f_flags, inode->i_sb->s_magic);
        log(inode->i_sb->s_id, inode->i_sb->s_type->name, str(file->f_path.dentry->d_name.name));
        log(file->f_op->fsync, inode->i_sb->s_type, file->f_op, inode,
            container_of(&inode->i_size, struct inode, i_size) == inode);
    }
    after(struct file *file) returning (int result): synced(file) && if(pid == PID) { log(result, file->f_pos); }

    before(struct socket *sock): shut(sock) && if(pid == PID) {
        struct sock *sk = sock->sk;
        log(sk->sk_family, sk->__sk_common.skc_num, sk->__sk_common.skc_dport, sk->__sk_common.skc_rcv_saddr,
            sk->__sk_common.skc_daddr, ((struct inet_sock *)sk)->inet_sport, ((struct inet_sock *)sk)->tos,
            ((struct inet_sock *)sk)->uc_ttl);
        log(sk->sk_rcvbuf, sk->sk_sndbuf, sk->sk_type, sk->sk_protocol, sk->sk_mark, sk->sk_priority,
            sk->__sk_common.skc_reuse, sk->__sk_common.skc_reuseport, sk->sk_receive_queue.qlen);
        log(sock->state, sock->type, sock);
    }

    before(struct task_struct *tsk, const char *buf, bool exec): named(tsk, buf, exec) && if(pid == PID) {
        log(tsk->comm, buf, exec, comm, buf == "klasy-value", tsk->comm == "klasy-value");
        log(tsk->pid, tsk->tgid, tsk->real_parent->tgid, tsk->group_leader->pid, tsk->static_prio, tsk->policy,
            tsk->mm->start_stack, tsk->mm->arg_start, tsk->signal->nr_threads, tsk->start_time, tsk->cpus_mask.bits[0]);
        log(tsk->pid, tsk->bio_list->head, *(int *)8, tsk->bio_list->tail->bi_next->bi_status + tsk->pid, tsk->tgid);
        log("%d %5d|%-5d|%05d %u %x %#lx %o %c%% %s %8.3s| %p %pS %ps %s", tsk->pid, 42, 42, -42, tsk->exit_code - 1,
            tsk->static_prio, tsk->flags, tsk->static_prio, 'k', buf, buf, tsk, tsk->restart_block.fn,
            tsk->restart_block.fn, exec);
        log("%d and %s", tsk->bio_list->head->bi_status, tsk->comm);
    }

    before(const char *name, const void *value): attribute(name, value) && if(pid == PID) {
        log(name, str(value), *(u64 *)value, *(s64 *)value, *(s8 *)value, ((char *)value)[1], *(_Bool *)value, value);
        log("%lld %llu %llx %d %hhd", *(s64 *)value, *(u64 *)value, *(s64 *)value, *(u32 *)value, *(s8 *)value);
    }

    before(): execution(vfs_mkdir) {
        log(pid, tid, comm, uid, gid, cpu, cgroup, now);
        log(joinpoint.kind, joinpoint.function, joinpoint.address, joinpoint.module, joinpoint.callee, joinpoint.file,
            joinpoint.line);
        log("%s %s %s %p %pS %lx %u", joinpoint.kind, joinpoint.function, joinpoint.module, joinpoint.address,
            joinpoint.address, joinpoint.address, joinpoint.line);
    }
}
"""


MECHANISMS = {"fentry": {"fentry", "fexit"}, "kprobe": {"kprobe", "kretprobe"}}


@pytest.fixture(scope="module", params=MECHANISMS)
def everything(request):
    """Everything that is logged here, woven by either mechanism."""
    with woven(ASPECT.replace("PID", str(os.getpid())), force=request.param) as aspect:
        assert {point.mechanism for point in aspect.aspect.joinpoints} == MECHANISMS[request.param]
        yield aspect
    assert leftovers() == {}


@pytest.fixture
def aspect(everything, tmp_path):
    """It, with nothing logged so far: making folders for tests is logged, too."""
    everything.events()
    return everything


@pytest.fixture
def folder(tmp_path, everything):
    """A folder on a file system of its own: on an overlay each vfs function runs twice."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "klasy", tmp_path], check=True)
    everything.events()
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def rows(events) -> list[list]:
    """The values of each event."""
    return [[value for _, value in event.values] for event in events]


def test_files(aspect, folder):
    """Members of file, inode and superblock, through chains of pointers, equal what stat, fcntl and /proc say."""
    path = folder / "a file"
    path.write_bytes(b"x" * 4321)
    os.link(path, folder / "link")
    os.chown(path, 1234, 0xFFFF_FFF0)
    os.chmod(path, 0o4751)
    with open(path, "rb+", opener=lambda name, flags: os.open(name, flags | os.O_APPEND | os.O_NONBLOCK)) as file:
        os.lseek(file.fileno(), 12345, os.SEEK_SET)
        os.fsync(file.fileno())
        stat = os.fstat(file.fileno())
        flags = fcntl.fcntl(file, fcntl.F_GETFL)
        fdinfo = dict(re.findall(r"(\w+):\s*(\w+)", Path(f"/proc/self/fdinfo/{file.fileno()}").read_text()))
    numbers, texts, whole, after = aspect.events()
    assert rows([numbers]) == [
        [
            *(stat.st_ino, stat.st_size, stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid),
            *(int(fdinfo["pos"]), flags, 0x0102_1994),  # TMPFS_MAGIC of magic.h
        ]
    ]
    assert [stat.st_size, int(fdinfo["pos"]), stat.st_gid] == [4321, 12345, 0xFFFF_FFF0]
    assert rows([texts]) == [["tmpfs", "tmpfs", "a file"]]
    fsync, kind, operations, inode, same = rows([whole])[0]
    assert aspect.as_json(whole)["values"]["file->f_op->fsync"] == "noop_fsync"
    assert fsync.address == symbols()["noop_fsync"]
    assert dict(kind.members)["fs_flags"] & 8  # FS_USERNS_MOUNT of fs.h
    members = dict(operations.members)
    assert members["fsync"] == Pointer(fsync.address, members["fsync"].type_name)
    assert operations.address == symbols_of_data("shmem_file_operations")
    assert all(isinstance(v, Pointer | int) for v in members.values())
    assert inode.type_name == "struct inode"
    assert dict(inode.members)["i_ino"] == stat.st_ino
    assert dict(dict(inode.members)["i_uid"].members) == {"val": stat.st_uid}
    assert same == 1
    assert rows([after]) == [[0, 12345]]


def symbols_of_data(name: str) -> int:
    """The address of a variable."""
    with open("/proc/kallsyms") as file:
        return next(int(line.split()[0], 16) for line in file if line.split()[2] == name)


def test_a_whole_struct_is_the_memory_it_was(aspect, folder):
    """A struct logged whole is decoded member by member as the same bytes read through /proc/kcore say."""
    with open(folder / "f", "w") as file:
        os.fsync(file.fileno())
    whole = next(event for event in aspect.events() if "file->f_op" in dict(event.values))
    for name in ("file->f_op", "inode->i_sb->s_type"):
        record = dict(whole.values)[name]
        (struct_id,) = btf().find(record.type_name.rpartition("struct ")[2], Struct)
        memory = LiveKernel().read(record.address, btf().size_of(struct_id))
        compared = 0
        for member, value in record.members:
            place = find_member(btf(), struct_id, member)
            if isinstance(value, int | Pointer):
                width = btf().size_of(place.type_id)
                raw = int.from_bytes(memory[place.byte_offset : place.byte_offset + width], "little")
                assert (value.address if isinstance(value, Pointer) else value) == raw, (name, member)
                compared += 1
        assert compared >= 8
        lines = event_text(whole, Symbolizer(LiveKernel()))
        assert f"(const struct file_operations *) {dict(whole.values)['file->f_op'].address:#x} {{" in lines
        assert "    fsync = noop_fsync,\n" in lines


@pytest.mark.parametrize("queued", [0, 3])
def test_sockets(aspect, queued):
    """Addresses, ports, options, bit-fields and the queue of a socket are as its own program knows them."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    other.bind(("127.0.0.2", 0))
    one.connect(other.getsockname())
    other.connect(one.getsockname())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, queued > 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x7EED_BEEF)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 34567)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
    if queued:
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 200)
    for _ in range(queued):
        other.send(b"datagram")
    one.shutdown(socket.SHUT_WR)
    addresses, numbers, whole = aspect.events()
    (here, port), (there, other_port) = one.getsockname(), one.getpeername()
    assert rows([addresses]) == [
        [
            *(socket.AF_INET, port, socket.htons(other_port)),
            *(struct.unpack("=I", socket.inet_aton(ip))[0] for ip in (here, there)),
            *(socket.htons(port), 0xB8, 200 if queued else -1),
        ]
    ]
    options = (socket.SO_RCVBUF, socket.SO_SNDBUF, socket.SO_TYPE, socket.SO_PROTOCOL)
    assert rows([numbers]) == [
        [
            *(one.getsockopt(socket.SOL_SOCKET, option) for option in options),
            *(0x7EED_BEEF, one.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY), queued > 0, 1, queued),
        ]
    ]
    state, kind, record = rows([whole])[0]
    assert state == EnumValue(1, "SS_UNCONNECTED")  # as a datagram socket stays
    assert kind == socket.SOCK_DGRAM
    assert isinstance(record, Record)
    assert dict(record.members)["state"] == state
    assert dict(record.members)["type"] == kind
    document = aspect.as_json(whole)["values"]
    assert document["sock->state"] == document["sock"]["state"] == "SS_UNCONNECTED"
    assert document["sock"]["ops"] == f"{symbols_of_data('inet_dgram_ops'):#x}"
    for _ in range(queued):
        assert one.recv(100) == b"datagram"
    one.close()
    other.close()


def rename_task(name: str) -> None:
    """Give this thread another name, by prctl(PR_SET_NAME) as the C library makes it available."""
    Path("/proc/thread-self/comm").write_text(name)


def test_tasks(aspect):
    """Members of the current task equal /proc/self/stat; strings of arrays and pointers, a bool, a comparison."""
    before = Path("/proc/thread-self/comm").read_text().strip()
    rename_task("klasy-value")
    rename_task("other")
    texts, numbers, *_ = aspect.events()
    after = aspect.events()
    rename_task(before)
    assert after == []
    assert rows([texts]) == [[before, "klasy-value", False, before, 1, 0]]
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from field 3 on
    assert rows([numbers]) == [
        [
            *(os.getpid(), os.getpid(), os.getppid(), os.getpid(), 120 + int(stat[19 - 3]), int(stat[41 - 3])),
            *(int(stat[28 - 3]), int(stat[48 - 3]), int(stat[20 - 3]), dict(numbers.values)["tsk->start_time"]),
            sum(1 << cpu for cpu in os.sched_getaffinity(0)),
        ]
    ]
    started = dict(numbers.values)["tsk->start_time"] / 1e9
    assert abs(started - int(stat[22 - 3]) / os.sysconf("SC_CLK_TCK")) < 1


def test_templates(aspect):
    """A format shows its values as C's printf does."""
    before = Path("/proc/thread-self/comm").read_text().strip()
    rename_task("klasy-value")
    _, _, _, event, _ = aspect.events()
    rename_task(before)
    line = event.message
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    flags, priority = int(stat[9 - 3]), 120 + int(stat[19 - 3])
    head = f"{os.getpid()}    42|42   |-0042 {2**32 - 1} {priority:x} {flags:#x} {priority:o} k% klasy-value      kla| "
    assert line.startswith(head)
    address, with_offset, name, flag = line.removeprefix(head).split()
    assert address.startswith("0xff")
    function = re.fullmatch(r"(\w*restart\w*)\+0x0", with_offset)
    assert function, line
    assert name == function[1]
    assert symbols()[name]
    assert flag == "false"


def test_faults_are_shown(aspect):
    """A value on the way to which memory could not be read is shown as such; the others of the record stand."""
    rename_task(Path("/proc/thread-self/comm").read_text().strip())
    _, _, event, _, template = aspect.events()
    faulty = ("tsk->bio_list->head", "*(int *)8", "tsk->bio_list->tail->bi_next->bi_status + tsk->pid")
    assert event.faults == faulty
    assert rows([event]) == [[os.getpid(), Fault(), Fault(), Fault(), os.getpid()]]
    text = event_text(event, Symbolizer(None))
    assert text.endswith(f"tsk->pid = {os.getpid()}, " + "".join(f"{name} = <bad address>, " for name in faulty)
                         + f"tsk->tgid = {os.getpid()}")  # fmt: skip
    document = aspect.as_json(event)
    assert [document["values"][name] for name in faulty] == [None] * 3
    assert document["faults"] == list(faulty)
    assert template.message.startswith("<bad address> and ")
    assert template.faults == ("tsk->bio_list->head->bi_status",)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain text\0hidden", "plain text"),
        (b"\xff" * 8 + b"\0", None),
        (b"\x1b]0;owned\x07\x1b[2J\0\0\0\0", "\x1b]0;owned\x07\x1b[2J"),
        ("žluťoučký kůň".encode() + b"\0", "žluťoučký kůň"),
        (b"a" * 300 + b"\0", "a" * 127),
        (b"\0" * 8, ""),
    ],
    ids=["plain", "not-text", "escapes", "utf-8", "long", "empty"],
)
def test_strings_and_raw_memory(aspect, folder, data, text):
    """Bytes that a program handed in come out as string, as numbers of every width and sign, as characters."""
    target = folder / "file"
    target.touch()
    name = "trusted." + "n" * 150
    os.setxattr(target, name, data)
    event, template = aspect.events()
    logged = rows([event])[0]
    unsigned, signed = struct.unpack("=Q", data[:8])[0], struct.unpack("=q", data[:8])[0]
    small = struct.unpack("=b", data[:1])[0]
    assert logged[0] == name[:127]
    if text is not None:
        assert logged[1] == text
    assert logged[2:7] == [unsigned, signed, small, logged[5], data[0] != 0]
    assert isinstance(logged[5], Char)
    assert logged[5].value & 0xFF == data[1]  # since Linux 6.2 the kernel's char is unsigned
    assert isinstance(logged[7], Pointer)
    word = struct.unpack("=I", data[:4])[0]
    assert template.message == f"{signed} {unsigned} {unsigned:x} {word} {small}"
    line = event_text(event, Symbolizer(None))
    assert line.isprintable()
    assert "\x1b" not in line
    document = aspect.as_json(event)["values"]
    assert document["str(value)"] == (text if text is not None else "\\xff" * 8)


def test_no_value_at_all(aspect, folder):
    """An empty attribute is a NULL pointer in the kernel: what is behind it is a fault, the pointer itself is not."""
    target = folder / "file"
    target.touch()
    os.setxattr(target, "trusted.empty", b"")
    event, template = aspect.events()
    logged = rows([event])[0]
    assert logged[0] == "trusted.empty"
    assert logged[1:7] == [Fault()] * 6
    assert logged[7].address == 0
    assert template.message == " ".join(["<bad address>"] * 5)


def test_context_names(aspect, folder):
    """pid, tid, comm, uid, gid, cpu, cgroup and now are those of the task that ran, told by itself."""
    for cpu in os.sched_getaffinity(0):
        told = in_child_on(cpu, folder)
        context = next(event for event in aspect.events() if event.pid == told["pid"])
        logged = dict(context.values)
        assert {name: logged[name] for name in ("pid", "tid", "comm", "uid", "gid", "cpu", "cgroup")} == {
            **told,
            "uid": 1234,
            "gid": 5678,
            "cpu": cpu,
        }
        assert (context.pid, context.tid, context.comm, context.cpu) == (told["pid"], told["tid"], told["comm"], cpu)
        assert (
            0 < logged["now"] - context.time_ns < 1_000_000_000 or 0 <= context.time_ns - logged["now"] < 1_000_000_000
        )


def in_child_on(cpu: int, folder: Path) -> dict:
    """Make a directory in a thread of another process, with a user, a group, a name and a cgroup of its own."""
    group = Path("/sys/fs/cgroup/klasy-test")
    group.mkdir(exist_ok=True)
    folder.chmod(0o777)
    inside = os.open(folder, os.O_RDONLY)  # what is above it is root's alone
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        (group / "cgroup.procs").write_text("0")
        os.sched_setaffinity(0, [cpu])

        def make() -> None:
            rename_task("a thread")
            os.setgroups([])
            os.setresgid(5678, 5678, 5678)
            os.setresuid(1234, 1234, 1234)
            os.mkdir(f"directory{cpu}", dir_fd=inside)
            os.write(writing, f"{threading.get_native_id()}".encode())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        os._exit(0)
    os.close(writing)
    os.close(inside)
    with os.fdopen(reading) as file:
        tid = int(file.read())
    assert os.waitpid(child, 0)[1] == 0
    inode = group.stat().st_ino
    group.rmdir()
    assert tid != child
    return {"pid": child, "tid": tid, "comm": "a thread", "cgroup": inode}


def test_now_is_the_monotonic_clock(aspect, folder):
    """``now`` and the time of a record lie between two looks at the clock."""
    start = time.monotonic_ns()
    os.mkdir(folder / "d")
    end = time.monotonic_ns()
    context, *_ = aspect.events()
    assert start < context.time_ns < end
    assert start < dict(context.values)["now"] < end


def test_joinpoint(aspect, folder):
    """joinpoint.* tells where the advice ran; what is not known is empty."""
    os.mkdir(folder / "d")
    _, event, template = aspect.events()
    address = symbols()["vfs_mkdir"]
    kind, function, where, module, callee, file, line = rows([event])[0]
    assert (kind, function, module, callee) == ("execution", "vfs_mkdir", "vmlinux", "")
    assert where.address == address
    assert (file, line) == ("", 0)
    assert template.message == f"execution vfs_mkdir vmlinux {address:#x} vfs_mkdir+0x0 {address:x} 0"
    document = aspect.as_json(event)
    assert document["joinpoint"] == {"kind": "execution", "function": "vfs_mkdir", "offset": 0, "callee": None}
    assert document["values"]["joinpoint.address"] == f"{address:#x}"


@pytest.mark.parametrize("force", ["sites", "dispatch"])
def test_values_at_a_call(force):
    """At a call the arguments are the callee's, by either mechanism: a queue shrinks from what was sent to nothing."""
    text = """aspect queue {
        pointcut call(skb_dequeue(struct sk_buff_head *list)) && within(unix_release_sock);
        before(struct sk_buff_head *list) { log(list->qlen, joinpoint.callee, joinpoint.function); }
        after(struct sk_buff_head *list) returning (struct sk_buff *skb) { log(list->qlen, skb->len, skb != 0); }
    }"""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for number in range(5):
        one.send(b"x" * (number + 1))
    with woven(text, force=force) as aspect:
        other.close()
        mine = aspect.mine()
    one.close()
    before = rows([event for event in mine if event.advice.startswith("before")])
    after = rows([event for event in mine if event.advice.startswith("after")])
    assert before == [[n, "skb_dequeue", "unix_release_sock"] for n in (5, 4, 3, 2, 1, 0)]
    assert after == [[4 - n, n + 1, 1] for n in range(5)] + [[0, Fault(), 0]]


GLOBALS = """
aspect globals {
    pointcut made(): execution(vfs_mkdir) && if(current->tgid == PID);
    before(): made() {
        log(init_net.ipv4.sysctl_ip_default_ttl, sysctl_tcp_mem[1], panic_timeout, *(unsigned long *)&_totalram_pages);
        log(init_task.comm, &init_task == current, current->comm, current->tgid, current->real_parent->tgid);
        log(per_cpu(runqueues, 1).cpu, per_cpu(runqueues, cpu).cpu == cpu, per_cpu(runqueues, cpu).curr == current,
            per_cpu(runqueues, 0).idle->pid, per_cpu(runqueues, cpu + 1000).cpu);
        log(vfs_mkdir, current->restart_block.fn == do_no_restart_syscall, jiffies);
    }
    before(char *text): user("libc.so.6": execution(a64l(char *text))) && if(current->tgid == PID) {
        log(text, current->comm, init_net.ipv4.sysctl_ip_default_ttl, per_cpu(runqueues, cpu).curr == current);
    }
}
"""


def test_globals():
    """Variables of the kernel, CPUs' own ones, functions and the current task are what /proc says of them.

    Also in the advice of a user program, beside that program's memory.
    """

    def sysctl(name: str) -> list[int]:
        return [int(word) for word in Path("/proc/sys", name).read_text().split()]

    panic = sysctl("kernel/panic")[0]
    try:
        Path("/proc/sys/kernel/panic").write_text("7")
        with woven(GLOBALS.replace("PID", str(os.getpid()))) as aspect:
            Path("/dev/shm/made").mkdir()
            ctypes.CDLL("libc.so.6").a64l(b"klasy")
            numbers, tasks, cpus, functions, program = aspect.events()
    finally:
        Path("/proc/sys/kernel/panic").write_text(str(panic))
        Path("/dev/shm/made").rmdir()
    memory = int(re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[0]) // 4  # pages
    ttl = sysctl("net/ipv4/ip_default_ttl")[0]
    name = Path("/proc/thread-self/comm").read_text().strip()
    assert rows([numbers]) == [[ttl, sysctl("net/ipv4/tcp_mem")[1], 7, memory]]
    assert rows([tasks]) == [["swapper/0", 0, name, os.getpid(), os.getppid()]]
    *found, nobody = rows([cpus])[0]
    assert found == [1, 1, 1, 0]
    assert isinstance(nobody, Fault)
    address, restart, jiffies = rows([functions])[0]
    assert (address.address, restart) == (symbols()["vfs_mkdir"], 1)
    now = int(re.findall(r"^jiffies: (\d+)", Path("/proc/timer_list").read_text(), re.M)[0])
    assert 0 < now - jiffies < 300 * 250
    assert rows([program]) == [["klasy", name, ttl, 1]]
