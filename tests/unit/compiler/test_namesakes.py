"""Types of the kernel proper that have one name: 'struct slot' is another one in each hot-plug driver."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.compiling import compile_text

from klasy.errors import InputError
from klasy.kernel.snapshot import SnapshotKernel

SNAPSHOTS = Path(__file__).parent.parent.parent / "data" / "kernels"
SHPCHP, CPCI = "shpchp_enable_slot", "cpci_led_on"


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def kernel(request: pytest.FixtureRequest) -> SnapshotKernel:
    return SnapshotKernel.load(str(SNAPSHOTS / f"{request.param}.snapshot"))


@pytest.mark.parametrize(
    ("name", "member", "other"), [(SHPCHP, "ctrl", "adapter_status"), (CPCI, "adapter_status", "ctrl")]
)
@pytest.mark.parametrize("pointer", ["p", "((struct slot *)(u64)p)"])
def test_the_functions_own(kernel: SnapshotKernel, name: str, member: str, other: str, pointer: str) -> None:
    """What is meant is what the function takes, whichever of them comes first in the kernel's types."""
    advice = f"before(struct slot *p): execution({name}(struct slot *p)) {{{{ log({pointer}->{{}}); }}}}"
    assert not compile_text(f"aspect a {{ {advice.format(member)} }}", kernel).diagnostics
    with pytest.raises(InputError) as error:
        compile_text(f"aspect a {{ {advice.format(other)} }}", kernel)
    assert [found.message for found in error.value.diagnostics] == [f"'struct slot' has no member '{other}'"]


def test_functions_that_differ(kernel: SnapshotKernel) -> None:
    """One advice cannot be at functions that take different ones, if it names them."""
    either = " || ".join(f"execution({name}(struct slot *p))" for name in (SHPCHP, CPCI))
    with pytest.raises(InputError) as error:
        compile_text(f"aspect a {{ before(struct slot *p): {either} {{ log(p->bus); }} }}", kernel)
    assert {found.code for found in error.value.diagnostics} == {"ambiguous-type"}
    assert re.search(r"functions of 2 different types 'struct slot'", error.value.diagnostics[0].message)


def test_nothing_tells_which(kernel: SnapshotKernel) -> None:
    """The first is taken then, and the user is told."""
    compiled = compile_text("aspect a { before(): execution(kfree) { log(sizeof(struct slot)); } }", kernel)
    (found,) = compiled.diagnostics
    assert found.code == "ambiguous-type"
    said = r"the kernel has 3 different types 'struct slot' \(of \d+, \d+, \d+ bytes\): the first is taken"
    assert re.fullmatch(said, found.message)
