"""What people see of a report: a table, and bars drawn with characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.cli.table import plural, shown, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klasy.bench.measure import Limit, Report, Row

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
    """A line for each limit: whether it holds, and where not."""
    return [_judged(report, limit) for limit in report.limits]


def _judged(report: Report, limit: Limit) -> str:
    judged = [row for row in report.rows if row.role == "klasy" and limit.name in row.ratios]
    if not judged:
        return f"{limit.name} {limit.text()}: nothing here was measured that tells"
    broken = [row for row in judged if not limit.holds(row.ratios[limit.name])]
    if not broken:
        return f"{limit.name} {limit.text()}: holds"
    where = ", ".join(_place(row, limit) for row in broken)
    return f"{limit.name} {limit.text()}: does not hold for {where}"


def _place(row: Row, limit: Limit) -> str:
    return f"{row.group} ({row.ratios[limit.name]:.2f})"
