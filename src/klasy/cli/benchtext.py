"""What people see of a report: a table, and bars drawn with characters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from klasy.cli.table import plural, shown, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.bench.measure import Limit, Report

_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def text(report: Report, machine: Mapping[str, object], rounds: int) -> str:
    """The whole report."""
    head = (
        f"{report.title} ({report.unit}; medians of {plural(rounds, 'round')})\n"
        f"Linux {machine['kernel']}, {plural(int(str(machine['cpus'])), 'CPU')}: {shown(str(machine['processor']))}"
    )
    parts = [head, *(_group(report, group) for group in dict.fromkeys(row.group for row in report.rows))]
    if report.missing:
        parts.append("\n".join(["not measured", *(f"  {name}: {why}" for name, why in report.missing.items())]))
    verdicts = verdict(report)
    if verdicts:
        parts.append("\n".join(verdicts))
    parts += report.notes
    return "\n\n".join(parts)


def number(value: float) -> str:
    """Four digits that say something: ``1234``, ``12.34``, ``0.1234``."""
    size = abs(value)
    return (
        f"{value:.0f}"
        if size >= 1000
        else f"{value:.1f}"
        if size >= 100
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.4f}"
    )


def _group(report: Report, group: str) -> str:
    rows = [row for row in report.rows if row.group == group]
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    notes = any(row.note for row in rows)
    most = max((row.median for row in rows), default=0.0)
    head = [group, report.unit, "±", *names, *(["NOTE"] if notes else []), ""]
    body = []
    for row in rows:
        ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in names]
        note = [row.note] if notes else []
        body.append([row.name, number(row.median), f"{100 * row.spread:.0f}%", *ratios, *note, bar(row.median, most)])
    return table(head, body)


def bar(value: float, most: float, width: int = _WIDTH) -> str:
    """A bar whose length is to ``width`` as ``value`` is to ``most``."""
    if most <= 0 or value <= 0:
        return ""
    eighths = round(8 * width * value / most)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def verdict(report: Report) -> list[str]:
    """A line for each limit: whether it holds, where not, and where the rounds differ too much to tell."""
    return [_judged(report, limit) for limit in report.limits]


def _judged(report: Report, limit: Limit) -> str:
    judged = [row for row in report.rows if row.role == "klasy" and limit.name in row.ratios]
    if not judged:
        return f"{limit.name} {limit.text()}: nothing here was measured that tells"
    broken, open_ = [], []
    for row in judged:
        ratio = row.ratios[limit.name]
        kept = [limit.holds(bound) for bound in row.bounds.get(limit.name, (ratio, ratio))]
        if not any(kept):
            broken.append(f"{row.group} ({ratio:.2f})")
        elif not all(kept):
            open_.append(f"{row.group} ({_between(*row.bounds[limit.name])})")
    parts = []
    if broken:
        parts.append(f"does not hold for {', '.join(broken)}")
    if open_:
        parts.append(f"more rounds must tell for {', '.join(open_)}")
    if len(broken) + len(open_) < len(judged):
        parts.append("holds for the others" if parts else "holds")
    return f"{limit.name} {limit.text()}: {'; '.join(parts)}"


def _between(low: float, high: float) -> str:
    return f"{low:.2f} or more" if math.isinf(high) else f"{low:.2f} to {high:.2f}"
