"""Accesses to members of types, each held against an account that is not klasy's."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import subprocess
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from support.livekernel import define
from support.waiting import wait_for
from support.weaving import TRACING, Account, place, woven

from klasy.flow import sites
from klasy.kernel.live import LiveKernel

# include/uapi/linux/if_tun.h
IFF_TAP, IFF_VNET_HDR, IFF_NOFILTER, TUNSETIFF, TUNGETIFF = 2, 0x4000, 0x1000, 0x400454CA, 0x800454D2
CWND_IN_TCP_INFO = 80  # offset of tcpi_snd_cwnd, include/uapi/linux/tcp.h


pytestmark = pytest.mark.usefixtures("nothing_left")


class Raw:
    """Trace events of the test's own at the same instructions: what the member holds there."""

    def __init__(self, found) -> None:
        self.found = found

    def __enter__(self) -> Raw:
        kernel = LiveKernel()
        (TRACING / "trace").write_text("")
        for number, (address, base, offset) in enumerate(self.found):
            define(f"p:rawmember/a{number} {place(kernel, address)} v=+{offset}(%{base}):u32 o=%{base}:x64")
        (TRACING / "events/rawmember/enable").write_text("1")
        return self

    def __exit__(self, *_: object) -> None:
        (TRACING / "events/rawmember/enable").write_text("0")
        define("-:rawmember/")

    def seen(self) -> list[tuple[int, int, int]]:
        """(address of the instruction, object, old value), in the order of time."""
        rows: list[tuple[int, int, int]] = []
        for line in (TRACING / "trace").read_text().splitlines():
            match = re.search(r" a(\d+): .* v=(\d+) o=0x([0-9a-f]+)", line)
            if match:
                rows.append((self.found[int(match[1])][0], int(match[3], 16), int(match[2])))
        return rows


def transfer(client: socket.socket, server: socket.socket, size: int) -> None:
    """Bytes from one end to the other, sent until all are acknowledged."""

    def drain() -> None:
        left = size
        while left:
            left -= len(server.recv(65536))

    reader = threading.Thread(target=drain)
    reader.start()
    client.sendall(b"x" * size)
    reader.join()


def test_congestion_window_against_raw_events_and_tcp_info():
    """A set of snd_cwnd has the object and old value that raw events saw; new is the next old, and what TCP says.

    Behind each the advice runs once, with the same, and finds the new value in memory.
    """
    text = """aspect cwnd {
        before(struct tcp_sock *t): set(struct tcp_sock.snd_cwnd) && within(tcp_*) && target(t) {
            log((unsigned long)t, old, new, value, t->inet_conn.icsk_inet.inet_sport); }
        after(struct tcp_sock *t): set(struct tcp_sock.snd_cwnd) && within(tcp_*) && target(t) {
            log((unsigned long)t, old, new, t->snd_cwnd); }
    }"""
    with woven(text) as a:
        kernel = LiveKernel()
        member = sites.kernel_member(kernel, "tcp_sock", "snd_cwnd")
        known = {s.address: s for s in flow_sites(kernel, member, "tcp_")}
        at = sorted({point.address for point in a.aspect.joinpoints})
        assert len(at) > 10
        assert all(known[x].base_offset == 0 and known[x].writes for x in at)
        with Raw([(x, known[x].base_register, member.offset) for x in at]) as raw:
            a.events()  # of connections of others, before the raw events were there
            listener = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            transfer(client, server, 1 << 20)
            first = a.events()
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            port = socket.htons(client.getsockname()[1])
            for each in (client, server, listener):
                each.close()
            events = [*first]

            def over() -> bool:
                """Nothing came while both accounts were read: there is no one moment for that."""
                before = raw.seen()
                events.extend(a.events())
                return before == raw.seen()

            wait_for(over)
            seen = raw.seen()
            missed = a.missed()  # where an interrupt came upon a probe
        hits = a.hits(0)
        assert hits == a.hits(1) or missed
    behind = [event for event in events if event.advice == "after#1"]
    first, events = ([e for e in some if e.advice == "before#0"] for some in (first, events))
    rows = [tuple(dict(event.values).values()) for event in events]
    mine = [(event.joinpoint.address, row[0], row[1]) for event, row in zip(events, rows, strict=True)]
    assert len(mine) >= 5
    assert Counter(mine) <= Counter(seen)
    assert len(seen) - len(mine) <= missed, (Counter(seen) - Counter(mine), missed)
    late = [(event.joinpoint.address, *dict(event.values).values()) for event in behind]
    before = Counter((at, *row[:3]) for (at, _, _), row in zip(mine, rows, strict=True))
    assert Counter(row[:4] for row in late) == before or missed
    assert all(new == found for *_, new, found in late)
    chain = [row for row in rows if row[4] == port]
    assert len(chain) >= 2
    assert sum(one[2] != other[1] for one, other in pairwise(chain)) <= missed, (chain, missed)
    last = [row[2] for row in rows[: len(first)] if row[4] == port][-1]
    later = {row[2] for row in rows[len(first) :] if row[4] == port}
    assert struct.unpack_from("<I", info, CWND_IN_TCP_INFO)[0] in {last, *later}
    assert all(row[2] == row[3] for row in rows)


def flow_sites(kernel: LiveKernel, member, prefix: str):
    from klasy import flow

    def where(module, address):
        function = kernel.function_at(address)
        return function is not None and function.base.startswith(prefix)

    return flow.accesses(kernel, [member], where=where).accesses


def test_position_in_a_file(tmp_path: Path):
    """What lseek sets is set as 'new' and read as 'value', on the file whose object is bound."""
    mine = f"(within(*llseek*) || within(vfs_setpos*)) && target(f) && if(pid == {os.getpid()})"
    text = f"""aspect pos {{
        before(struct file *f): set(struct file.f_pos) && {mine} {{ log((unsigned long)f, old, new); }}
        before(struct file *f): get(struct file.f_pos) && {mine} {{ log((unsigned long)f, value); }}
        after(struct file *f): access(struct file.f_pos) && {mine} {{ log((unsigned long)f, value, f->f_pos); }}
    }}"""
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    with woven(text) as a:
        file = os.open(path, os.O_RDONLY)
        a.events()
        os.lseek(file, 1234, os.SEEK_SET)
        os.lseek(file, 4321, os.SEEK_SET)
        assert os.lseek(file, 0, os.SEEK_CUR) == 4321
        where = re.search(r"pos:\s*(\d+)", Path(f"/proc/self/fdinfo/{file}").read_text())
        events = a.events()
        os.close(file)
    assert where is not None
    assert int(where[1]) == 4321
    found = [tuple(dict(event.values).values()) for event in events if event.joinpoint.kind == "access"]
    events = [event for event in events if event.joinpoint.kind != "access"]
    # Behind each access memory holds what it read or left, and nothing is seen twice.
    assert [row[:2] for row in found] == [
        tuple(dict(event.values).values())[:: 2 if event.joinpoint.kind == "set" else 1] for event in events
    ]
    assert all(value == held for _, value, held in found)
    steps = [dict(event.values) for event in events if event.joinpoint.kind == "set"]
    objects = {(step["old"], step["new"]): step["(unsigned long)f"] for step in steps if step["old"] != step["new"]}
    file_object = objects[1234, 4321]
    own = [(step["old"], step["new"]) for step in steps if step["(unsigned long)f"] == file_object]
    assert [pair for pair in own if pair[0] != pair[1]] == [(0, 1234), (1234, 4321)]
    read = [dict(event.values) for event in events if event.joinpoint.kind == "get"]
    assert 4321 in {one["value"] for one in read if one["(unsigned long)f"] == file_object}
    assert {event.joinpoint.data for event in events} == {"struct file.f_pos"}


def test_others_on_the_way_behind_an_access():
    """Of a packet's length what is received asks only where no size of segments tells: others come to the instruction
    behind it without that, which is no access. Who did is told as raw events at both places saw it."""
    kernel = LiveKernel()
    where = next(name for name in ("tcp_measure_rcv_mss", "tcp_event_data_recv") if kernel.functions(name))
    text = f"""aspect length {{ after(struct sk_buff *skb): get(struct sk_buff.len) && within({where}) && target(skb) {{
        log((unsigned long)skb, value, skb->len); }} }}"""
    with woven(text) as a:
        pairs = [point for point in a.aspect.joinpoints if point.mechanism == "kprobe pair"]
        assert len(pairs) == 1
        member = sites.kernel_member(kernel, "sk_buff", "len")
        (site,) = (s for s in flow_sites(kernel, member, where) if s.address == pairs[0].address)
        (TRACING / "trace").write_text("")
        base = site.base_register
        with (
            Raw([(site.address, base, member.offset)]) as raw,
            Account([place(kernel, site.address + site.length)]) as others,
        ):
            listener = socket.create_server(("127.0.0.1", 0))
            client = socket.socket()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)  # what is larger has a size of segments
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            for size in (1, 7, 1 << 20, 3):
                transfer(client, server, size)
            for each in (client, server, listener):
                each.close()
            seen, passed = raw.seen(), sum(others.passed().values())
        rows = [tuple(dict(e.values).values()) for e in a.events() if e.joinpoint.address == site.address]
    assert rows == [(target, value, value) for _, target, value in seen]
    assert {1, 7, 3} <= {value for _, _, value in seen}
    assert passed > len(seen)


def test_a_modules_own_struct():
    """What is read of a tun device's flags, whose struct only that module has, is what the ioctl then returns; followed
    from there, and from a parameter, it is the device's. The whole object is shown when the module is gone."""
    before = Path("/proc/modules").read_text()
    subprocess.run(["modprobe", "tun"], check=True)
    text = f"""aspect tun {{
        pointcut mine(): if(pid == {os.getpid()});
        before(struct tun_struct *t): get(struct tun_struct.flags) && within(tun_get_iff) && target(t) && mine() {{
            log((unsigned long)t, value, t->dev->name, t->tfiles[0]->tun == t); }}
        before(struct tun_struct *t): execution(tun_get_iff(struct tun_struct *t, ..)) && mine() {{
            log((unsigned long)t, t->flags, ((struct tun_struct *)(unsigned long)t)->dev->ifindex, t); }}
    }}"""
    shown = ""
    try:
        with woven(text, force="kprobe") as a:  # which does not hold the module
            device = os.open("/dev/net/tun", os.O_RDWR)
            request = struct.pack("16sH22x", b"klasy0", IFF_TAP | IFF_VNET_HDR)
            fcntl.ioctl(device, TUNSETIFF, request)
            a.events()
            _, flags = struct.unpack("16sH22x", fcntl.ioctl(device, TUNGETIFF, request))
            entry, event = a.events()
            fcntl.ioctl(device, TUNGETIFF, request)
            index = int(Path("/sys/class/net/klasy0/ifindex").read_text())
            kept = int(Path("/sys/class/net/klasy0/tun_flags").read_text(), 16)
            os.close(device)
            if "tun " not in before:
                subprocess.run(["rmmod", "tun"], check=True)
                shown = subprocess.run(["klasy", "log"], capture_output=True, text=True, check=True).stdout
    finally:
        if "tun " not in before:
            subprocess.run(["rmmod", "tun"], check=False, capture_output=True)
    target, value, *followed = dict(event.values).values()
    assert flags & ~IFF_NOFILTER == IFF_TAP | IFF_VNET_HDR
    assert value == kept & ~IFF_NOFILTER == flags & ~IFF_NOFILTER
    assert followed == ["klasy0", 1]
    address, of_entry, ifindex, whole = dict(entry.values).values()
    assert (address, of_entry, ifindex, whole.address) == (target, kept, index, target)
    assert dict(whole.members)["flags"] == kept
    assert not shown or re.search(
        rf"t = \(struct tun_struct \*\) {target:#x} {{.* flags = {kept},", shown, re.DOTALL
    ), shown
    assert (event.joinpoint.data, event.joinpoint.module) == ("struct tun_struct.flags", "tun")


def test_a_copy_of_credentials():
    """seteuid copies the caller's credentials by a string instruction: a get of the one object's member and a set of
    the other's, with the objects and the value that a raw event saw there."""
    text = f"""aspect copies {{ before(struct cred *c):
        access(struct cred.euid.val) && within(prepare_creds) && target(c) && if(pid == {os.getpid()}) {{
        log((unsigned long)c, value); }} }}"""
    with woven(text) as a:
        kernel = LiveKernel()
        (address, twice), *others = Counter(point.address for point in a.aspect.joinpoints).items()
        assert (twice, others) == (2, [])
        offset = sites.kernel_member(kernel, "cred", "euid").offset
        (TRACING / "trace").write_text("")
        define(f"p:rawmember/copy {place(kernel, address)} s=%si:x64 d=%di:x64 v=+{offset}(%si):u32")
        (TRACING / "events/rawmember/enable").write_text("1")
        try:
            os.seteuid(65534)
            os.seteuid(0)
            seen = re.findall(
                rf"-{os.getpid()} .* copy: .* s=0x(\w+) d=0x(\w+) v=(\d+)", (TRACING / "trace").read_text()
            )
        finally:
            (TRACING / "events/rawmember/enable").write_text("0")
            define("-:rawmember/")
        rows = [tuple(dict(event.values).values()) for event in a.events() if event.joinpoint.address == address]
    assert [int(value) for _, _, value in seen] == [0, 65534]
    both = [(int(which, 16), int(value)) for source, to, value in seen for which in (source, to)]
    assert rows == both
