"""The picture of bench/simulate.py: shards a second over workers, both logarithmic, as SVG."""

import math
from collections.abc import Iterable
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 440, 70, 46, 130, 56
_COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4f9a")


def chart(lines: Iterable[dict[str, Any]]) -> str:
    """One curve for each length of a shard, and dashed what the workers alone could do."""
    points = list(lines)
    place = _Axes(
        (min(p["workers"] for p in points), max(p["workers"] for p in points)),
        (min(p["shards_per_s"] for p in points), max(p["ideal_per_s"] for p in points)),
    )
    body = [place.frame()]
    for number, shard_s in enumerate(sorted({p["shard_s"] for p in points})):
        body.append(_curve([p for p in points if p["shard_s"] == shard_s], place, _COLOURS[number % len(_COLOURS)]))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    white = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    return "\n".join([head, white, *body, "</svg>"]) + "\n"


class _Axes:
    """Where a number of workers and a rate lie."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = _decades(x), _decades(y)

    def at(self, workers: float, rate: float) -> tuple[float, float]:
        across, up = _share(workers, self._x), _share(rate, self._y)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self) -> str:
        """Grid, numbers and titles."""
        (x0, x1), (y0, y1) = self._x, self._y
        parts = [_text(_LEFT, 24, "One coordinator: shards per second over workers (dashed: workers alone)", size=15)]
        for power in range(x0, x1 + 1):
            (x, bottom), (_, top) = self.at(10.0**power, 10.0**y0), self.at(10.0**power, 10.0**y1)
            parts += [_line(x, bottom, x, top, "#ddd"), _text(x, bottom + 18, f"{10**power:,}", anchor="middle")]
        for power in range(y0, y1 + 1):
            (left, y), (right, _) = self.at(10.0**x0, 10.0**power), self.at(10.0**x1, 10.0**power)
            parts += [_line(left, y, right, y, "#ddd"), _text(left - 8, y + 4, f"{10.0**power:,g}", anchor="end")]
        parts.append(_text(_LEFT, _HEIGHT - 12, "workers"))
        parts.append(_text(_LEFT, _TOP - 6, "shards/s"))
        return "\n".join(parts)


def _decades(ends: tuple[float, float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1]))
    return low, max(high, low + 1)


def _share(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def _curve(points: list[dict[str, Any]], place: _Axes, colour: str) -> str:
    seen = [place.at(p["workers"], p["shards_per_s"]) for p in points]
    ideal = [place.at(p["workers"], p["ideal_per_s"]) for p in points]
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in seen]
    label = _text(seen[-1][0] + 10, seen[-1][1] + 4, f"{points[0]['shard_s']:g} s a shard", colour=colour)
    return "\n".join(
        [_path(ideal, colour, 'stroke-dasharray="4 4" stroke-opacity="0.6"'), _path(seen, colour), *dots, label]
    )


def _path(points: list[tuple[float, float]], colour: str, more: str = "") -> str:
    spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{spots}" fill="none" stroke="{colour}" stroke-width="2" {more}/>'


def _line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#333", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{text}</text>'
