"""Kernel memory, symbols and live text, read in the plainest way: /proc/kcore and /proc/kallsyms."""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator

from klasy.btf.btf import Btf
from klasy.btf.types import Struct
from klasy.btf.walk import find_member

PT_LOAD = 1


class KernelMemory:
    """Bytes of the kernel's address space, by virtual address."""

    def __init__(self, path: str = "/proc/kcore") -> None:
        self.fd = os.open(path, os.O_RDONLY)
        header = os.pread(self.fd, 64, 0)
        phoff, entry_size, count = (
            struct.unpack_from("<Q", header, 32)[0],
            *struct.unpack_from("<HH", header, 54),
        )
        table = os.pread(self.fd, entry_size * count, phoff)
        self.segments = []
        for at in range(0, entry_size * count, entry_size):
            kind, _flags, offset, address, _physical, size, _memory = struct.unpack_from("<IIQQQQQ", table, at)
            if kind == PT_LOAD:
                self.segments.append((address, address + size, offset))

    def read(self, address: int, size: int) -> bytes:
        """So many bytes; OSError where nothing is mapped."""
        for start, end, offset in self.segments:
            if start <= address < end:
                data = os.pread(self.fd, size, offset + address - start)
                if len(data) == size:
                    return data
        raise OSError(f"cannot read kernel memory at {address:#x}")

    def number(self, address: int, size: int = 8) -> int:
        """A little-endian unsigned integer."""
        return int.from_bytes(self.read(address, size), "little")

    def text(self, address: int, most: int = 64) -> str:
        """The C string at an address."""
        return self.read(address, most).split(b"\0")[0].decode("utf-8", "replace")


class Symbols:
    """/proc/kallsyms: functions by address, and everything by name.

    A place is how this package names an address so that it survives a reboot: ``_text+0x1234`` for the kernel proper,
    ``ext4+0x1234`` (from the module's base) for a module.
    """

    def __init__(self, path: str = "/proc/kallsyms", modules: str = "/proc/modules") -> None:
        self.by_name: dict[str, int] = {}
        found: dict[int, tuple[str, str]] = {}
        with open(path) as file:
            for line in file:
                at, kind, rest = line.split(None, 2)
                name, _, module = rest.rstrip("\n").partition("\t")
                address = int(at, 16)
                if not module:
                    self.by_name.setdefault(name, address)
                if kind in "tTwW" and (address not in found or kind == "T") and not name.startswith("__pfx_"):
                    found[address] = (name, module[1:-1])
        self.text, self.end = self.by_name["_text"], self.by_name.get("_end", self.by_name["_etext"])
        self.starts = sorted(found)
        self.names = [found[start] for start in self.starts]
        self.bases: dict[str, int] = {}
        with open(modules) as file:
            for line in file:
                fields = line.split()
                self.bases[fields[0]] = int(fields[5], 16)

    def function(self, address: int) -> tuple[int, int, str, str]:
        """Start, end (the next symbol's start), name and module ("" for the kernel) of what holds an address."""
        at = bisect_right(self.starts, address) - 1
        if at < 0:
            raise LookupError(f"no function at {address:#x}")
        end = self.starts[at + 1] if at + 1 < len(self.starts) else self.starts[at] + 4096
        return self.starts[at], end, *self.names[at]

    def place(self, address: int) -> str:
        """The address in words that survive a reboot."""
        if self.text <= address < self.end:
            return f"_text+{address - self.text:#x}"
        module = self.function(address)[3]
        if module in self.bases:
            return f"{module}+{address - self.bases[module]:#x}"
        return f"{address:#x}"

    def address(self, place: str) -> int:
        """What a place means in this boot; LookupError when the module is not loaded."""
        base, _, offset = place.partition("+")
        if base == "_text":
            return self.text + int(offset, 16)
        if base not in self.bases:
            raise LookupError(f"module {base} is not loaded")
        return self.bases[base] + int(offset, 16)


class Layout:
    """Offsets and sizes of members, from the kernel's BTF."""

    def __init__(self, path: str = "/sys/kernel/btf/vmlinux") -> None:
        with open(path, "rb") as file:
            self.btf = Btf(file.read())

    def member(self, struct_name: str, path: str) -> tuple[int, int]:
        """Byte offset and size of ``struct.path``; LookupError when there is none. A bit-field's: its first byte."""
        for type_id in self.btf.find(struct_name, Struct):
            here, offset, bits = type_id, 0, 0
            for name in path.split("."):
                place = find_member(self.btf, here, name)
                if place is None:
                    break
                offset += place.byte_offset
                here, bits = place.type_id, place.bitfield_size
            else:
                if bits:
                    return offset, 1
                return offset, self.btf.size_of(here)
        raise LookupError(f"struct {struct_name} has no {path}")

    def offset(self, struct_name: str, path: str) -> int:
        """Byte offset alone."""
        return self.member(struct_name, path)[0]

    def size(self, struct_name: str) -> int:
        """Bytes of a struct."""
        return self.btf.size_of(self.btf.find(struct_name, Struct)[0])


class Objects:
    """Real objects, found by walking from the kernel's own roots."""

    def __init__(self, memory: KernelMemory, symbols: Symbols, layout: Layout) -> None:
        self.memory, self.symbols, self.layout = memory, symbols, layout

    def _pointer(self, base: int, struct_name: str, path: str) -> int:
        return self.memory.number(base + self.layout.offset(struct_name, path))

    def tasks(self) -> Iterator[int]:
        """Every thread group's leader."""
        link = self.layout.offset("task_struct", "tasks")
        first = self.symbols.by_name["init_task"]
        at = first
        while True:
            yield at
            at = self.memory.number(at + link) - link
            if at == first:
                return

    def task(self, pid: int) -> int:
        """The task_struct of a process; newest first, as ours are."""
        offset = self.layout.offset("task_struct", "pid")
        back = self.layout.offset("task_struct", "tasks.prev")
        link = self.layout.offset("task_struct", "tasks")
        first = at = self.symbols.by_name["init_task"]
        while True:
            at = self.memory.number(at + back) - link
            if self.memory.number(at + offset, 4) == pid:
                return at
            if at == first:
                raise LookupError(f"no process {pid}")

    def file(self, pid: int, fd: int) -> int:
        """The struct file behind a descriptor."""
        files = self._pointer(self.task(pid), "task_struct", "files")
        table = self._pointer(self._pointer(files, "files_struct", "fdt"), "fdtable", "fd")
        return self.memory.number(table + 8 * fd)

    def find(self, kind: str, pid: int, fd: int = -1) -> int:
        """The address of an object of a kind, reached from a process or one of its descriptors; 0: none now."""
        match kind:
            case "task":
                return self.task(pid)
            case "mm" | "signal" | "sighand" | "cred" | "files" | "fs" | "nsproxy" | "thread_pid":
                return self._pointer(self.task(pid), "task_struct", kind)
            case "net_device":  # lo is the first of the initial namespace
                head = self.symbols.by_name["init_net"] + self.layout.offset("net", "dev_base_head")
                return self.memory.number(head) - self.layout.offset("net_device", "dev_list")
            case "file":
                return self.file(pid, fd)
            case "inode":
                return self._pointer(self.file(pid, fd), "file", "f_inode")
            case "dentry":
                return self._pointer(self.file(pid, fd), "file", "f_path.dentry")
            case "super_block":
                return self._pointer(self.find("inode", pid, fd), "inode", "i_sb")
            case "address_space":
                return self._pointer(self.file(pid, fd), "file", "f_mapping")
            case "pipe" | "socket" | "eventpoll":
                return self._pointer(self.file(pid, fd), "file", "private_data")
            case "sock":
                return self._pointer(self.find("socket", pid, fd), "socket", "sk")
            case "received_skb" | "sent_skb":
                queue = "sk_receive_queue" if kind == "received_skb" else "sk_write_queue"
                head = self.find("sock", pid, fd) + self.layout.offset("sock", queue)
                first = self.memory.number(head)
                return 0 if first == head else first
            case "udp_skb":  # first the reader's own queue, then that of the protocol
                sock = self.find("sock", pid, fd)
                for owner, queue in (("udp_sock", "reader_queue"), ("sock", "sk_receive_queue")):
                    head = sock + self.layout.offset(owner, queue)
                    first = self.memory.number(head)
                    if first != head:
                        return first
                return 0
            case "vma":
                return self._vma(pid)
        raise LookupError(f"no way to find a {kind}")

    def _vma(self, pid: int) -> int:
        """The mapping of a process that lies lowest: the first entry of its maple tree (lib/maple_tree.c)."""
        node = self._pointer(self.find("mm", pid), "mm_struct", "mm_mt.ma_root")
        for _ in range(6):
            kind, base = node >> 3 & 15, node & ~255
            name = "maple_arange_64" if kind == 3 else "maple_range_64"  # maple_leaf_64 is 1, maple_range_64 is 2
            slots = base + self.layout.offset(name, "slot")
            node = next(entry for entry in (self.memory.number(slots + 8 * at) for at in range(10)) if entry)
            if kind == 1:
                return node
        raise LookupError(f"no mapping of process {pid}")
