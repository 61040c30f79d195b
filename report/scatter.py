"""The map: points of a plane, coloured by what they are, that can be walked through with a mouse or with the keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from report.charts import COLOURS
from report.html import Html, tag

_WIDTH, _HEIGHT, _EDGE = 420, 340, 10
#: The shapes that go with the first colours, so that these need not be told apart.
_SHAPES = (
    "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0",
    "m-2.3-2.3h4.6v4.6h-4.6z",
    "m0-3.1l2.9 5h-5.8z",
    "m0-3.3l3.1 3.3l-3.1 3.3l-3.1-3.3z",
    "m-2.9-1h1.9v-1.9h2v1.9h1.9v2h-1.9v1.9h-2v-1.9h-1.9z",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """What points may be: its name, and how many points are."""

    name: str
    count: int


def scatter(points: np.ndarray, kinds: Sequence[int], categories: Sequence[Category], *, name: str, label: str) -> Html:
    """(n, 2) points with the kind of each, a number into `categories`; the script shows what each of them is."""
    places = _places(points)
    groups = []
    for kind in range(len(categories)):
        shape = _SHAPES[kind % len(_SHAPES)]
        drawn = [
            tag("path", d=f"M{x:g} {y:g}{shape}", data_n=n)
            for n, ((x, y), its) in enumerate(zip(places.tolist(), kinds, strict=True))
            if its == kind
        ]
        groups.append(tag("g", drawn, class_=f"f{kind % COLOURS} points", data_kind=kind))
    picture = tag(
        "svg",
        groups,
        tag("path", d="", class_="ring"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=label,
        class_="plot map",
        tabindex=0,
        data_map=name,
    )
    return tag("div", _legend(categories), tag("div", picture, tag("div", class_="tip", hidden=True), class_="stage"))


def _legend(categories: Sequence[Category]) -> Html:
    """Names with their shapes; the script makes them switches."""
    items = []
    for kind, category in enumerate(categories):
        shape = tag(
            "svg",
            tag("path", d=f"M5 5{_SHAPES[kind % len(_SHAPES)]}"),
            viewBox="0 0 10 10",
            class_=f"f{kind % COLOURS} sign",
            aria_hidden="true",
            focusable="false",
        )
        words = tag("span", category.name, " ", tag("small", f"{category.count:,}"))
        items.append(tag("li", tag("button", shape, words, type="button", aria_pressed="true", data_kind=kind)))
    return tag("ul", items, class_="legend switches")


def _places(points: np.ndarray) -> np.ndarray:
    """Where the points lie in the picture, to a tenth; far ones are brought to its edge."""
    if not len(points):
        return np.zeros((0, 2))
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    span = np.where(high > low, high - low, 1.0)
    share = np.clip((points - low) / span, 0, 1)
    box = np.array([_WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE])
    x, y = (_EDGE + share * box).T
    return np.round(np.column_stack([x, _HEIGHT - y]), 1)
