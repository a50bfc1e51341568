"""klasy as a library: what the command line does, as functions.

    import klasy

    klasy.weave("log_dequeue.asp")
    for event in klasy.events("log_dequeue"):
        print(event.joinpoint.place, dict(event.values))
    for aspect in klasy.woven():
        with aspect:
            print(aspect.name, sum(count.hits for count in aspect.counts()))
    klasy.unweave("log_dequeue")

All need root, but for ``joinpoints``, which needs to read the kernel's symbols and text. Errors are those of
:mod:`klasy.errors`.
"""

from __future__ import annotations

import os

from klasy.errors import InputError
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klasy.btf.btf import Btf
    from klasy.kernel.live import LiveKernel
    from klasy.kernel.model import DataSymbol, Function, Kernel
    from klasy.kernel.references import Reference
    from klasy.log.event import LogEvent, Schema
    from klasy.log.reader import LogReader
    from klasy.log.state import Slot, StateDecoder
    from klasy.log.symbolize import Symbolizer
    from klasy.match.plan import Plan
    from klasy.source import SourceFile
    from klasy.weaver.woven import WovenAspect

    Source = str | os.PathLike[str] | SourceFile

_LOOK_AROUND = 1.0  # seconds between looks whether an aspect is still woven


def weave(*sources: Source, replace: bool = False) -> list[str]:
    """Weave all aspects of the sources into the running kernel, or none; their names.

    A source is the path of an ``.asp`` file, or the text of one: a string with a brace in it is taken for text.
    ``replace``: a woven aspect of the same name makes place, without a gap. They stay woven when this process ends.
    """
    from klasy.kernel.live import running_kernel
    from klasy.weaver.build import build_all
    from klasy.weaver.session import machine_of
    from klasy.weaver.session import weave as weave_artifacts

    artifacts = build_all([_source(source) for source in sources])
    woven_now = weave_artifacts(artifacts, machine_of(running_kernel()), replace=replace)
    for aspect in woven_now:
        aspect.close()
    return [aspect.name for aspect in woven_now]


def joinpoints(*sources: Source, kernel: Kernel | None = None) -> list[Plan]:
    """What the aspects of the sources would be woven into: their plans, in order. Nothing is woven.

    ``kernel`` is the running one unless given, for example a saved snapshot of another.
    """
    from klasy.weaver.build import build_all

    return [artifact.plan for artifact in build_all([_source(source) for source in sources], kernel)]


def unweave(*names: str) -> list[str]:
    """Take woven aspects out of the kernel, all of them if none is named; their names."""
    from klasy.weaver.unweave import unweave as take_out

    return take_out(names or None)


def woven() -> list[WovenAspect]:
    """The woven aspects, by name, for the caller to close: join points, counts, cost."""
    from klasy.weaver.woven import read_registry

    return read_registry()


def events(*names: str, follow: bool = False, keep: bool = False) -> Iterator[LogEvent]:
    """The records of woven aspects (all, if none is named) in the order of time; each is read once.

    Ends with the last record there is, or, with ``follow``, when none of the aspects is woven any more. A batch of
    records leaves the kernel's buffer when the next is asked for; with ``keep`` they stay.
    """
    from klasy.weaver.woven import open_aspects

    aspects = open_aspects(names)
    try:
        identities = [identity(aspect) for aspect in aspects]
        reader, _ = open_reader(aspects)
        with reader:
            for batch in reader.batches(keep=keep):
                yield from batch
            while follow and any(map(still_there, identities)):
                reader.wait(_LOOK_AROUND)
                for batch in reader.batches():
                    yield from batch
    finally:
        for aspect in aspects:
            aspect.close()


def states(name: str) -> dict[str, list[Slot]]:
    """What the states of a woven aspect hold now, by their names: their elements, the largest first."""
    from klasy.weaver.states import read_states
    from klasy.weaver.woven import open_woven

    decoder, _ = state_decoder()
    with open_woven(name) as aspect:
        decoder.learn([aspect])
        return {c.state.name: decoder.slots(c.state, c.elements, c.places) for c in read_states(aspect)}


def _source(source: Source) -> SourceFile:
    from klasy.source import SourceFile

    if isinstance(source, SourceFile):
        return source
    if isinstance(source, str) and "{" in source:
        return SourceFile("<text>", source)
    name = os.fspath(source)
    try:
        with open(name, encoding="utf-8-sig") as file:
            return SourceFile(name, file.read(), name)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text") from None


# --- reading logs ---------------------------------------------------------------------------------------------------


class _LateKernel:
    """The running kernel's symbols and types, read when a record first needs them; and what aspects hand along."""

    def __init__(self, aspects: Sequence[WovenAspect] = ()) -> None:
        self._handed: dict[str, bytes] = {}
        self._btfs: dict[str, Btf] = {}
        self.learn(aspects)

    def learn(self, aspects: Iterable[WovenAspect]) -> None:
        """Add the types that some more aspects hand along."""
        for aspect in aspects:
            self._handed |= aspect.types

    def function_at(self, address: int) -> Function | None:
        return _kernel().function_at(address) or _kernel().generated.function_at(address)

    def data_at(self, address: int) -> DataSymbol | None:
        return _kernel().data_at(address)

    def access_before(self, ip: int) -> Reference | None:
        return _kernel().access_before(ip)

    def types(self, name: str | None) -> Btf | None:
        if name is None:
            return _kernel().btf
        if name not in self._btfs:
            from klasy.btf.btf import Btf

            if name not in self._handed:
                return None
            self._btfs[name] = Btf(self._handed[name])
        return self._btfs[name]


def _kernel() -> LiveKernel:
    from klasy.kernel.live import running_kernel

    return running_kernel()


def identity(aspect: WovenAspect) -> tuple[str, int]:
    """What tells this weave of an aspect from a later one of the same name: its directory and that one's inode."""
    try:
        return aspect.path, os.stat(aspect.path).st_ino
    except FileNotFoundError:  # it has been taken out since: no directory has this inode
        return aspect.path, 0


def still_there(which: tuple[str, int]) -> bool:
    """Whether a weave is still in the kernel."""
    path, inode = which
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False


def schema(aspect: WovenAspect) -> Schema:
    """What the log reader needs to know of a woven aspect."""
    from klasy.log.event import LatePoints, Schema

    points = LatePoints(aspect.number, aspect.joinpoint)
    return Schema(aspect.name, tuple(aspect.advice_labels), points, aspect.formats)


def open_reader(aspects: Sequence[WovenAspect]) -> tuple[LogReader, Symbolizer]:
    """A reader of the logs of woven aspects, and the symbols to show its events with."""
    from klasy.log.reader import LogReader
    from klasy.log.symbolize import Symbolizer

    kernel = _LateKernel(aspects)
    symbols = Symbolizer(kernel)
    return LogReader([(schema(aspect), aspect.events()) for aspect in aspects], kernel.types, symbols), symbols


def symbolizer() -> Symbolizer:
    """Names of the running kernel's code: its own, its modules', and what it has made while it runs."""
    from klasy.log.symbolize import Symbolizer

    return Symbolizer(_LateKernel())


def state_decoder() -> tuple[StateDecoder, Symbolizer]:
    """What decodes the states of woven aspects, and the symbols to show them with."""
    from klasy.log.state import StateDecoder
    from klasy.log.symbolize import Symbolizer

    kernel = _LateKernel()
    symbols = Symbolizer(kernel)
    return StateDecoder(kernel.types, symbols, kernel.learn), symbols
