"""Charts: bars, histograms, lines and points as SVG, with their numbers in a table for those who do not see them.

Sizes are those of a phone: a chart is 420 units wide, and as wide as its place lets it be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from report.html import Html, joined, tag

WIDTH = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 22, 34
#: Series have the classes c0 to c7.
COLOURS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A line of a bar chart."""

    name: str
    values: Sequence[float]  # one for each series
    told: str  # the numbers, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line of a chart: a value for each place on the axis, or for each interval between edges."""

    name: str
    values: Sequence[float]
    colour: int
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line across a chart, at a place of its lower axis."""

    at: float
    name: str
    colour: int = -1  # -1: none of the series'


def figure(title: str, chart: Html, *, note: str = "", table: Html | None = None, wide: bool = False) -> Html:
    """A chart with its title, what is to be known of it, and its numbers to unfold."""
    told = tag("details", tag("summary", "The numbers"), scrolled(table, f"{title}, in numbers")) if table else None
    caption = tag("figcaption", tag("strong", title), tag("span", note) if note else None)
    return tag("figure", caption, chart, told, class_="wide" if wide else None)


def legend(names: Sequence[str], colours: Sequence[int] | None = None, dashed: Sequence[bool] = ()) -> Html:
    """The names of series beside their colours."""
    colours = colours or range(len(names))
    marks = [" dashed" if n < len(dashed) and dashed[n] else "" for n in range(len(names))]
    return tag(
        "ul",
        [
            tag("li", tag("span", class_=f"key k{colour % COLOURS}{mark}"), name)
            for name, colour, mark in zip(names, colours, marks, strict=True)
        ],
        class_="legend",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str | Html]], *, numeric_from: int = 1) -> Html:
    """A table; columns from `numeric_from` on are numbers."""
    head = tag("tr", [tag("th", head, scope="col", class_=_aligned(n, numeric_from)) for n, head in enumerate(heads)])
    body = [
        tag(
            "tr",
            [
                tag("th" if n == 0 else "td", cell, scope="row" if n == 0 else None, class_=_aligned(n, numeric_from))
                for n, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    return tag("table", tag("thead", head), tag("tbody", body))


def scrolled(table: Html, label: str) -> Html:
    """A table that may be wider than the page; the keys can scroll it."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)


def _aligned(column: int, numeric_from: int) -> str | None:
    return "n" if column >= numeric_from else None


def bars(series: Sequence[str], lines: Sequence[Bar], *, colours: Sequence[int] | None = None) -> Html:
    """Bars of one or more series on top of each other, as the rows of a table: name, bar, numbers."""
    most = max((sum(line.values) for line in lines), default=0.0) or 1.0
    colours = colours or range(len(series))
    rows = [
        tag(
            "tr",
            tag("th", line.name, scope="row"),
            tag("td", _bar(line.values, most, colours), class_="bar", aria_hidden="true"),
            tag("td", line.told, class_="n"),
        )
        for line in lines
    ]
    told = tag("table", tag("tbody", rows), class_="bars")
    return joined(legend(series, colours), told) if len(series) > 1 else told


def _bar(values: Sequence[float], most: float, colours: Sequence[int]) -> Html:
    parts, at = [], 0.0
    for value, colour in zip(values, colours, strict=True):
        width = 100 * value / most
        if value > 0:
            shown = max(width, 0.6)  # nothing that is there is invisible
            parts.append(tag("rect", x=_r(at), y=0, width=_r(shown), height=10, class_=f"f{colour % COLOURS}"))
        at += width
    return tag("svg", parts, viewBox="0 0 100 10", preserveAspectRatio="none", focusable="false")


def histogram(
    edges: Sequence[float],
    curves: Sequence[Curve],
    *,
    label: str,
    axis: str,
    height: int = 210,
    marks: Sequence[Mark] = (),
    gap: tuple[float, float] | None = None,
    filled: bool = False,
) -> Html:
    """Steps over intervals; each curve has a value for each of `len(edges) - 1` intervals. `gap` is shaded."""
    top = max((max(curve.values, default=0.0) for curve in curves), default=0.0) or 1.0
    frame = _Frame(edges[0], edges[-1], 0.0, top * 1.05, height, left=_RIGHT)
    shapes = [_shade(frame, *gap)] if gap else []
    shapes += [_steps(frame, edges, curve, filled=filled) for curve in curves]
    return _plot(frame, shapes, label=label, axis=axis, marks=marks, with_y=False)


def _shade(frame: "_Frame", low: float, high: float) -> Html:
    begin, end = sorted((frame.x(low), frame.x(high)))
    height = frame.height - _BOTTOM - _TOP
    return tag("rect", x=_r(begin), y=_TOP, width=_r(end - begin), height=height, class_="gap")


def _steps(frame: "_Frame", edges: Sequence[float], curve: Curve, *, filled: bool) -> Html:
    base = frame.y(0.0)
    path = [f"M{_r(frame.x(edges[0]))} {_r(base)}"]
    for n, value in enumerate(curve.values):
        path.append(f"V{_r(frame.y(value))}H{_r(frame.x(edges[n + 1]))}")
    path.append(f"V{_r(base)}" + ("Z" if filled else ""))
    kind = f"f{curve.colour % COLOURS} area" if filled else f"s{curve.colour % COLOURS} line"
    return tag("path", d="".join(path), class_=f"{kind}{' dashed' if curve.dashed else ''}")


def lines(
    places: Sequence[float], curves: Sequence[Curve], *, label: str, axis: str, ticks: Sequence[tuple[float, str]]
) -> Html:
    """Curves over the same places, with a scale on the left; the lower axis has the ticks that it is given."""
    top = max((max(curve.values, default=0.0) for curve in curves), default=0.0) or 1.0
    frame = _Frame(places[0], places[-1], 0.0, top * 1.05, 210)
    shapes = []
    for curve in curves:
        points = [f"{_r(frame.x(x))} {_r(frame.y(y))}" for x, y in zip(places, curve.values, strict=True)]
        if len(curves) == 1:
            begin, end, floor = _r(frame.x(places[0])), _r(frame.x(places[-1])), _r(frame.y(0))
            area = f"M{begin} {floor}L{'L'.join(points)}L{end} {floor}Z"
            shapes.append(tag("path", d=area, class_=f"f{curve.colour % COLOURS} area"))
        shapes.append(tag("path", d="M" + "L".join(points), class_=f"s{curve.colour % COLOURS} line"))
    return _plot(frame, shapes, label=label, axis=axis, ticks=ticks)


def _plot(
    frame: "_Frame",
    shapes: Sequence[Html],
    *,
    label: str,
    axis: str,
    marks: Sequence[Mark] = (),
    ticks: Sequence[tuple[float, str]] | None = None,
    with_y: bool = True,
) -> Html:
    left, bottom = frame.left, frame.height - _BOTTOM
    grid = []
    if with_y:
        for value in nice_ticks(0.0, frame.y_high, 4):
            y = _r(frame.y(value))
            grid.append(tag("path", d=f"M{left} {y}H{WIDTH - _RIGHT}", class_="grid"))
            grid.append(
                tag("text", _short(value), x=left - 5, y=_r(frame.y(value) + 4), class_="tick", text_anchor="end")
            )
    told = ticks if ticks is not None else [(v, _short(v)) for v in nice_ticks(frame.x_low, frame.x_high, 5)]
    under = [
        tag("text", word, x=_r(frame.x(at)), y=bottom + 14, class_="tick", text_anchor=_anchor(frame.x(at)))
        for at, word in told
    ]
    base = tag("path", d=f"M{left} {bottom}H{WIDTH - _RIGHT}", class_="axis")
    named = tag(
        "text", axis, x=_r((left + WIDTH - _RIGHT) / 2), y=frame.height - 4, class_="name", text_anchor="middle"
    )
    return tag(
        "svg",
        grid,
        shapes,
        base,
        under,
        named,
        _marks(frame, marks),
        viewBox=f"0 0 {WIDTH} {frame.height}",
        role="img",
        aria_label=label,
        class_="plot",
    )


def _anchor(x: float) -> str:
    """Words at the right edge end there."""
    return "end" if x > WIDTH - 2 * _RIGHT else "middle"


def _marks(frame: "_Frame", marks: Sequence[Mark]) -> list[Html]:
    """Dotted lines with their names, one name below the other so that none covers another."""
    shown, bottom = [], frame.height - _BOTTOM
    for n, mark in enumerate(sorted(marks, key=lambda m: m.at)):
        x, y = frame.x(mark.at), 12 + 13 * n
        colour = f"s{mark.colour % COLOURS}" if mark.colour >= 0 else "plain"
        right = x > WIDTH * 0.6
        shown.append(tag("path", d=f"M{_r(x)} {y - 8}V{bottom}", class_=f"{colour} mark"))
        shown.append(
            tag(
                "text",
                mark.name,
                x=_r(x + (-4 if right else 4)),
                y=y,
                class_="note",
                text_anchor="end" if right else "start",
            )
        )
    return shown


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie in a chart."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: int
    left: int = _LEFT

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return self.left + (WIDTH - self.left - _RIGHT) * (value - self.x_low) / span

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1.0
        return self.height - _BOTTOM - (self.height - _BOTTOM - _TOP) * (value - self.y_low) / span


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Some round numbers from `low` to `high`."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    """A number on an axis."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g} {unit}"
    return f"{value:g}"


def _r(value: float) -> str:
    """A coordinate to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
