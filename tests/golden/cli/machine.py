"""Machines that do not allow what is asked, for the golden cases of commands: ``[machine]`` names one.

Each puts the fault where it comes up on a real machine and leaves everything above it as it is, so that the message
and the way to it are klasy's own. Nothing is asked of the kernel the tests run on.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from golden.match.kernel import KERNEL
from support.logrecords import SYMBOLS, FakeRing, fields, record, schema

import klasy.cli.log
import klasy.cli.status
from klasy.cli import reading
from klasy.kernel.image import KernelImage
from klasy.kernel.live import LiveKernel
from klasy.log import reader
from klasy.log.reader import LogReader
from klasy.weaver import attach, features, pinfs, preflight, remove, session, sweep, tracefs, woven

if TYPE_CHECKING:
    import pytest

REAL = {"read_registry": woven.read_registry, "open_woven": woven.open_woven, "features": features.RunningFeatures}
KALLSYMS = "".join(f"0000000000000000 T {name}\n" for name in ("_text", "kfree", "ip_rcv", "_etext"))


class _Opened(nullcontext[SimpleNamespace]):
    """What is opened by a name: itself, or for a while."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.enter_result, name)


class Machine:
    """A machine made of files below ``root``; ``names`` says how they are called in messages."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.patch = monkeypatch.setattr
        self.monkeypatch = monkeypatch
        self.files = ExitStack()
        self.bpffs = root / "bpf"
        self.tracing = root / "tracing"
        self.names = {str(self.bpffs): "/sys/fs/bpf", str(self.tracing): "/sys/kernel/tracing"}
        for folder in (self.bpffs, self.tracing):
            folder.mkdir()
        self.patch(pinfs.PinFS.__init__, "__defaults__", (str(self.bpffs),))
        self.patch(pinfs, "is_mounted", lambda path, kind: path == str(self.bpffs))
        self.patch(tracefs, "is_mounted", lambda path, kind: False)
        for module in (pinfs, tracefs):  # a mount would be one of the kernel the tests run on
            self.patch(module, "run_quietly", lambda *argv: 32)
        self.patch(tracefs, "TRACEFS", str(self.tracing))
        self.patch(tracefs, "TRACEFS_OLD", str(root / "nowhere"))
        self.patch(tracefs, "lockdown", lambda: "none")
        self.patch(preflight, "lockdown", lambda: "none")
        self.patch(session, "preflight", lambda plans: None)
        self.patch(os, "geteuid", lambda: 0)
        for module in (session, remove, sweep):
            self.patch(module, "expedited_rcu", lambda marker: nullcontext())

    def shown(self, text: str) -> str:
        """What a command says, with paths as they are on a real machine."""
        for path, name in self.names.items():
            text = text.replace(path, name)
        return text

    def real_registry(self) -> None:
        """What is woven is looked for in the machine's bpffs."""
        for module in (woven, klasy.cli.status):
            self.patch(module, "read_registry", REAL["read_registry"])
        self.patch(woven, "open_woven", REAL["open_woven"])

    def trusted(self) -> None:
        """Its bpffs is root's, whoever runs the tests."""
        self.patch(pinfs.PinFS, "prepare", lambda fs: os.makedirs(fs.home, exist_ok=True))

    # --- the faults

    def nobody(self) -> None:
        """The user is not root: symbols show no addresses, and bpffs and tracefs do not let him in."""
        proc = self.root / "proc"
        (proc / "sys/kernel").mkdir(parents=True)
        (proc / "sys/kernel/osrelease").write_text("6.1.0\n")
        (proc / "modules").touch()
        (proc / "kallsyms").write_text(KALLSYMS)
        kernel = LiveKernel(str(proc), str(self.root / "sys"), use_cache=False)
        self.patch("klasy.kernel.live.running_kernel", lambda: kernel)
        self.patch(os, "geteuid", lambda: 65534)
        really = os.listdir

        def listdir(path: str = ".") -> list[str]:
            if str(path).startswith(str(self.bpffs)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return really(path)

        self.patch(os, "listdir", listdir)
        self.real_registry()

    def nobody_who_sees_addresses(self) -> None:
        """The user is not root, but the kernel shows him its symbols (kptr_restrict=0, perf_event_paranoid=1)."""
        self.patch(os, "geteuid", lambda: 65534)

    def no_types(self) -> None:
        """The kernel was built without BTF."""

        class NoTypes:
            btf = KernelImage.btf

            def btf_of(self, module: str | None) -> None:
                return None

            def __getattr__(self, name: str) -> object:
                return getattr(KERNEL, name)

        self.patch("klasy.kernel.live.running_kernel", NoTypes)

    def no_kprobes(self) -> None:
        """The kernel was built without kernel probe events: tracefs has no such file."""
        (self.tracing / "events").mkdir()
        self.trusted()
        made = SimpleNamespace(update_all=list, freeze=int, close=int, info=None)
        self.patch(session.maps, "create", lambda *_, **__: made)
        self.patch(session, "load", lambda *_: nullcontext(made))
        self.patch(attach.links, "perf_tracepoint", None)

    def read_only_bpffs(self) -> None:
        """The BPF file system is mounted read-only."""
        really = os.mkdir

        def mkdir(path: str, mode: int = 0o777) -> None:
            if str(path).startswith(str(self.bpffs)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            really(path, mode)

        self.patch(os, "mkdir", mkdir)

    def locked_down(self) -> None:
        """The kernel is locked down for confidentiality."""
        self.patch(preflight, "lockdown", lambda: "confidentiality")
        self.patch(session, "preflight", preflight.preflight)

    def full_disk(self) -> None:
        """Standard output cannot be written; two records are in the log of each aspect."""
        records = [record(bytes([n]), time_ns=n) for n in range(2)]
        logs = [(schema(*fields(("n", "int", 1))), FakeRing(records))]
        self.patch(reader, "RingReader", lambda ring: ring)
        self.patch(
            klasy.cli.log,
            "open_reader",
            lambda aspects: (LogReader(logs, lambda _: None, SYMBOLS, locks=str(self.root)), SYMBOLS),
        )
        full = self.files.enter_context(open("/dev/full", "w"))  # noqa: SIM115
        self.patch(reading, "sys", SimpleNamespace(stdout=full, stderr=reading.sys.stderr))

    def woven(self) -> None:
        """An aspect named ``few`` is woven."""
        self.trusted()
        os.makedirs(self.bpffs / "klasy/few")
        (self.bpffs / "klasy/few/registry").touch()
        self.monkeypatch.setenv("TZ", "UTC")
        entry = SimpleNamespace(name="few", document={}, since_ns=1_700_000_000_000_000_000)
        self.patch(woven, "_open", lambda *_: _Opened(entry))


FAULTS = {
    "nobody": Machine.nobody,
    "nobody who sees addresses": Machine.nobody_who_sees_addresses,
    "no types": Machine.no_types,
    "no kprobes": Machine.no_kprobes,
    "read-only bpffs": Machine.read_only_bpffs,
    "locked down": Machine.locked_down,
    "full disk": Machine.full_disk,
    "few is woven": Machine.woven,
}
