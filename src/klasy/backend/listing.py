"""An artifact's programs as text, for people."""

from __future__ import annotations

from klasy.bpf.text import listing
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from klasy.backend.artifact import Artifact, ProgramSpec
    from klasy.match.plan import Probe


def render(artifact: Artifact) -> str:
    """Each program under a line that says what it is and where it runs."""
    parts = [_program(spec, artifact.plan.probes[spec.probe]) for spec in artifact.programs]
    return "\n".join(parts)


def _program(spec: ProgramSpec, probe: Probe) -> str:
    places = [_place(point.address, point.function.address, str(point.function)) for point in probe.points]
    shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
    slots = len(spec.code.code) // 8
    head = f"{spec.name}: {probe.mechanism.value} at {shown}; {slots} instructions\n"
    return head + listing(spec.code.instructions, opcodes=False)


def _place(address: int, entry: int, name: str) -> str:
    return f"{name}+{address - entry:#x}" if address != entry else name
