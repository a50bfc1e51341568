"""A guest's state just before it becomes anyone's own, kept so that later guests begin with it instead of booting.

Booting takes seconds in software emulation, and is the same every time up to the point where init.sh says "loaded".
There the first guest's memory stays behind as a sparse file, and its devices' state beside it. A later guest maps the
file privately (QEMU's docs, "VM templating"): it reads what it needs and its writes are its own.

What is shared by all guests that begin so: the place where KASLR put the kernel, the boot id, and a
monotonic clock that begins a few seconds after boot. Time of day and random numbers are set anew.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import time
from pathlib import Path

from klasy.lab.cache import all_or_nothing, keep_newest, lab_cache, locked
from klasy.lab.host import LabError, say
from klasy.lab.machine import GuestDied, Machine, Medium, Memory, command_line
from klasy.plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from klasy.lab.fetch import UnpackedKernel

SECONDS_TO_SAVE = 60.0
VARIANTS_KEPT = 3  # of 170 MB each


class Snapshot(NamedTuple):
    """Where a kept state lies. May vanish at any time: a newer one takes its place."""

    directory: Path

    @property
    def memory(self) -> Path:
        """The guest's memory."""
        return self.directory / "memory"

    @property
    def devices(self) -> Path:
        """The state of its processors and devices, as QEMU writes it for a migration."""
        return self.directory / "devices"

    def forget(self) -> None:
        """Remove it; guests that run from it are not harmed."""
        shutil.rmtree(self.directory, ignore_errors=True)


def snapshot(kernel: UnpackedKernel, medium: Medium, boot_timeout: float) -> Snapshot:
    """The kept state for this kernel, QEMU and init, made now if there is none. Raises LabError when that fails."""
    line = command_line(kernel, medium)
    digest = hashlib.sha256(repr(line).encode())
    for file in (line[0], kernel.image):
        found = Path(file).stat()
        digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    variant = f"{kernel.name}-{medium.kind}"
    home = lab_cache() / "booted" / f"{variant}-{digest.hexdigest()[:16]}"
    if not home.is_dir():
        with locked(home.parent / f"{variant}.lock", lambda: say("another klasy lab boots this kernel; waiting")):
            if not home.is_dir():
                keep_newest(home.parent.glob(f"{variant}-*"), VARIANTS_KEPT - 1)
                with all_or_nothing(home) as fresh:
                    target = Snapshot(fresh)
                    memory = Memory(target.memory, shared=True)
                    _make(Machine(kernel, medium, memory=memory), target, boot_timeout)
    os.utime(home)  # used last: see keep_newest
    return Snapshot(home)


def _make(machine: Machine, target: Snapshot, boot_timeout: float) -> None:
    try:
        try:
            loaded = machine.line("ctl", time.monotonic() + boot_timeout)
        except TimeoutError:
            raise GuestDied(f"the guest did not come up within {boot_timeout:g} s", machine.console) from None
        if loaded != "loaded":
            raise LabError(f"the guest's init said {loaded!r}, not 'loaded'")
        deadline = time.monotonic() + SECONDS_TO_SAVE
        _negotiate(machine, deadline)
        partial, whole = shlex.quote(f"{target.devices}.partial"), shlex.quote(str(target.devices))
        machine.control("migrate", deadline, uri=f"exec:cat > {partial} && mv {partial} {whole}")
        _wait(machine, deadline, "query-migrate", "completed", ("failed", "cancelled"))
        while not target.devices.exists():  # QEMU is done; the shell it writes to may not be
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.01)
    except TimeoutError:
        raise LabError(f"QEMU did not save the guest's state within {SECONDS_TO_SAVE:g} s") from None
    finally:
        machine.close()


def restore(machine: Machine, kept: Snapshot, deadline: float) -> None:
    """Bring a machine that was started on ``kept.memory`` to life. Raises LabError, TimeoutError."""
    _negotiate(machine, deadline)
    machine.control("migrate-incoming", deadline, uri=f"exec:cat {shlex.quote(str(kept.devices))}")
    _wait(machine, deadline, "query-status", "running", ("paused", "internal-error"))


def _negotiate(machine: Machine, deadline: float) -> None:
    machine.control("qmp_capabilities", deadline)
    # The memory is a file of its own: only the devices' state is written and read.
    ignore = [{"capability": "x-ignore-shared", "state": True}]
    machine.control("migrate-set-capabilities", deadline, capabilities=ignore)


def _wait(machine: Machine, deadline: float, question: str, good: str, bad: tuple[str, ...]) -> None:
    while (status := machine.control(question, deadline).get("status")) != good:
        if status in bad:
            raise LabError(f"QEMU's answer to {question} is {status}: {machine.console.strip()}")
        time.sleep(0.01)
