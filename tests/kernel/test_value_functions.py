"""ustr, buf, ip4, ip6, mac, ntohs, ntohl in the kernel: what they log is what the program gave to the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from support.livekernel import leftovers
from support.weaving import woven

from klasy.log.value import Address, CutBytes

SIOCSIFMTU = 0x8922

ASPECT = """
aspect functions {
    pointcut opened(const char *name): execution(do_sys_openat2(int dfd, const char *name, ..));
    pointcut attribute(const char *name, const void *value, size_t size):
        execution(vfs_setxattr(.., const char *name, const void *value, size_t size, ..));
    pointcut four(struct sockaddr *to, int size):
        execution(__ip4_datagram_connect(struct sock *sk, struct sockaddr *to, int size));
    pointcut six(struct sockaddr *to): execution(__ip6_datagram_connect(struct sock *sk, struct sockaddr *to, ..));
    pointcut mtu(struct net_device *dev, int mtu): execution(dev_set_mtu(struct net_device *dev, int mtu));

    before(const char *name): opened(name) && if(pid == PID) {
        if (ustr(name) == "/run/klasy-log-functions.lock") return; // by the reader of this log
        log(ustr(name), ustr(name) == "/proc/self/comm", str(name));
        log("%s|%.4s", ustr(name), ustr(name));
    }
    before(const char *name, const void *value, size_t size): attribute(name, value, size) && if(pid == PID) {
        log(name, buf(value, size), buf(value, size & 1023), buf(value, 5), buf((void *)16, size));
        log("%s", buf(value, size & 15));
    }
    before(struct sockaddr *to, int size): four(to, size) && if(pid == PID) {
        struct sockaddr_in *in = (struct sockaddr_in *)to;
        log(ip4(in->sin_addr), ip4(in->sin_addr.s_addr), ntohs(in->sin_port), ntohl(in->sin_addr.s_addr),
            buf(to, size));
        log("%s:%u", ip4(in->sin_addr), ntohs(in->sin_port));
    }
    before(struct sockaddr *to): six(to) && if(pid == PID) {
        struct sockaddr_in6 *in = (struct sockaddr_in6 *)to;
        log(ip6(&in->sin6_addr), ntohs(in->sin6_port), ip6((void *)16));
    }
    before(struct net_device *dev, int mtu): mtu(dev, mtu) && if(pid == PID) {
        log(mac(dev->dev_addr), mtu, dev->name);
    }
}
"""


@pytest.fixture(scope="module", params=["fentry", "kprobe"])
def everything(request):
    """Woven by either mechanism."""
    with woven(ASPECT.replace("PID", str(os.getpid())), force=request.param) as aspect:
        yield aspect
    assert leftovers() == {}


@pytest.fixture
def aspect(everything):
    """It, with nothing logged so far."""
    everything.events()
    return everything


def values(aspect) -> list[list]:
    """The values of each event, or its message."""
    return [event.message or [value for _, value in event.values] for event in aspect.mine()]


def test_user_strings(aspect):
    """The name that this process opens, read from its memory; long ones are cut, and str() finds nothing there."""
    long = "/" + "x" * 200
    for name in ("/proc/self/comm", "/nowhere/at all", long):
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_RDONLY))
    logged = [event for event in aspect.mine() if event.message is None]
    shown = [aspect.as_json(event)["values"] for event in logged]
    assert [list(row.values()) for row in shown] == [
        ["/proc/self/comm", 1, None],
        ["/nowhere/at all", 0, None],
        [long[:127], 0, None],
    ]


def test_user_strings_in_formats(aspect):
    """%s shows them, with its precision."""
    with contextlib.suppress(OSError):
        os.open("/nowhere", os.O_RDONLY)
    assert [event.message for event in aspect.mine()] == [None, "/nowhere|/now"]


def test_buffers(aspect, tmp_path):
    """As many bytes as the program gave, for lengths from none to more than a record has room for."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "klasy", tmp_path], check=True)
    try:
        path = tmp_path / "f"
        path.touch()
        aspect.events()
        contents = [bytes(i * 7 + k & 255 for k in range(n)) for i, n in enumerate((0, 1, 15, 16, 255, 256, 257, 1000))]
        for content in contents:
            os.setxattr(path, "trusted.klasy", content)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    expected: list = []
    for content in contents:
        n = len(content)
        cut = content if n <= 256 else CutBytes(content[:256], n - 256)
        expected.append(["trusted.klasy", cut, content, content[:5] if n >= 5 else None])
        expected.append(content[: n & 15].hex(" "))
    found = values(aspect)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, str):
            assert (row if isinstance(row, str) else "") == wanted
        else:
            assert row[:3] == wanted[:3]
            assert wanted[3] is None or row[3] == wanted[3]  # a shorter value has other bytes behind it


def test_ip4(aspect):
    """The address and port that connect() was given, and the bytes of its sockaddr."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.1.2.253", 40000))
    sockaddr = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 40000) + socket.inet_aton("127.1.2.253") + bytes(8)
    assert values(aspect) == [
        [Address("127.1.2.253"), Address("127.1.2.253"), 40000, 0x7F0102FD, sockaddr],
        "127.1.2.253:40000",
    ]


def test_ip6(aspect):
    """The address of an IPv6 connect(), whether it succeeds or not; what cannot be read is said."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
        udp.connect(("2001:db8::1:0:0:ff", 53))
    (event,) = aspect.mine()
    assert list(aspect.as_json(event)["values"].values()) == ["2001:db8::1:0:0:ff", 53, None]


def test_mac(aspect):
    """A device's own address, as sysfs shows it."""
    subprocess.run(["modprobe", "dummy", "numdummies=1"], check=True)
    try:
        expected = Path("/sys/class/net/dummy0/address").read_text().strip()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            aspect.events()
            fcntl.ioctl(any_socket, SIOCSIFMTU, struct.pack("16si20x", b"dummy0", 1400))
        assert values(aspect) == [[Address(expected), 1400, "dummy0"]]
        assert expected != "00:00:00:00:00:00"
    finally:
        subprocess.run(["rmmod", "dummy"], check=True)
