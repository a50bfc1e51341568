"""A report as a picture, by matplotlib, which only who asks for one must have (``pip install '.[plot]'``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.errors import SystemRefusal

if TYPE_CHECKING:
    from typing import Any

    from matplotlib.figure import Figure

    from klasy.bench.measure import Report, Row

_COLOURS = {"floor": "#b0b0b0", "reference": "#707070", "klasy": "#1f77b4", "peer": "#ff9f40", "contrast": "#a6cee3"}


def check() -> None:
    """Raise SystemRefusal if pictures cannot be drawn: better before a measurement of minutes than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemRefusal(
            "--png needs matplotlib, which is not installed",
            hint="in klasy's checkout .venv/bin/pip install -e '.[plot]', or Debian's python3-matplotlib",
        ) from None


def draw(report: Report, path: str) -> None:
    """Write a PNG file. Raises SystemRefusal where it cannot be written."""
    check()
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(row.group for row in report.rows))
    if not groups:
        raise SystemRefusal("there is nothing to draw: nothing was measured")
    if report.over:
        _save(_lines(report, groups), path)
        return
    columns = 1 if len(groups) == 1 else 2
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(6.5 * columns, 0.6 + 2.6 * lines), layout="constrained")
    figure.suptitle(report.title)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_axis_off()
    for axis, group in zip(axes.flat, groups, strict=False):
        rows = [row for row in report.rows if row.group == group]
        _bars(axis, rows)
        axis.set_title(group, fontsize="medium")
        axis.set_xlabel(report.unit)
    _save(figure, path)


def _save(figure: Figure, path: str) -> None:
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise SystemRefusal(f"cannot write {path}: {error.strerror}") from None


def _lines(report: Report, groups: list[str]) -> Figure:
    """A line for each group over the numbers that are the names of its rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for group in groups:
        rows = sorted((row for row in report.rows if row.group == group), key=lambda row: int(row.name))
        middles = [row.median for row in rows]
        spans = [[row.median - min(row.samples) for row in rows], [max(row.samples) - row.median for row in rows]]
        axis.errorbar([int(row.name) for row in rows], middles, yerr=spans, marker="o", capsize=2, label=group)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_ylim(bottom=0)
    axis.set(title=report.title, xlabel=report.over, ylabel=report.unit)
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axis: Any, rows: list[Row]) -> None:
    """One horizontal bar a row, with the span from the least to the most of its samples."""
    middles = [row.median for row in rows]
    below = [max(0.0, row.median - min(row.samples)) for row in rows]
    above = [max(0.0, max(row.samples) - row.median) for row in rows]
    places = range(len(rows))
    axis.barh(places, middles, xerr=[below, above], color=[_COLOURS[row.role] for row in rows], ecolor="black")
    axis.set_yticks(places, [row.name for row in rows])
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
