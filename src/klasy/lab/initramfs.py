"""Build the lab's initramfs: Debian's static busybox, the few modules that reach the host's files, our two scripts.

Written as a newc cpio archive here rather than by cpio(1): no temporary tree, and the same bytes every time.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from pathlib import Path

from klasy.lab.cache import keep_newest, lab_cache
from klasy.lab.host import LabError, find_tool
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klasy.lab.fetch import UnpackedKernel

HERE = Path(__file__).parent
VARIANTS_KEPT = 4

TALK = ("virtio_pci", "virtio_console")
# By the medium that the guest's files come from.
FILES = {"9p": ("9pnet_virtio", "9p", "overlay"), "disk": ("virtio_blk",)}


def initramfs(kernel: UnpackedKernel, medium: str) -> Path:
    """The initramfs for ``kernel``: cached, and built anew when busybox, a script or the kernel changed."""
    busybox = find_busybox()
    modules = list(module_files(kernel.modules, (*TALK, *FILES[medium])))
    inputs = [busybox, HERE / "init.sh", HERE / "agent.sh", *modules]
    digest = hashlib.sha256()
    for path in inputs:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    variant = f"{kernel.name}-{medium}"
    image = lab_cache() / "initramfs" / f"{variant}-{digest.hexdigest()[:16]}.cpio"
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        partial = image.with_suffix(f".partial-{os.getpid()}")
        partial.write_bytes(cpio(_members(busybox, modules)))
        partial.rename(image)
        keep_newest(image.parent.glob(f"{variant}-*.cpio"), VARIANTS_KEPT)
    return image


def find_busybox() -> Path:
    """A statically linked busybox. Raises LabError where there is none."""
    found = find_tool("busybox")
    if not found or b"/lib64/ld-linux" in Path(found).read_bytes():
        raise LabError("the lab's guest needs a statically linked busybox", hint="apt-get install busybox-static")
    return Path(found)


def module_files(directory: Path, names: Iterable[str]) -> Iterator[Path]:
    """The files of modules ``names`` and of all they need, each after what it needs, by modules.dep of ``directory``.

    A name without a module is taken to be built in.
    """
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[_module_name(file)] = (file, others.split())
    seen = set()
    for name in names:
        if (entry := needs.get(name.replace("-", "_"))) is None:
            continue
        needed_first = [*reversed(entry[1]), entry[0]]
        for path in needed_first:  # modules.dep lists the nearest need first
            if path not in seen:
                seen.add(path)
                yield directory / path


def _module_name(file: str) -> str:
    return file.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def _members(busybox: Path, modules: list[Path]) -> Iterator[tuple[str, int, bytes]]:
    for directory in ("bin", "dev", "modules"):
        yield directory, 0o040755, b""
    yield "bin/busybox", 0o100755, busybox.read_bytes()
    yield "init", 0o100755, (HERE / "init.sh").read_bytes()
    yield "agent.sh", 0o100644, (HERE / "agent.sh").read_bytes()
    order = []
    for path in modules:
        data = path.read_bytes()
        name = path.name
        if name.endswith(".xz"):  # busybox's insmod takes plain files
            name, data = name[:-3], lzma.decompress(data)
        order.append(name)
        yield f"modules/{name}", 0o100644, data
    yield "modules/order", 0o100644, "".join(f"{name}\n" for name in order).encode()


def cpio(members: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of (name, mode, content): the kernel's driver-api/early-userspace/buffer-format.rst."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*members, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        # magic, then ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)
