"""What is said of a signature that no function of the kernel has: near misses, real prototypes, other readings."""

from __future__ import annotations

from klasy.diag import DiagnosticBag, did_you_mean
from klasy.match.glob import is_glob, star
from klasy.match.near import near
from klasy.match.prototype import says_types, type_refs
from klasy.match.signature import Signatures
from klasy.match.typeref import TypeRefError, base_in, spelled
from klasy.plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.kernel.model import Function, Kernel
    from klasy.lang.ast import Signature
    from klasy.match.prototype import Checker, Prototype

_MOST_SHOWN = 3


def report_unknown(signatures: Signatures, signature: Signature) -> None:
    """No function has the name."""
    kernel, name = signatures.kernel, signature.name
    hints, unseen = _other_reading(kernel, signature), ""
    if is_glob(name):
        close = near(star(name).strip("*").strip("_"), kernel.function_names())
        message = f"no function of this kernel matches '{name}'"
    else:
        close = near(name, kernel.function_names())
        known = kernel.why_absent(name)
        message = f"there is no function '{name}' to weave into" if known else f"this kernel has no function '{name}'"
        copies = sum([len(function.copies) for function in kernel.inlined(name)])
        if copies:
            hints.append(f"it was inlined, in {copies} place{'s' * (copies > 1)}: call({name}) selects those")
        elif known:
            hints.append(f"'{name}': {known}")
        else:
            unseen = (
                "if the source has it: it is a macro, is in a module that is not loaded, or was inlined everywhere "
                "(execution and call find that by debug information)"
            )
    if close:
        hints.append(did_you_mean(close))
        hints += [f"the kernel has '{text}'" for text in _prototypes(signatures, close)]
    if unseen:
        hints.append(unseen)
    signatures.bag.error("unknown-function", message, signature.span, hints=hints)
    if says_types(signature):
        _check_types(signatures, signature)


def _check_types(signatures: Signatures, signature: Signature) -> bool:
    """Types that do not exist are told. Whether there are such."""
    unknown = False
    for ref in type_refs(signature):
        if not is_glob(ref.name):
            try:
                base_in(signatures.kernel, ref)
            except TypeRefError as error:
                error.report(signatures.bag)
                unknown = True
    return unknown


def _prototypes(signatures: Signatures, names: Sequence[str]) -> list[str]:
    """Prototypes of functions by their names, as far as known."""
    texts = []
    for name in names:
        for function in signatures.functions(name):
            prototype = signatures.prototype(function) if function.btf is not None else None
            if prototype is not None:
                texts.append(prototype.text)
                break
    return texts


def report_contradiction(
    signatures: Signatures, signature: Signature, checker: Checker, known: list[tuple[Function, Prototype]], count: int
) -> None:
    """Functions have the name, but none has these types. ``count`` is how many, ``known`` those with prototypes."""
    if not is_glob(signature.name):
        texts = list(dict.fromkeys(prototype.text for _, prototype in known))
        hints = [f"its prototype is '{text}'" for text in texts[:_MOST_SHOWN]]
        if len(texts) > _MOST_SHOWN:
            hints.append(f"and {len(texts) - _MOST_SHOWN} other functions have that name")
        function, prototype = known[0]
        mismatch = checker.explain(function.base, prototype)
        hints += _other_reading(signatures.kernel, signature)
        signatures.bag.error(mismatch.code, mismatch.message, mismatch.span, hints=hints)
        return
    others = _other_reading(signatures.kernel, signature)
    if not others and _check_types(signatures, signature):
        return
    # Those nearest to the signature first: the more of it fits, the later they differ.
    kinds = {prototype.key: prototype for _, prototype in known}
    near_misses = {key for key, kind in kinds.items() if checker.nearly(kind)}
    known.sort(key=lambda pair: (pair[1].key not in near_misses, len(pair[0].name)))
    texts = list(dict.fromkeys(prototype.text for _, prototype in known[: 4 * _MOST_SHOWN]))
    hints = [f"one of them is '{text}'" for text in texts[:_MOST_SHOWN]]
    signatures.bag.error(
        "matches-nothing",
        f"{count} function{'s match' if count != 1 else ' matches'} '{signature.name}', "
        "but none has parameters and a result of these types",
        signature.span,
        hints=hints + others,
    )


def _other_reading(kernel: Kernel, signature: Signature) -> list[str]:
    """A hint where the second reading of a ``*`` would match."""
    other = signature.other
    if other is None:
        return []
    found = Signatures(kernel, DiagnosticBag()).resolve(other)
    if found.failed or not found.found:
        return []
    names = list(dict.fromkeys(each.function.base for each in found.found.values()))
    count = f"{len(names)} functions match" if len(names) > 1 else "it matches"
    shown = ", ".join(names[:_MOST_SHOWN]) + (", .." if len(names) > _MOST_SHOWN else "")
    result = "any type" if other.result is None else f"type '{spelled(other.result)}'"
    # ``%`` is a wildcard everywhere: a spelling with one reading.
    name = other.name.replace("*", "%")
    written = name if other.result is None else f"{spelled(other.result)} {name}"
    return [f"read as {result} and name '{other.name}', {count} ({shown}): write '{written}' for that"]
