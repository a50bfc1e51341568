"""Fetch a stock Debian kernel package with a private apt, and unpack it without installing it.

The machine's own package lists, sources and installed packages are neither trusted to be fresh nor changed: the list
of sources is made from the Debian mirror the machine already uses, and apt's state lives below the lab's cache. The
machine's proxy and certificate settings (apt.conf) still apply.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from klasy.lab.cache import all_or_nothing, lab_cache, locked
from klasy.lab.host import LabError, checked, need_tool, say
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klasy.lab.kernels import LabKernel

SOURCES = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class UnpackedKernel(NamedTuple):
    """A kernel package on disk. ``root`` holds boot/ and lib/modules/RELEASE with its depmod files."""

    name: str
    release: str
    root: Path

    @property
    def image(self) -> Path:
        """The bootable image."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The directory that a guest sees as /lib/modules/RELEASE."""
        return self.root / "lib" / "modules" / self.release


class Source(NamedTuple):
    """One archive of an apt configuration: where, which suites, and the keyring that signs it ('' for apt's own)."""

    uri: str
    suites: tuple[str, ...]
    signed_by: str


def kernel_files(kernel: LabKernel) -> UnpackedKernel:
    """The unpacked ``kernel``, fetched now if the cache lacks it. Raises LabError with the remedy when that fails."""
    home = lab_cache() / "kernels" / kernel.name
    if not home.is_dir():
        with locked(
            home.parent / f"{kernel.name}.lock",
            lambda: say("another klasy lab is fetching this kernel; waiting for it"),
        ):
            if not home.is_dir():
                with all_or_nothing(home) as fresh:
                    _fetch(kernel, fresh)
    return _opened(kernel, home)


def _opened(kernel: LabKernel, home: Path) -> UnpackedKernel:
    releases = [path.name for path in (home / "lib" / "modules").glob("*") if (path / "modules.dep").exists()]
    found = UnpackedKernel(kernel.name, releases[0], home) if len(releases) == 1 else None
    if found is None or not found.image.exists():
        raise LabError(f"the unpacked kernel in {home} is damaged", hint=f"remove it and try again: rm -r {home}")
    return found


def _fetch(kernel: LabKernel, target: Path) -> None:
    what = "fetching a kernel"
    need_tool("apt-get", "apt", what)
    dpkg_deb, depmod = need_tool("dpkg-deb", "dpkg", what), need_tool("depmod", "kmod", what)
    apt = _PrivateApt(kernel)
    package = apt.newest_image()
    say(f"fetching {package} (once; kept in {target.parent})")
    archive = apt.download(package, target)
    checked([dpkg_deb, "-x", str(archive), str(target)], "unpacking the kernel package")
    archive.unlink()
    shutil.rmtree(target / "usr", ignore_errors=True)  # documentation only
    (target / "package").write_text(archive.name + "\n")
    (release,) = [path.name for path in (target / "lib" / "modules").iterdir()]
    checked([depmod, "-b", str(target), release], "listing the kernel's modules")


def debug_file(kernel: LabKernel, files: UnpackedKernel) -> Path:
    """The debug information of an unpacked kernel (its vmlinux), fetched now if the cache lacks it.

    Of the package only that file is unpacked: it comes before those of the modules. Raises LabError.
    """
    name = f"vmlinux-{files.release}"
    home = lab_cache() / "debug" / files.release
    with locked(home.parent / f"{files.release}.lock", lambda: say("another klasy lab is fetching it; waiting")):
        if not home.is_dir():
            with all_or_nothing(home) as fresh:
                _fetch_debug(kernel, files, name, fresh)
    return home / name


def _fetch_debug(kernel: LabKernel, files: UnpackedKernel, name: str, target: Path) -> None:
    what = "fetching debug information"
    need_tool("apt-get", "apt", what)
    dpkg_deb, tar = need_tool("dpkg-deb", "dpkg", what), need_tool("tar", "tar", what)
    apt = _PrivateApt(kernel)
    package = apt.debug_package((files.root / "package").read_text().strip())
    say(f"fetching {package}, about a gigabyte (once; kept in {target.parent})")
    archive = apt.download(package, target)
    wanted = f"./usr/lib/debug/boot/{name}"
    # tar ends when it has the file; dpkg-deb, which unpacks the rest for nobody, is then ended by SIGPIPE.
    with subprocess.Popen(
        [dpkg_deb, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as unpacking:
        unpacked = subprocess.run(
            [tar, "-x", "--occurrence=1", "--strip-components=5", "-C", str(target), wanted],
            stdin=unpacking.stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert unpacking.stdout is not None
        unpacking.stdout.close()
    archive.unlink()
    if unpacked.returncode or not (target / name).exists():
        raise LabError(f"unpacking {archive.name}: {unpacked.stderr.strip() or 'it has no ' + wanted}")


class _PrivateApt:
    """apt-get and apt-cache with sources and state of their own below the cache."""

    def __init__(self, kernel: LabKernel) -> None:
        self.kernel = kernel
        state = lab_cache() / "apt" / kernel.name
        for part in ("lists/partial", "archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        sources = state / "sources.list"
        sources.write_text("".join(_source_lines(kernel, read_sources(SOURCES))))
        options = {
            "Dir::State": state,
            "Dir::State::lists": state / "lists",
            # An empty status file: what is installed here has no say in which kernel is the newest.
            "Dir::State::status": state / "status",
            "Dir::Cache": state,
            "Dir::Cache::archives": state / "archives",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            # The cache may lie in a home that apt's own user cannot enter.
            "APT::Sandbox::User": "root",
            "APT::Architecture": "amd64",
            "APT::Get::List-Cleanup": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",  # we hold our own lock
        }
        self.options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def newest_image(self) -> str:
        """The package, as NAME=VERSION, that ``kernel.package`` depends on today."""
        self._run("apt-get", ["update", "-qq", "--error-on=any"], "reading the list of Debian's packages")
        shown = self._run(
            "apt-cache", ["show", "--no-all-versions", self.kernel.package], f"looking up {self.kernel.package}"
        )
        if not (found := re.search(r"^Depends: (linux-image-\S+) \(= (\S+)\)", shown, re.MULTILINE)):
            raise LabError(f"{self.kernel.package} of {', '.join(self.kernel.suites)} names no kernel image")
        return f"{found[1]}={found[2]}"

    def download(self, package: str, directory: Path) -> Path:
        """Fetch ``package`` into ``directory`` and return the archive."""
        self._run("apt-get", ["download", "-qq", package], f"fetching {package}", cwd=directory)
        (archive,) = directory.glob("*.deb")
        return archive

    def debug_package(self, image: str) -> str:
        """The package, as NAME=VERSION, with the debug information of an image's archive, NAME_VERSION_ARCHITECTURE."""
        name, version, _ = image.split("_")
        return f"{name}-dbg={version.replace('%3a', ':')}"

    def _run(self, tool: str, arguments: list[str], what: str, cwd: Path | None = None) -> str:
        hint = (
            "the network or the Debian mirror may be out of reach; try 'apt-get update', or name another mirror: "
            "KLASY_MIRROR=URI klasy lab .."
        )
        return checked([tool, *self.options, *arguments], what, cwd=cwd, hint=hint)


def _source_lines(kernel: LabKernel, sources: Iterable[Source]) -> Iterator[str]:
    """One line of sources.list for each suite of ``kernel``, at the mirrors that ``sources`` name."""
    found = list(sources)
    main = next((source for source in found if not any("-security" in suite for suite in source.suites)), None)
    security = next((source for source in found if any("-security" in suite for suite in source.suites)), None)
    if chosen := os.environ.get("KLASY_MIRROR"):
        main = Source(chosen, (), KEYRING)
    if main is None:
        raise LabError(
            "no Debian mirror is known: /etc/apt names none",
            hint="say which to use: KLASY_MIRROR=URI klasy lab .. (and install debian-archive-keyring)",
        )
    for suite in kernel.suites:
        source = security if suite.endswith("-security") else main
        if source is not None:  # without a security archive the point release's kernel serves
            option = f"[signed-by={source.signed_by}] " if source.signed_by else ""
            yield f"deb {option}{source.uri} {suite} main\n"


def read_sources(directory: Path) -> Iterator[Source]:
    """The archives with Debian's own packages that an apt configuration such as /etc/apt uses."""
    lists = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    for path in lists:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        found = _read_one_line(text) if path.suffix == ".list" else _read_stanzas(text)
        yield from (source for source, parts in found if "main" in parts and _is_debian(source))


def _is_debian(source: Source) -> bool:
    # The archive's own layout tells it from third parties' archives, whatever the mirror is called.
    path = source.uri.rstrip("/").rsplit("/", 1)[-1]
    return path in ("debian", "debian-security") or "debian-archive" in source.signed_by


def _read_one_line(text: str) -> Iterator[tuple[Source, list[str]]]:
    """``deb [options] URI SUITE PART..``"""
    for line in text.splitlines():
        if found := re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line):
            signed = re.search(r"signed-by=(\S+)", found[1] or "")
            yield Source(found[2], (found[3],), signed[1] if signed else ""), found[4].split()


def _read_stanzas(text: str) -> Iterator[tuple[Source, list[str]]]:
    """deb822: paragraphs of ``Field: value`` lines."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", lines):
        joined = re.sub(r"\n[ \t]+", " ", paragraph.strip())
        pairs = (line.split(":", 1) for line in joined.splitlines() if ":" in line)
        fields = {key.strip().lower(): value.strip() for key, value in pairs}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        signed = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            yield (
                Source(uri, tuple(fields.get("suites", "").split()), signed if signed.startswith("/") else ""),
                fields.get("components", "").split(),
            )
