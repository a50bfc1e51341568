"""Print the running kernel's verifier logs for all programs of support.bad_programs.

    klasy lab --kernel 6.1 -- env PYTHONPATH=tests python tests/gen/verifier_logs.py > tests/data/verifier/6.1.txt

The unit tests read them, so that finding the verdict in a log is tested with what real kernels say.
"""

from __future__ import annotations

import platform

from support.bad_programs import BAD

from klasy.bpf import maps, program
from klasy.bpf.verifier import VerifierError

print(f"# {platform.release()}, by tests/gen/verifier_logs.py")
with (
    maps.create("array", name="values", key_size=4, value_size=8, max_entries=4) as values,
    maps.create("ringbuf", name="ring", max_entries=4096) as ring,
):
    for name, bad in BAD.items():
        try:
            used = {"values": values, "ring": ring}
            program.load(bad.kind, bad.assembled, name=name, maps=used, **bad.options).close()
        except VerifierError as error:
            print(f"=== {name} errno {error.errno}")
            print(error.log, end="" if error.log.endswith("\n") else "\n")
        else:
            raise SystemExit(f"{name}: the kernel takes it")
