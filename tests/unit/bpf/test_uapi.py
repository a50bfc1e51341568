"""The hand-picked constants against the headers of the machine that runs the tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from klasy.bpf import uapi

HEADERS = "bpf.h", "perf_event.h", "hw_breakpoint.h"

CONSTANTS = {
    name: value
    for name, value in vars(uapi).items()
    if isinstance(value, int) and name.startswith(("BPF_", "PERF_", "HW_", "__NR_"))
}


def evaluate(expressions: list[str], scratch: Path) -> list[int]:
    """Values of C expressions, by the compiler, with the UAPI headers included."""
    includes = "".join(f"#include <linux/{header}>\n" for header in HEADERS)
    lines = "".join(f'printf("%llu\\n", (unsigned long long)({e}));\n' for e in expressions)
    source = f"#include <stdio.h>\n#include <sys/syscall.h>\n{includes}int main(void) {{\n{lines}}}\n"
    program = scratch / "values"
    subprocess.run(["gcc", "-x", "c", "-w", "-o", program, "-"], input=source, text=True, check=True)
    return [int(line) for line in subprocess.run([program], capture_output=True, check=True).stdout.split()]


needs_headers = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/linux/bpf.h").exists(),
    reason="needs gcc and the kernel's user-space headers",
)


@needs_headers
def test_every_constant_is_the_headers_constant(tmp_path):
    """Each number in uapi.py is what linux/*.h gives under the same name."""
    assert len(CONSTANTS) > 150
    real = evaluate(list(CONSTANTS), tmp_path)
    assert dict(zip(CONSTANTS, real, strict=True)) == CONSTANTS


@needs_headers
def test_every_helper_has_the_headers_number(tmp_path):
    """Helper numbers follow the headers, for each helper that the headers know."""
    header = Path("/usr/include/linux/bpf.h").read_text()
    known = [name for name in uapi.HELPERS if name.removeprefix("bpf_") in header]
    assert len(known) > 200
    real = evaluate([name.replace("bpf_", "BPF_FUNC_", 1) for name in known if uapi.HELPERS[name] < 210], tmp_path)
    assert [uapi.HELPERS[name] for name in known if uapi.HELPERS[name] < 210] == real


def test_helper_names_and_numbers_are_inverse():
    """Name to number to name is the identity, and unknown numbers and names are not guessed."""
    assert all(uapi.helper_name(number) == name for name, number in uapi.HELPERS.items())
    assert uapi.helper_number("probe_read_kernel") == uapi.helper_number("bpf_probe_read_kernel") == 113
    assert uapi.helper_name(0) is None
    assert uapi.helper_name(100000) is None
    with pytest.raises(KeyError):
        uapi.helper_number("bpf_no_such_helper")


def test_name_of_gives_the_kernels_word():
    """A value is named for messages, an unknown one stays a number."""
    assert uapi.name_of("BPF_PROG_TYPE_", uapi.BPF_PROG_TYPE_KPROBE) == "kprobe"
    assert uapi.name_of("BPF_MAP_TYPE_", 27) == "ringbuf"
    assert uapi.name_of("BPF_MAP_TYPE_", 999) == "999"
