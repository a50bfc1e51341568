"""The reliability runs: each does one kind of harm, again and again, checks what must hold, and says its figures.

Each module has ``FULL`` and ``SMALL``, the numbers of rounds of a full run and of the scaled-down one that
tests/kernel/test_stress.py makes of the same code, and ``run(size, seed)``, which gives its figures or fails. They run
as root in the lab's guest: run.py starts them there, ``make stress`` all of them on all kernels.
"""

from __future__ import annotations

Figures = dict[str, object]
