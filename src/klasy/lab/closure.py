"""What a guest without the host's file system needs to run klasy: a tar archive of this Python, klasy, its checkout.

For kernels without 9p (``klasy lab --no-9p``). The guest's other programs are busybox's.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from importlib import metadata
from pathlib import Path

import klasy
from klasy import startup
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Debian keeps these as links into /usr; an archive with files below a link's name would replace the link.
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
SETTINGS = ("passwd", "group", "hosts", "nsswitch.conf", "protocols", "services", "localtime")
UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"}


def closure(directory: Path) -> bytes:
    """The archive. It holds the working directory ``directory``, empty where that is not in klasy's checkout."""
    startup.find_packages()  # the environment's, and where that is
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in MERGED:
            if os.path.islink(f"/{name}"):
                archive.add(f"/{name}", arcname=name)
        added: set[str] = set()
        for path in (directory, *_files()):
            _add(archive, added, path)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, added: set[str], path: Path) -> None:
    """Add a file, a link and its target, or a directory without what is in it; once, under its parent's real name."""
    real = os.path.join(os.path.realpath(path.parent), path.name)
    if real in added or not os.path.lexists(real):
        return
    added.add(real)
    archive.add(real, arcname=real.lstrip("/"), recursive=False)
    if os.path.islink(real):
        _add(archive, added, Path(os.path.join(os.path.dirname(real), os.readlink(real))))


def _files() -> Iterator[Path]:
    scripts = Path(sys.executable).parent
    programs = [Path(sys.executable), *scripts.glob("python*"), scripts / "klasy"]
    standard = list(_below(Path(sysconfig.get_path("stdlib")), UNUSED | {"site-packages", "dist-packages"}))
    packages = list(_packages("klasy"))
    yield from programs
    yield from standard
    yield from packages
    yield from _libraries([programs[0], *(path for path in (*standard, *packages) if ".so" in path.suffixes)])
    yield from (Path("/etc") / name for name in SETTINGS)
    if sys.prefix != sys.base_prefix:
        yield Path(sys.prefix) / "pyvenv.cfg"
    source = Path(klasy.__file__).parent
    checkout = source.parents[1]
    yield from _below(checkout if (checkout / "pyproject.toml").exists() else source, set())


def _below(top: Path, without: set[str]) -> Iterator[Path]:
    """All files below ``top``, but for directories that are hidden, hold static libraries, or are in ``without``."""
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if not name.startswith((".", "config-")) and name not in without]
        yield from (Path(directory, name) for name in files)
        yield from (Path(directory, name) for name in names if os.path.islink(os.path.join(directory, name)))


def _packages(name: str, seen: set[str] | None = None) -> Iterator[Path]:
    """The installed files of a distribution and of all it requires (not its extras)."""
    seen = set() if seen is None else seen
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # required of other Pythons or systems only
    yield from (Path(str(file.locate())) for file in distribution.files or () if ".." not in file.parts)
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement and (found := re.match(r"[\w.-]+", requirement)):
            yield from _packages(found[0], seen)


def _libraries(binaries: Iterable[Path]) -> Iterator[Path]:
    """The shared libraries that ``binaries`` are linked with, the dynamic loader among them."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    yield from (Path(path) for path in sorted(set(re.findall(r"(?:=> |^\t)(/\S+)", done.stdout, re.MULTILINE))))
