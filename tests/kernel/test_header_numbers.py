"""Numbers that only the kernel's headers name, against what the kernel itself says of them."""

from __future__ import annotations

import mmap
import os
import re
import socket
import stat
from pathlib import Path

import pytest
from support.children import child, let_go
from support.weaving import TRACING, woven

from klasy.kernel import macros
from klasy.kernel.live import LiveKernel

pytestmark = pytest.mark.usefixtures("nothing_left")

# Documentation/filesystems/proc.rst: what a mapping is flagged with in smaps
MAPPED = (
    "rd READ, wr WRITE, ex EXEC, sh SHARED, mr MAYREAD, mw MAYWRITE, me MAYEXEC, ms MAYSHARE, gd GROWSDOWN, pf PFNMAP, "
    "lo LOCKED, io IO, sr SEQ_READ, rr RAND_READ, dc DONTCOPY, de DONTEXPAND, ac ACCOUNT, nr NORESERVE, ht HUGETLB, "
    "sf SYNC, wf WIPEONFORK, dd DONTDUMP, mm MIXEDMAP, hg HUGEPAGE, nh NOHUGEPAGE, lf LOCKONFAULT"
)
VM = {letters: name for letters, name in (pair.split() for pair in MAPPED.split(", "))}
MADV_WIPEONFORK = 18


def number(name: str) -> int:
    """What a macro stands for in this kernel."""
    found = macros.find(name, LiveKernel())
    assert found is not None, name
    return found.value


def printed(event: str) -> dict[str, int]:
    """The names that an event prints for the bits of a field, with the numbers that this kernel was built with."""
    text = (TRACING / f"events/{event}/format").read_text()
    pairs = re.findall(r'\{ *((?:[^{}"]|\(.*?\))*?), "(\w+)" *\}', text)
    types = r"\( *(?:unsigned long|gfp_t) *\)|(?<=[0-9a-f])[uUlL]+\b"
    return {name: eval(re.sub(types, "", said), {"__builtins__": {}}) for said, name in pairs}


def test_states_of_tasks() -> None:
    """The letters of a state, as sched_switch prints them; the flags of threads of the kernel and of programs."""
    letters = printed("sched/sched_switch")
    names = "TASK_INTERRUPTIBLE TASK_UNINTERRUPTIBLE __TASK_STOPPED __TASK_TRACED EXIT_DEAD EXIT_ZOMBIE TASK_PARKED"
    known = {letter: number(name) for letter, name in zip("SDTtXZP", names.split(), strict=True)}
    assert known == {letter: letters[letter] for letter in known}
    threads = {int(Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[6]) for task in ("2", "self")}
    assert {each & number("PF_KTHREAD") for each in threads} == {0, number("PF_KTHREAD")}
    workers = [
        fields.rpartition(")")[2].split()[6]
        for fields in (path.read_text() for path in Path("/proc").glob("[0-9]*/stat"))
        if "(kworker/" in fields
    ]
    assert workers
    assert all(int(flags) & number("PF_WQ_WORKER") for flags in workers)


def test_flags_of_allocations() -> None:
    """As kmem_cache_alloc prints them: what GFP_ATOMIC is was changed between the kernels."""
    said = printed("kmem/kmem_cache_alloc")
    known = {name for name in said if macros.find(name, LiveKernel())}
    assert {"GFP_KERNEL", "GFP_ATOMIC", "GFP_NOWAIT", "__GFP_ZERO", "__GFP_ACCOUNT"} <= known
    assert len(known) > 25
    assert {name: number(name) for name in known} == {name: said[name] for name in known}


def test_flags_of_mappings() -> None:
    """A fault's mapping by its flags, and the flags that smaps has of it."""
    private, shared = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    advices = (mmap.MADV_SEQUENTIAL, mmap.MADV_RANDOM, mmap.MADV_DONTFORK, mmap.MADV_DONTDUMP, MADV_WIPEONFORK)
    maps = [mmap.mmap(-1, 4 << 20, private), mmap.mmap(-1, 4 << 20, shared), mmap.mmap(-1, 4 << 20, private | 0x4000)]
    for advice in (*advices, mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE):
        maps.append(mmap.mmap(-1, 4 << 20, private))
        maps[-1].madvise(advice)
    shown = ", ".join(f"(vma->vm_flags & VM_{name}) != 0" for name in ("READ", "WRITE", "EXEC", "SHARED", "ACCOUNT"))
    text = f"""aspect a {{
        before(struct vm_area_struct *vma): execution(handle_mm_fault(struct vm_area_struct *vma, ..))
            && if(pid == {os.getpid()}) {{
            log("%lx %lx %d %d %d %d %d", vma->vm_start, vma->vm_flags, {shown});
        }}
    }}"""
    with woven(text) as a:
        for each in maps:
            each[1 << 21] = 1
        seen = [e.message.split() for e in a.events()]
    smaps = Path("/proc/self/smaps").read_text()
    mappings = re.finditer(r"^([0-9a-f]+)-[^\n]*$.*?^VmFlags: ([^\n]*)$", smaps, re.MULTILINE | re.DOTALL)
    flags = {int(mapping[1], 16): mapping[2].split() for mapping in mappings}
    compared = 0
    met: set[str] = set()
    for start, bits, *by_name in seen:
        words = flags.get(int(start, 16))
        if words is None:
            continue
        compared += 1
        met |= set(words)
        assert {w for w in words if w in VM} == {w for w, name in VM.items() if int(bits, 16) & number(f"VM_{name}")}
        assert by_name == [str(int(word in words)) for word in ("rd", "wr", "ex", "sh", "ac")]
    assert compared >= len(maps)
    assert {"sh", "sr", "rr", "dc", "dd", "wf", "hg", "nh", "nr", "ac"} <= met


@pytest.mark.usefixtures("loopback")
def test_modes_of_files_and_formats_of_packets(tmp_path: Path) -> None:
    """What a program opened and wrote, and the packets that it made, by names: in klasy's language and in C."""
    path = tmp_path / "klasy-numbers"
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def act() -> None:
        for flags in (os.O_WRONLY | os.O_CREAT, os.O_RDWR):
            os.write(os.open(path, flags), b"x")
        _, write = os.pipe()
        os.write(write, b"x")
        socket.create_connection(("127.0.0.1", port)).close()
        os.setpriority(os.PRIO_PROCESS, 0, 5)

    number, go = child(act)
    condition = f"if(pid == {number})"
    text = f"""aspect a {{
        before(struct file *file): execution(ssize_t vfs_write(struct file *file, ..)) && {condition} {{
            u32 kind = file->f_inode->i_mode & S_IFMT;
            u32 both = file->f_mode & (FMODE_READ | FMODE_WRITE);
            log("%d %d %d", kind == S_IFREG, kind == S_IFIFO, both == FMODE_WRITE);
        }}
        before(struct file *file): execution(ssize_t vfs_write(struct file *file, ..)) && {condition} %{{
            u32 kind = file->f_inode->i_mode & S_IFMT;
            u32 both = file->f_mode & (FMODE_READ | FMODE_WRITE);
            log("%d %d %d", kind == S_IFREG, kind == S_IFIFO, both == FMODE_WRITE);
        %}}
        before(struct sk_buff *skb): execution(int tcp_v4_rcv(struct sk_buff *skb)) {{
            struct tcphdr *t = (struct tcphdr *)(skb->head + skb->transport_header);
            u8 flags = *((u8 *)t + 13);
            if (ntohs(skb->protocol) == ETH_P_IP && (flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN)
                log("%d", ntohs(t->dest));
        }}
        after() returning (long r): syscall(setpriority) && {condition} {{
            log("%d %d", current->static_prio == DEFAULT_PRIO + 5, 3 * NSEC_PER_SEC / NSEC_PER_MSEC);
        }}
    }}"""
    with server, woven(text) as a:
        let_go(number, go)
        said = [(e.advice, e.message) for e in a.events()]
    wanted = ["1 0 1", "1 0 0", "0 1 1"]
    assert stat.S_ISREG(path.stat().st_mode)
    assert [m for advice, m in said if advice == "before#0"] == wanted
    assert [m for advice, m in said if advice == "before#1"] == wanted
    assert [m for advice, m in said if advice == "before#2"] == [str(port)]
    assert [m for advice, m in said if advice == "after#3"] == ["1 3000"]
