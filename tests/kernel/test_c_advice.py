"""Advice in C in the kernel: beside klasy's own advice at the same join points, and what the program itself did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.livekernel import leftovers
from support.weaving import woven

from klasy.backend import Options
from klasy.errors import InputError
from klasy.weaver.states import read_states

READ = "execution(ssize_t vfs_read(struct file *file, char *buf, size_t count, loff_t *pos))"


def test_c_beside_klasys_own(tmp_path):
    """Values, hits and state of C advice are those of klasy's own at the same join points, and of the reads made."""
    path = tmp_path / "klasy-c-advice"
    path.write_bytes(b"x" * 5000)
    inode = os.stat(path).st_ino
    text = f"""aspect c {{
        count by_c[comm];  count by_klasy[comm];
        hist sizes_c;      hist sizes_klasy;
        s64 sum_c;         s64 sum_klasy;
        u64 last[str(file->f_path.dentry->d_iname)];
        pointcut rd(struct file *file, size_t count): {READ} && if(file->f_inode->i_ino == {inode});
        before(struct file *file, size_t count): rd(file, count) %{{
            const unsigned char *name = file->f_path.dentry->d_name.name;
            char who[16];
            log("%s "   // two lines
                "%lu %lu %x\\n", name, count, file->f_inode->i_ino, file->f_flags);
            bpf_get_current_comm(who, sizeof(who));
            by_c_add(who, 1); sizes_c_add(count); sum_c_add(-count);
            last_set((const char *)file->f_path.dentry->d_iname, count);
            if (count == 1000) {{ last_delete((const char *)file->f_path.dentry->d_iname); return 0; }}
            log("%d", sum_c_get());
        %}}
        before(struct file *file, size_t count): rd(file, count) {{
            log("%s %lu %lu %x", str(file->f_path.dentry->d_name.name), count, file->f_inode->i_ino, file->f_flags);
            by_klasy[comm]++; sizes_klasy.add(count); sum_klasy -= count;
        }}
        after(struct file *file, size_t count) returning (ssize_t done): rd(file, count) %{{
            log("%ld of %lu", done, count);
        %}}
    }}"""
    wanted = [10, 1000, 70, 4000, 70]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with woven(text) as aspect:
            done = [len(os.read(descriptor, size)) for size in wanted]
            hits = [aspect.total(advice) for advice in range(3)]
            events = [aspect.as_json(event) for event in aspect.events()]
            states = {c.state.name: dict(c.elements) for c in read_states(aspect.aspect)}
    finally:
        os.close(descriptor)
    assert hits == [len(wanted)] * 3
    said = {
        advice: [e["message"] for e in events if e["advice"] == advice]
        for advice in ("before#0", "before#1", "after#2")
    }
    assert said["before#1"] == [f"klasy-c-advice {size} {inode} 8000" for size in wanted]
    assert [m for m in said["before#0"] if " " in m] == said["before#1"]
    sums = [-sum(wanted[: n + 1]) for n in range(len(wanted)) if wanted[n] != 1000]
    assert [int(m) for m in said["before#0"] if " " not in m] == sums
    assert said["after#2"] == [f"{n} of {size}" for n, size in zip(done, wanted, strict=True)]
    assert done == [10, 1000, 70, 3920, 0]
    for name in ("by", "sizes", "sum"):
        assert states[f"{name}_c"] == states[f"{name}_klasy"], name
    (kept,) = states["last"].items()
    assert kept[0].rstrip(b"\0") == b"klasy-c-advice"
    assert kept[1] == (70,)
    assert leftovers() == {}


def test_the_kernels_plain_char(tmp_path):
    """It is unsigned from Linux 6.2 on, in advice of both kinds; strings of the kernel are of it."""
    path = tmp_path / "klasy-char"
    path.write_bytes(b"x")
    text = f"""aspect c {{
        pointcut rd(struct file *file): {READ} && if(file->f_inode->i_ino == {os.stat(path).st_ino});
        before(struct file *file): rd(file) %{{ char c = file->f_flags * 0 + 200; log("%d", c); %}}
        before(struct file *file): rd(file) {{
            char *type = file->f_inode->i_sb->s_id, c = 200;
            log("%d", c);
            log("%d", type == file->f_inode->i_sb->s_id);
        }}
    }}"""
    with path.open("rb", buffering=0) as file, woven(text) as aspect:
        file.read()
        said = [aspect.as_json(event)["message"] for event in aspect.events()]
    unsigned = [int(part) for part in os.uname().release.split(".")[:2]] >= [6, 2]
    assert said[:3] == [str(200 if unsigned else -56)] * 2 + ["1"]


def test_byte_order_and_enclosing_objects():
    """Members can stand where their byte order is changed; an object is found around a part of it, by variables."""
    text = """aspect c {
        pointcut sent(struct sock *sk): execution(tcp_sendmsg(struct sock *sk, ..)) && if(comm == "klasy-c");
        before(struct sock *sk): sent(sk) %{
            struct socket *part = sk->sk_socket;
            struct socket_alloc *whole = container_of(part, struct socket_alloc, socket);
            log("%d %x %lu", ntohs(sk->sk_dport), ntohl(sk->sk_daddr), whole->vfs_inode.i_ino);
        %}
    }"""
    program = """if True:
        import os, socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        open("/proc/self/comm", "w").write("klasy-c")
        client.send(b"x")
        print(server.getsockname()[1], "7f000001", os.fstat(client.fileno()).st_ino)
    """
    with woven(text) as aspect:
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        said = [aspect.as_json(event)["message"] for event in aspect.events()]
    assert said == [done.stdout.strip()]


@pytest.mark.parametrize("force", ["kprobe", "dispatch"])
def test_other_mechanisms(force, tmp_path):
    """By kprobes, with arguments at the return from a mark; and at calls, told apart by the return address. What finds
    no room in the buffer is counted."""
    pointcut = READ if force == "kprobe" else READ.replace("execution", "call")
    mine = f"if(pid == {os.getpid()} && count == 77)"
    text = f"""aspect m {{
        after(struct file *file, size_t count) returning (long done): {pointcut} && {mine} %{{
            log("%s %lu %ld", file->f_path.dentry->d_name.name, count, done);
        %}}
    }}"""
    (tmp_path / "klasy-mechanism").write_bytes(b"y" * 100)
    room = Options(ring_bytes=4096)
    with (
        woven(text, force=force, limits=room) as aspect,
        (tmp_path / "klasy-mechanism").open("rb", buffering=0) as file,
    ):
        file.read(77)
        file.read(77)
        messages = [event.message for event in aspect.events()]
        for _ in range(100):
            file.read(77)
        written = len(aspect.events())
        assert 0 < written < 100
        (lost,) = {count.lost for count in aspect.aspect.counts() if count.hits}
        assert lost == 100 - written
    assert messages == ["klasy-mechanism 77 77", "klasy-mechanism 77 23"]
    assert leftovers() == {}


def test_what_the_kernel_refuses():
    """C that the verifier does not take is the user's error, and nothing of the aspect stays."""
    text = f"""aspect r {{
        before(): {READ} {{ log(1); }}
        before(struct file *file): {READ} %{{ u64 n = *(volatile u64 *)bpf_ktime_get_ns(); log("%d", n); %}}
    }}"""
    with pytest.raises(InputError) as caught, woven(text):
        pass
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "c-refused"
    assert diagnostic.span is not None
    assert diagnostic.span.text.startswith("%{")
    assert leftovers() == {}
    assert not Path("/sys/fs/bpf/klasy/r").exists()
