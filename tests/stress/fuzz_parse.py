"""Fuzz the parser, the matcher, the checker and the compiler with mutated aspects, guided by coverage (atheris).

    .venv/bin/pip install -e '.[fuzz]'
    .venv/bin/python tests/stress/fuzz_parse.py [--runs 1000000] [--seed 1] [--work build/fuzz]     # or: make fuzz
    .venv/bin/python tests/stress/fuzz_parse.py --keep      # what was found out becomes the tree's corpus

Runs in parts, each a process of its own; after any of them it can be ended and started again: what was run, the corpus
that has grown and the faults are in the work folder, and it goes on to the number of runs that is asked for. The parts
take turns among kernels: the two made-up ones of the golden tests, and what was recorded of Debian's 6.1 and 6.12.

A fault is a crash, an error that no user could read (support/fuzzing.py), or a text that takes more than a second of
processor time. At the end each is tried again without the coverage instrument, shortened, and shown; then the exit
status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from klasy.kernel.model import Kernel

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ("6.1", "6.12")
KERNELS = ("match", "6.1", "compile", "6.12")
GENERATED = 300  # aspects over a recorded kernel's functions and types, to begin with
PART = 25_000
HANG = 100  # seconds after which a text is given up, under the instrument and on a busy machine
SLOW_WITH_INSTRUMENT = 2.0  # seconds; what takes longer is measured again without


def kernel_named(name: str) -> Kernel:
    """One of the kernels that texts are judged against."""
    if name == "match":
        from golden.match.kernel import KERNEL as match_kernel

        return match_kernel
    if name == "compile":
        from golden.kernel import KERNEL as compile_kernel

        return compile_kernel
    from klasy.kernel.snapshot import SnapshotKernel

    return SnapshotKernel.load(str(ROOT / "tests/data/kernels" / f"{name}.snapshot"))


# --- one part -------------------------------------------------------------------------------------------------------


def run_part(arguments: argparse.Namespace) -> None:
    """Fuzz in this process; it ends here. Faults go into files of the work folder."""
    import atheris

    with atheris.instrument_imports(include=["klasy"], enable_loader_override=False):
        from support import fuzzing

        from klasy.kernel.image import KernelImage
    fuzzing.prepare()
    kernel = kernel_named(arguments.kernel)
    mutator = (
        fuzzing.Mutator([*fuzzing.seeds(), *fuzzing.generated(kernel, GENERATED)], fuzzing.names_of(kernel))
        if isinstance(kernel, KernelImage)
        else fuzzing.Mutator(fuzzing.seeds())
    )
    faults = arguments.work / "faults"
    # What a kernel's model finds out once.
    fuzzing.judge("aspect a { before(): call(kfree) { log(1); } }", kernel)

    def one(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            _, seconds = fuzzing.judge(text, kernel)
        except fuzzing.Fault as fault:
            note(faults, fault.about, text, arguments.kernel)
            return
        if seconds > SLOW_WITH_INSTRUMENT:
            note(faults, "slow", text, arguments.kernel)

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.25:
            return bytes(atheris.Mutate(data, size))
        return mutator.mutate(data.decode("utf-8", "replace"), random).encode()[:size]

    options = [
        f"-runs={arguments.runs}", f"-seed={arguments.seed}", f"-max_len={fuzzing.MAX_TEXT}", f"-timeout={HANG}",
        "-rss_limit_mb=3000", "-verbosity=0", "-reload=0", "-report_slow_units=1000",
        f"-artifact_prefix={faults}/libfuzzer-",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(arguments.work / "corpus")], one, custom_mutator=mutated)
    atheris.Fuzz()


def note(folder: Path, about: str, text: str, kernel: str) -> None:
    """Keep a fault: of each cause the shortest texts."""
    name = hashlib.sha256(about.encode()).hexdigest()[:12]
    number = 0
    if about == "slow":  # of unlike causes, perhaps
        number = int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)
    path = folder / f"{name}-{number}.json"
    if path.exists() and len(json.loads(path.read_text())["text"]) <= len(text):
        return
    path.write_text(json.dumps({"about": about, "text": text, "kernel": kernel}))


# --- all parts ------------------------------------------------------------------------------------------------------


def run_all(arguments: argparse.Namespace) -> int:
    """Parts until so many texts were run in all, in this call and in those before; then the faults."""
    work: Path = arguments.work
    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (work / "faults").mkdir(exist_ok=True)
    from support import fuzzing

    texts = [*fuzzing.seeds(), *(fuzzing.corpus() if fuzzing.CORPUS.exists() else [])]
    for name in RECORDED:
        texts += fuzzing.generated(kernel_named(name), GENERATED)  # type: ignore[arg-type]
    for text in texts:
        (corpus / hashlib.sha1(text.encode()).hexdigest()).write_bytes(text.encode())
    state_file = work / "state.json"
    state: dict[str, Any] = {"runs": 0, "parts": 0, "seconds": 0.0, "broken": 0}
    if state_file.exists():
        state.update(json.loads(state_file.read_text()))
    while state["runs"] < arguments.runs:
        kernel = KERNELS[state["parts"] % len(KERNELS)]
        mutated = min(PART, arguments.runs - state["runs"])
        runs = mutated + len(list(corpus.iterdir()))  # libFuzzer runs what is in the corpus first, and counts it
        seed = arguments.seed * 1_000_003 + state["parts"]
        begin = time.monotonic()
        done = subprocess.run(
            [
                sys.executable, __file__, "--part", "--kernel", kernel, "--runs", str(runs), "--seed", str(seed),
                "--work", str(work),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            state["broken"] += 1
            (work / "faults" / f"part-{state['parts']}.txt").write_text(done.stderr[-20_000:])
            print(f"part {state['parts']} ended with {done.returncode}: {done.stderr[-600:]}", flush=True)
            if state["broken"] > 20:
                break
        else:
            state["runs"] += mutated
        state["parts"] += 1
        state["seconds"] += time.monotonic() - begin
        state_file.write_text(json.dumps(state))
        found = len(list((work / "faults").glob("*.json")))
        print(
            f"{state['runs']} texts in {state['parts']} parts, {state['seconds']:.0f} s; kernel {kernel}, corpus "
            f"{len(list(corpus.iterdir()))}, {found} faults to look at",
            flush=True,
        )
    return show_faults(work)


def show_faults(work: Path) -> int:
    """Try each fault again as a user would meet it, shorten it, show it; 1 if there is any."""
    bad = 0
    for path in sorted((work / "faults").glob("*.json")):
        fault = json.loads(path.read_text())
        again = fault_of(fault["text"], fault["kernel"])
        if again is None:
            path.unlink()  # slow only under the instrument, or mended since
            continue
        bad += 1
        text = shortened(fault["text"], fault["kernel"], again) if again != "slow" else fault["text"]
        path.write_text(json.dumps({"about": again, "text": text, "kernel": fault["kernel"]}))
        print(f"\n--- {again}   (kernel {fault['kernel']})\n{text[:1500]}\n--- {text[:300]!r}")
    for path in sorted((work / "faults").glob("libfuzzer-*")):
        bad += 1
        print(f"\n--- given up after {HANG} s, or it needs too much memory: {path}")
    print(f"{bad} faults")
    return 1 if bad else 0


_kernels: dict[str, Kernel] = {}


def fault_of(text: str, name: str) -> str | None:
    """What is wrong with how a text is treated, without the instrument."""
    from support import fuzzing

    fuzzing.prepare()
    if name not in _kernels:
        _kernels[name] = kernel_named(name)
    seconds = 0.0
    try:
        for _ in range(2):  # what is found out once about a kernel is not the text's fault
            _, seconds = fuzzing.judge(text, _kernels[name])
    except fuzzing.Fault as fault:
        return fault.about
    return "slow" if seconds > fuzzing.SECONDS else None


def shortened(text: str, kernel: str, about: str) -> str:
    """A shorter text with the same fault: pieces are left out, large ones first."""
    size = max(1, len(text) // 2)
    while size:
        start = 0
        while start < len(text):
            shorter = text[:start] + text[start + size :]
            if fault_of(shorter, kernel) == about:
                text = shorter
            else:
                start += size
        size //= 2
    return text


# --- what is kept ---------------------------------------------------------------------------------------------------


def keep(work: Path) -> int:
    """Choose few, short texts that together reach every step from line to line that the grown corpus reaches."""
    from support import fuzzing

    fuzzing.prepare()
    texts = {path.read_bytes().decode("utf-8", "replace") for path in (work / "corpus").iterdir()}
    if fuzzing.CORPUS.exists():
        texts |= set(fuzzing.corpus())
    known: set[tuple[str, str, int, int]] = set()
    kept: list[str] = []
    for text in fuzzing.seeds():  # the golden tests and the shipped aspects are run anyway
        known |= arcs(text)
    # The shortest first: a long one is taken only for what no shorter one reaches.
    for text in sorted(texts, key=lambda text: (len(text), text)):
        new = arcs(text) - known
        if new:
            known |= new
            kept.append(text)
    fuzzing.CORPUS.parent.mkdir(exist_ok=True)
    fuzzing.CORPUS.write_text("".join(json.dumps(text, ensure_ascii=True) + "\n" for text in kept))
    print(f"{len(kept)} of {len(texts)} texts kept, {sum(map(len, kept))} characters; {len(known)} steps reached")
    return 0


def arcs(text: str) -> set[tuple[str, str, int, int]]:
    """The steps from line to line in klasy that a text takes, on both made-up kernels."""
    from support import fuzzing

    found: set[tuple[str, str, int, int]] = set()

    def trace(frame: Any, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        if event != "call" or f"{os.sep}klasy{os.sep}" not in path:
            return None
        name, last = Path(path).stem, 0
        where = (name, frame.f_code.co_name)

        def local(frame: Any, event: str, _: object) -> Any:
            nonlocal last
            if event == "line":
                found.add((*where, last, frame.f_lineno))
                last = frame.f_lineno
            return local

        return local

    sys.settrace(trace)
    try:
        for kernel in ("match", "compile"):
            with suppress(fuzzing.Fault):
                fuzzing.judge(text, kernel_named(kernel))
    finally:
        sys.settrace(None)
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="texts in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz", help="where it goes on from")
    parser.add_argument("--keep", action="store_true", help="write the smallest equal corpus into the tree")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--kernel", default="match", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments)
    if arguments.keep:
        return keep(arguments.work)
    return run_all(arguments)


if __name__ == "__main__":
    sys.exit(main())
