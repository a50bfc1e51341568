"""Reads what path.asp logged (``klasy log --json``) and draws where the segments of each flow spent their time.

``picture.py NAME=FILE .. [-o PICTURE.svg]``: one group of bars for each log, of median times; counted are the segments
that went all the way.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATIONS = ("ip", "queue", "driver", "arrives", "socket")
LEGS = ("IP, to the device", "waits in the queue", "the link", "IP, to the socket")
FLOWS = {7022: "session", 7001: "bulk"}
COLOURS = ("#4e79a7", "#e15759", "#f28e2b", "#76b7b2")
MARKS = "=#-+"


class Way(NamedTuple):
    """One segment: its flow, and the time in ns at which it passed each station."""

    flow: str
    size: int
    times: tuple[int, ...]


class Bar(NamedTuple):
    """One flow of one log: how many segments, and the median ms of each leg."""

    log: str
    flow: str
    segments: int
    legs: tuple[float, ...]


def ways(lines: Iterable[str]) -> Iterator[Way]:
    """The segments that passed all stations, in order. A buffer begins a new way where TCP hands it to IP."""
    under_way: dict[str, tuple[str, int, list[int]]] = {}
    for line in lines:
        event = json.loads(line)
        if "message" not in event:
            continue
        station, buffer, *rest = event["message"].split()
        if station == STATIONS[0]:
            under_way[buffer] = (FLOWS[int(rest[0])], int(rest[1]), [event["time_ns"]])
        elif buffer in under_way:
            flow, size, times = under_way[buffer]
            if STATIONS[len(times)] != station:  # dropped, or cloned on the way
                del under_way[buffer]
                continue
            times.append(event["time_ns"])
            if len(times) == len(STATIONS):
                del under_way[buffer]
                yield Way(flow, size, tuple(times))


def bars(name: str, found: list[Way]) -> list[Bar]:
    """The bars of one log."""
    made = []
    for flow in FLOWS.values():
        mine = [way.times for way in found if way.flow == flow]
        if mine:
            legs = tuple(
                statistics.median((times[leg + 1] - times[leg]) / 1e6 for times in mine) for leg in range(len(LEGS))
            )
            made.append(Bar(name, flow, len(mine), legs))
    return made


def text(drawn: list[Bar], width: int = 60) -> str:
    """The picture for a terminal."""
    most = max(sum(bar.legs) for bar in drawn)
    rows = ["   ".join(f"{mark} {leg}" for mark, leg in zip(MARKS, LEGS, strict=True)), ""]
    for bar in drawn:
        line = "".join(mark * round(ms / most * width) for mark, ms in zip(MARKS, bar.legs, strict=True))
        rows.append(f"{bar.log:5} {bar.flow:8} |{line:{width}}| {sum(bar.legs):7.2f} ms   {bar.segments} segments")
        rows.append(" " * 16 + "   ".join(f"{mark} {ms:.2f}" for mark, ms in zip(MARKS, bar.legs, strict=True)))
    return "\n".join(rows)


def svg(drawn: list[Bar]) -> str:
    """The picture as SVG."""
    most = max(sum(bar.legs) for bar in drawn)
    left, scale, high = 130, 560 / most, 30
    parts = []
    for n, bar in enumerate(drawn):
        x, y = float(left), 60 + n * (high + 14)
        parts.append(f'<text x="{left - 10}" y="{y + 20}" text-anchor="end">{bar.log}: {bar.flow}</text>')
        for leg, colour, ms in zip(LEGS, COLOURS, bar.legs, strict=True):
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(ms * scale, 0.5):.1f}" height="{high}" fill="{colour}">'
                f"<title>{leg}: {ms:.3f} ms</title></rect>"
            )
            x += ms * scale
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 20}">{sum(bar.legs):.1f} ms</text>')
    for n, (leg, colour) in enumerate(zip(LEGS, COLOURS, strict=True)):
        parts.append(f'<rect x="{left + n * 150}" y="20" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{left + n * 150 + 18}" y="31">{leg}</text>')
    height = 60 + len(drawn) * (high + 14) + 10
    style = "font-family: sans-serif; font-size: 13px"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="780" height="{height}" style="{style}">',
            *parts,
            "</svg>",
            "",
        ]
    )


def main(words: list[str]) -> None:
    """The command line."""
    out = words[words.index("-o") + 1] if "-o" in words else None
    logs = [word.split("=", 1) for word in words if "=" in word]
    drawn = []
    for name, file in logs:
        with open(file, encoding="utf-8") as lines:
            drawn += bars(name, list(ways(lines)))
    print(text(drawn))
    if out:
        with open(out, "w", encoding="utf-8") as file:
            file.write(svg(drawn))


if __name__ == "__main__":
    main(sys.argv[1:])
