"""Advice that decides: what it denies is denied, all else goes on, and what is not wholly woven denies nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import klasy_command
from support.livekernel import leftovers
from support.weaving import woven

from klasy.backend import Options
from klasy.cli.main import main
from klasy.errors import InputError
from klasy.match.filter import Filter
from klasy.weaver.session import _Weave
from klasy.weaver.woven import read_registry

NAME = "klasy_secret"
POLICY = f"""
aspect guard {{
    around(struct file *file): execution(security_file_open(struct file *file)) && if(comm == "denied one") {{
        if (str(file->f_path.dentry->d_name.name) == "{NAME}") {{ log("no"); deny(EACCES); }}
    }}
}}"""


@pytest.fixture
def paths(tmp_path) -> tuple[Path, Path]:
    """A file that is not to be opened, and another; on one file system, where an open is one."""
    subprocess.run(["mount", "-t", "tmpfs", "klasy", tmp_path], check=True)
    found = tmp_path / NAME, tmp_path / "other"
    for path in found:
        path.write_text("content")
    yield found
    subprocess.run(["umount", tmp_path], check=True)


def opened(path: Path, name: str = "denied one") -> int:
    """What errno a thread of some name gets when it opens a file; 0: it can."""
    child = os.fork()
    if not child:
        try:
            Path("/proc/self/comm").write_text(name)
            os.close(os.open(path, os.O_RDONLY))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_policy(paths):
    """One path is denied to one name, with the error that was asked for; hits and denials are counted."""
    secret, other = paths
    assert opened(secret) == 0
    with woven(POLICY) as aspect:
        assert opened(secret) == errno.EACCES
        assert opened(secret) == errno.EACCES
        assert (opened(other), opened(secret, "another")) == (0, 0)
        (count,) = aspect.aspect.counts()
        assert (count.hits, count.denied, count.missed) == (3, 2, 0)
        assert [event.message for event in aspect.events()] == ["no", "no"]
        assert [point.mechanism for point in aspect.aspect.joinpoints] == ["fmod_ret"]
    assert opened(secret) == 0
    mine = Options(filter=Filter((os.getpid(),)))
    with woven(POLICY, limits=mine) as aspect:  # the filter keeps it from others
        assert opened(secret) == 0
        assert [count.hits for count in aspect.aspect.counts()] == [0]
    assert leftovers() == {}


def test_several(paths):
    """The first advice that denies decides; after advice sees what was decided; stop() ends all denying."""
    secret, _ = paths
    condition = 'execution(security_file_open) && if(comm == "denied one")'
    text = f"""aspect several {{
        around(): {condition} {{ if (uid == 7) deny(EIO); }}
        around(): {condition} {{ stop(); deny(EPERM); }}
        around(): {condition} {{ deny(EBUSY); }}
        after() returning (int result): {condition} {{ log(result); }}
    }}"""
    with woven(text) as aspect:
        assert opened(secret) == errno.EPERM
        assert [count.hits for count in aspect.aspect.counts()] == [1, 1, 0, 0]
        assert [count.denied for count in aspect.aspect.counts()] == [0, 1, 0, 0]
        assert opened(secret) == 0  # it has stopped itself
    text = text.replace("stop(); ", "")
    with woven(text) as aspect:
        assert opened(secret) == errno.EPERM
        assert [event.values for event in aspect.events()] == [(("result", -errno.EPERM),)]


def test_refused(tmp_path, capfd):
    """Where the kernel lets no program decide an error says so, and nothing is woven."""
    for function, why in (("vfs_read", "at its security hooks only"), ("security_inode_free", "no error number")):
        with pytest.raises(InputError) as caught, woven(f"aspect no {{ around(): execution({function}) {{}} }}"):
            pass
        assert why in str(caught.value.diagnostics[0].message)
    assert read_registry() == []


def test_half_woven(paths, monkeypatch):
    """An error at any step of the weave leaves nothing that denies, not even for a moment before it is switched on."""
    secret, _ = paths
    steps: list[str] = []
    failing: list[str] = []
    real = _Weave._step

    def step(self, name):
        steps.append(name)
        if name in ("activate", "rename") or name.startswith("attach"):
            assert opened(secret) == 0
        if name in failing:
            raise KeyboardInterrupt
        real(self, name)

    monkeypatch.setattr(_Weave, "_step", step)
    for moment in ("rename", "activate"):
        failing[:] = [moment]
        with pytest.raises(KeyboardInterrupt), woven(POLICY):
            pass
        assert opened(secret) == 0
        assert leftovers() == {}
    assert steps.index("rename") < steps.index("activate")  # what denies is there to be taken out


def test_killed(paths, tmp_path, capfd):
    """kill -9 of klasy while it weaves a policy: nothing is denied, and the next command leaves nothing of it."""
    secret, _ = paths
    (tmp_path / "p.asp").write_text(POLICY)
    program = """if True:
        import os, signal, sys
        from klasy.weaver import session
        real = session._Weave._step
        def step(self, name):
            real(self, name)
            if name == sys.argv[1]:
                os.kill(os.getpid(), signal.SIGKILL)
        session._Weave._step = step
        from klasy.cli.main import main
        main(["weave", sys.argv[2]])
    """
    for moment in ("attach p0_fentry", "rename", "activate"):
        done = subprocess.run([sys.executable, "-c", program, moment, tmp_path / "p.asp"], check=False)
        assert done.returncode == -signal.SIGKILL
        assert opened(secret) == 0, moment
        capfd.readouterr()
        assert main(["status"]) == 0
        assert "no aspect is woven" in "".join(capfd.readouterr())
        assert leftovers() == {}
        assert main(["unweave"]) == 0
        assert leftovers() == {}


NEEDED = ("path_rename", "inode_rename", "file_lock", "inode_readlink", "inode_unlink", "bpf", "bpf_map")


@pytest.mark.parametrize("hook", NEEDED)
def test_what_unweaving_needs_is_denied(tmp_path, capfd, hook):
    """An aspect that denies everybody what taking it out needs goes all the same, and rightly told."""
    policy = tmp_path / "p.asp"
    policy.write_text(f"aspect everybody {{ around(): execution(security_{hook}) {{ deny(EPERM); }} }}")
    assert main(["weave", str(policy)]) == 0
    assert main(["status"]) == 0
    assert "fault of klasy" not in (told := "".join(capfd.readouterr()))
    assert "holds no registry" not in told
    assert main(["unweave", "everybody"]) == 0
    assert "unwoven: everybody" in capfd.readouterr().out
    assert leftovers() == {}


def test_what_weaving_needs_is_denied(tmp_path, capfd):
    """If it denies what klasy does last of all, it is taken out at once, and the error says why."""
    policy = tmp_path / "p.asp"
    policy.write_text("aspect everybody { around(): execution(security_inode_rmdir) { deny(EPERM); } }")
    assert main(["weave", str(policy)]) == 3
    told = capfd.readouterr().err
    assert "unfinished once everybody was switched on: Operation not permitted (EPERM)" in told
    assert "leave klasy out" in told
    assert leftovers() == {}


def test_another_denies_the_lock(tmp_path, capfd):
    """A command that a policy keeps from klasy's lock says so; the policy's own unweaving goes on."""
    policy, other = tmp_path / "p.asp", tmp_path / "q.asp"
    policy.write_text("aspect everybody { around(): execution(security_file_lock) { deny(EPERM); } }")
    other.write_text("aspect other { before(): execution(vfs_read) {} }")
    assert main(["weave", str(policy)]) == 0
    assert main(["weave", str(other)]) == 3
    told = capfd.readouterr().err
    assert "cannot lock /sys/fs/bpf/klasy: Operation not permitted (EPERM)" in told
    assert "around advice" in told
    assert main(["unweave"]) == 0
    assert leftovers() == {}


@pytest.mark.parametrize("hook", ["file_open", "inode_permission", "file_permission", "mmap_addr"])
@pytest.mark.parametrize("way", [["--for", "1s"], ["-f", "--for", "1s"]])
def test_everything_is_denied_for_a_while(tmp_path, hook, way):
    """Even where no program can be started any more: the command that wove it switches it off."""
    policy = tmp_path / "p.asp"
    policy.write_text(f"aspect everybody {{ around(): execution(security_{hook}) {{ deny(EPERM); }} }}")
    done = klasy_command("weave", *way, str(policy))
    assert done.status in (0, 3)
    assert "fault of klasy" not in done.err
    assert subprocess.run(["true"], check=False).returncode == 0
    assert main(["status"]) == 0
    assert leftovers() == {}
