"""The load: a program in machine code, run here."""

from __future__ import annotations

import platform

import pytest

from klasy.bench.syscall_loop import LSEEK, READ_BYTES, WRITTEN_BYTES, Loop, SyscallLoop, elf, file_code, machine_code

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the load is written for x86-64")


def test_it_makes_as_many_calls_as_asked_for(tmp_path):
    """Seen from outside: each call appends a byte to a file, for it is write(2, .., 1)."""
    import os
    import struct
    import subprocess

    program = tmp_path / "loop"
    program.write_bytes(elf(machine_code(1, 2, 0x400000, 1)))  # write(2, the headers, 1)
    program.chmod(0o700)
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [program], input=struct.pack("<QQ", 3, 1000), stdout=subprocess.PIPE, stderr=out, check=True
        )
    assert len(done.stdout) == 2  # an answer to each number
    assert os.path.getsize(tmp_path / "out") == 1003


def test_a_turn_of_file_calls(tmp_path):
    """It reads the file's beginning and writes behind that, in as many turns as asked for; the file does not grow."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4)
    with Loop(file_code(str(path))) as loop:
        assert loop.seconds(3) > 0
    found = path.read_bytes()
    assert len(found) == 1024
    assert found[READ_BYTES : READ_BYTES + WRITTEN_BYTES] == bytes(range(WRITTEN_BYTES))


def test_more_calls_take_longer():
    """And the number for a time is found by trying."""
    with SyscallLoop(LSEEK, 2) as loop:
        number = loop.calls_in(0.002)
        assert number >= 100
        assert min(loop.seconds(20 * number) for _ in range(3)) > min(loop.seconds(number) for _ in range(3))
