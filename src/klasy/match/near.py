"""Names that were probably meant, among very many.

``diag.suggest`` compares with every candidate; over the 100,000 names of a kernel that takes seconds. Here a cheap
test comes first: a word within two edits of another shares at least one of its thirds with it.
"""

from __future__ import annotations

from klasy.plain import TYPE_CHECKING, cache

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_CUTOFF = 0.75
_MOST_COMPARED = 400  # difflib takes some 20 us each


def near(word: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """Names near ``word``, best first.

    First those that differ only in case and underscores; then those within few edits of it; then, if there are none,
    those that begin with it or hold it as a part between underscores.
    """
    word = word.strip()
    if not word:
        return []
    if isinstance(candidates, frozenset):  # one that is kept: the same wrong name is often in many places
        return _near_once(word, candidates)[:limit]
    return _near(word, candidates if isinstance(candidates, list | tuple | set | dict) else list(candidates))[:limit]


@cache
def _near_once(word: str, names: frozenset[str]) -> list[str]:
    return _near(word, names)


def _near(word: str, names: Collection[str]) -> list[str]:
    folded = _fold(word)
    same = sorted((name for name in names if -8 <= len(name) - len(word) <= 8 and _fold(name) == folded), key=len)
    found = [name for name in same if name != word]
    found += [name for name in _few_edits(word, names) if name not in found]
    if not found:
        found = _containing(word, names)
    return found


def _fold(name: str) -> str:
    return name.replace("_", "").lower()


def _few_edits(word: str, names: Iterable[str]) -> list[str]:
    length = len(word)
    if length < 3:
        return []
    slack = 1 if length < 6 else max(2, length // 3)
    third = max(1, length // 3)
    head, middle, tail = word[:third], word[third : length - third], word[length - third :]
    low, high = length - slack, length + slack
    candidates = [
        name
        for name in names
        if low <= len(name) <= high and (name.startswith(head) or name.endswith(tail) or middle in name)
    ]
    if len(candidates) > _MOST_COMPARED:
        letters = set(word)
        candidates.sort(key=lambda name: (len(letters ^ set(name)), name))
        del candidates[_MOST_COMPARED:]
    import difflib

    return difflib.get_close_matches(word, candidates, n=5, cutoff=_CUTOFF)


def _containing(word: str, names: Iterable[str]) -> list[str]:
    if len(word) < 4:
        return []
    hits = [name for name in names if word in name]
    parts = f"_{word}_"
    hits.sort(key=lambda name: (not name.startswith(word), parts not in f"_{name}_", len(name), name))
    return hits[:3]
