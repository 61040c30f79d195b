"""The part of the page that shows the vectors: how alike they are, a map, neighbours, near copies and outliers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from report.asked import Asked
from report.cards import Cards, is_text
from report.charts import COLOURS, Curve, Mark, figure, histogram, legend, scrolled, table
from report.html import Html, command, joined, snippet, tag
from report.job_facts import JobFacts
from report.likeness import (
    COPY,
    FPR,
    NEAREST,
    SAME,
    Spread,
    Surroundings,
    binned,
    clusters_of,
    gap_of,
    look_around,
    random_spread,
)
from report.neighbours import Near, Nearest, find_nearest
from report.page import Section, paragraphs
from report.pool import Pool, Seen, draw_pool
from report.projection import has_umap, pca, umap
from report.published import PublishedVectors
from report.row_book import RowBook
from report.scatter import Category, scatter
from schemas.counted import counted
from schemas.errors import Refused
from schemas.rows import ManifestRow, Modality

#: Points of a map, pictures among them, and characters of a text that goes with one.
_POINTS, _MAP_PICTURES, _MAP_EDGE, _MAP_TEXT = 2000, 400, 64, 110
#: What the script finds the points of all maps by, and points that UMAP needs.
_POINTS_KEY, _LEAST_UMAP = "points", 20
#: Rows of a modality without which its curves would be nothing but noise.
_CURVE_ROWS = 30
#: Rows whose neighbours are shown, of each modality and in all.
_ASKED, _ASKED_IN_ALL = 6, 14
_CLUSTERS, _MEMBERS, _OUTLIERS = 8, 6, 8
_MOST_VALUES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What was drawn and found."""

    pools: list[Pool]
    around: dict[Modality, Surroundings]
    spreads: list[Spread]
    nearest: Nearest | None
    shown: list[tuple[Pool, np.ndarray]]  # rows of each pool that are on the map


def vector_sections(
    facts: JobFacts, cards: Cards, book: RowBook, asked: Asked, maps: dict[str, object]
) -> list[Section]:
    """The sections on vectors; none where none is published."""
    column = PublishedVectors.of(facts.job)
    counts = {Modality(name): count for name, count in facts.status.vectors_by_modality.items() if count}
    files = {modality: keys for modality in counts if (keys := facts.keys_of(modality))}
    pools = [draw_pool(column, m, keys, counts[m], seed=asked.seed) for m, keys in files.items()]
    pools = [pool for pool in pools if len(pool.rows) > 1]
    if not pools:
        return []
    look = _look(column, pools, files, sum(counts.values()), asked)
    rows = _planned(book, look) if cards.pictures else {}
    return [
        _likeness_section(look),
        _map_section(look, rows, cards, facts, asked, maps),
        _neighbours_section(look, rows, cards),
        _copies_section(look, rows, cards, facts),
        _outliers_section(look, rows, cards),
    ]


def _look(
    column: PublishedVectors, pools: list[Pool], files: dict[Modality, list[str]], of: int, asked: Asked
) -> _Look:
    spreads = [random_spread(p.vectors, p.vectors, (str(p.modality),) * 2, seed=asked.seed) for p in pools]
    around = {
        pool.modality: look_around(pool.vectors, threshold=max(COPY, min(spread.threshold, SAME)))
        for pool, spread in zip(pools, spreads, strict=True)
    }
    spreads += [
        random_spread(x.vectors, y.vectors, (str(x.modality), str(y.modality)), seed=asked.seed)
        for x, y in combinations(pools, 2)
    ]
    rng = np.random.default_rng(asked.seed)
    each = max(2, min(_ASKED, _ASKED_IN_ALL // len(pools)))
    picked = [(pool, np.sort(rng.permutation(len(pool.rows))[:each])) for pool in pools]
    nearest = find_nearest(
        column,
        [pool.rows[n] for pool, some in picked for n in some],
        np.concatenate([pool.vectors[some] for pool, some in picked]),
        files,
        of,
    )
    return _Look(pools=pools, around=around, spreads=spreads, nearest=nearest, shown=_on_map(pools, rng))


def _on_map(pools: list[Pool], rng: np.random.Generator) -> list[tuple[Pool, np.ndarray]]:
    """Rows of each modality in proportion to the root of their number, so that the few are seen beside the many."""
    weights = np.sqrt([len(pool.rows) for pool in pools])
    each = np.maximum(1, _POINTS * weights / weights.sum()).astype(int)
    return [(pool, np.sort(rng.permutation(len(pool.rows))[:most])) for pool, most in zip(pools, each, strict=True)]


def _planned(book: RowBook, look: _Look) -> dict[str, ManifestRow]:
    """What the rows are that will be shown, by id."""
    seen = [pool.rows[n] for pool, some in look.shown for n in some]
    if look.nearest:
        seen += look.nearest.asked
        seen += [near.row for found in (look.nearest.same, look.nearest.other) for line in found for near in line]
    for pool in look.pools:
        around = look.around[pool.modality]
        seen += [pool.rows[n] for group in clusters_of(around.labels, _CLUSTERS) for n in group[:_MEMBERS]]
        seen += [pool.rows[n] for n in np.argsort(around.density)[:_OUTLIERS]]
    return book.rows((row.shard, row.id) for row in seen)


def _sampled(pools: Sequence[Pool]) -> str:
    """How many rows were looked at, in words."""
    parts = [
        f"all {counted(len(p.rows), f'{p.modality} vector')}"
        if p.is_all
        else f"{len(p.rows):,} of {p.of:,} {p.modality} vectors, drawn at random"
        for p in pools
    ]
    return f"From {', '.join(parts)}."


# --- how alike


def _likeness_section(look: _Look) -> Section:
    within = [s for s in look.spreads if s.is_within]
    across = [s for s in look.spreads if not s.is_within]
    many = {str(pool.modality) for pool in look.pools if len(pool.rows) >= _CURVE_ROWS}
    drawn = [s for s in within if s.left in many] or within
    charts = [_within_figure(look, drawn)]
    if across:
        charts.append(_gap_figure(*gap_of(drawn, across)))
    gap = _gap_words(look, within, across)
    rows = [
        [s.name, f"{s.mean:.3f}", f"{s.deviation:.3f}", f"{s.threshold:.3f}", _nearest_mean(look, s)]
        for s in look.spreads
    ]
    heads = ["pairs", "mean", "deviation", "null threshold", "mean of the nearest"]
    words = (
        f"Cosines of random pairs of rows say what chance gives. One random pair of {round(1 / FPR):,} reaches the "
        "null threshold: a likeness below it says nothing."
    )
    body = joined(
        paragraphs(words, gap, _sampled(look.pools)),
        tag("div", charts, class_="grid2"),
        scrolled(table(heads, rows), "Likeness, in numbers"),
    )
    return Section(name="likeness", title="Likeness", body=body)


def _nearest_mean(look: _Look, spread: Spread) -> str:
    if not spread.is_within:
        return "-"
    return f"{float(look.around[Modality(spread.left)].nearest.mean()):.3f}"


def _edges(values: Sequence[np.ndarray], bins: int = 60) -> list[float]:
    low = min(float(v.min()) for v in values)
    high = max(float(v.max()) for v in values)
    pad = 0.02 * max(high - low, 1e-3)
    return [float(x) for x in np.linspace(max(-1.0, low - pad), min(1.0, high + pad), bins + 1)]


def _within_figure(look: _Look, within: list[Spread]) -> Html:
    """Random pairs against each row's nearest one, by modality."""
    edges = _edges([s.cosines for s in within] + [look.around[Modality(s.left)].nearest for s in within])
    curves = []
    for n, spread in enumerate(within):
        curves.append(Curve(name=f"{spread.left}: random pairs", values=binned(spread.cosines, edges), colour=n))
        near = look.around[Modality(spread.left)].nearest
        curves.append(Curve(name=f"{spread.left}: nearest row", values=binned(near, edges), colour=n, dashed=True))
    marks = [Mark(at=s.threshold, name=f"null {s.threshold:.2f}", colour=n) for n, s in enumerate(within)]
    label = "; ".join(
        f"{s.left}: random pairs have a cosine of {s.mean:.2f} on average, the null threshold is {s.threshold:.2f}"
        for s in within
    )
    chart = joined(_key(curves), histogram(edges, curves, label=label, axis="cosine", marks=marks))
    return figure(
        "Within a modality", chart, note="Random pairs, and each row with the one nearest to it in the sample."
    )


def _key(curves: Sequence[Curve]) -> Html:
    return legend([c.name for c in curves], [c.colour % COLOURS for c in curves], [c.dashed for c in curves])


def _gap_figure(sides: list[Spread], some: list[Spread]) -> Html:
    """Within against across, with the gap between their means."""
    edges = _edges([s.cosines for s in (*sides, *some)])
    curves = [Curve(name=f"{s.name}", values=binned(s.cosines, edges), colour=n) for n, s in enumerate(sides)]
    curves += [
        Curve(name=s.name, values=binned(s.cosines, edges), colour=len(sides) + n, dashed=True)
        for n, s in enumerate(some)
    ]
    inner, outer = float(np.mean([s.mean for s in sides])), float(np.mean([s.mean for s in some]))
    marks = [Mark(at=inner, name=f"within {inner:.2f}"), Mark(at=outer, name=f"across {outer:.2f}")]
    label = f"Random pairs within a modality have a cosine of {inner:.2f} on average, across two of {outer:.2f}"
    shown = histogram(edges, curves, label=label, axis="cosine", marks=marks, gap=(inner, outer))
    chart = joined(_key(curves), shown)
    return figure(
        "Across modalities: the gap", chart, note=f"Random pairs; the gap between the means is {inner - outer:.2f}."
    )


def _gap_words(look: _Look, within: list[Spread], across: list[Spread]) -> str | None:
    """How far apart the modalities lie (Liang et al., NeurIPS 2022: the distance of their centroids)."""
    if not across:
        return None
    centres = {str(p.modality): p.vectors.mean(axis=0, dtype=np.float64) for p in look.pools}
    told = [f"{s.left} and {s.right} {np.linalg.norm(centres[s.left] - centres[s.right]):.2f}" for s in across]
    return (
        "Each modality lies in a region of its own, so a likeness within one and a likeness across two are not to be "
        f"compared by one number (the modality gap). Distance of the centres: {', '.join(told)}."
    )


# --- the map


def _map_section(
    look: _Look,
    rows: dict[str, ManifestRow],
    cards: Cards,
    facts: JobFacts,
    asked: Asked,
    maps: dict[str, object],
) -> Section:
    seen = [pool.rows[n] for pool, some in look.shown for n in some]
    vectors = np.concatenate([pool.vectors[some] for pool, some in look.shown])
    name, kinds, categories = _coloured(seen, facts, asked)
    maps[_POINTS_KEY] = _told_points(seen, rows, cards, kinds, [c.name for c in categories])
    points, shares = pca(vectors)
    held = f"{100 * float(shares.sum()):.0f} %"
    note = f"The first two principal components hold {held} of the variance of these vectors."
    figures = [_map_figure("Principal components", note, points, kinds, categories)]
    if asked.umap and has_umap() and len(vectors) > _LEAST_UMAP:
        note = "Near points were near before; distances between far ones mean little."
        figures.append(_map_figure("UMAP", note, umap(vectors), kinds, categories))
    words = (
        f"{counted(len(seen), 'row')}, coloured by {name}. Point at one to see what it is; with the keys: go to the "
        "map, and walk by the arrows. A name above the map switches its points off."
    )
    return Section(name="map", title="Map", body=joined(paragraphs(words), tag("div", figures, class_="maps")))


def _map_figure(title: str, note: str, points: np.ndarray, kinds: list[int], categories: list[Category]) -> Html:
    label = f"Map of {counted(len(kinds), 'row')}: " + ", ".join(f"{c.name} {c.count:,}" for c in categories)
    return figure(title, scatter(points, kinds, categories, name=_POINTS_KEY, label=label), note=note, wide=True)


def _coloured(seen: list[Seen], facts: JobFacts, asked: Asked) -> tuple[str, list[int], list[Category]]:
    """What colours the points: the modality, or a kept column where there is but one modality or it was asked for."""
    keep = [column.name for column in facts.job.record.spec.keep]
    if asked.colour and asked.colour not in keep:
        known = f"it keeps {', '.join(keep)}" if keep else "it keeps none: see --keep of `embedmill run`"
        raise Refused(f"--colour {asked.colour}: the job keeps no column of that name; {known}")
    values = [str(row.modality) for row in seen]
    name = "modality"
    if asked.colour in keep:
        name, values = asked.colour, [_word(row.kept[keep.index(asked.colour)]) for row in seen]
    elif len(set(values)) == 1:
        for at, column in enumerate(keep):
            some = [_word(row.kept[at]) for row in seen]
            if 1 < len(set(some)) <= 3 * _MOST_VALUES:
                name, values = column, some
                break
    names, counts = np.unique(np.asarray(values), return_counts=True)
    order = [str(names[n]) for n in np.argsort(-counts, kind="stable")]
    kept = order if len(order) <= _MOST_VALUES else [*order[: _MOST_VALUES - 1], "all others"]
    kinds = [kept.index(value) if value in kept else len(kept) - 1 for value in values]
    return name, kinds, [Category(name=word, count=kinds.count(n)) for n, word in enumerate(kept)]


def _word(value: object) -> str:
    return "(none)" if value is None else snippet(str(value), 40)


def _told_points(
    seen: list[Seen], rows: dict[str, ManifestRow], cards: Cards, kinds: list[int], names: list[str]
) -> dict[str, object]:
    """What the script shows of each point."""
    images: list[str] = []
    at: list[int] = []
    step = max(1, len(seen) // _MAP_PICTURES)
    for n, row in enumerate(seen):
        drawn = cards.pictures.of(rows.get(row.id), _MAP_EDGE) if cards.pictures and n % step == 0 else ""
        at.append(len(images) if drawn else -1)
        images += [drawn] if drawn else []
    return {
        "ids": [snippet(row.id, 60) + (f" from {row.start_s:g} s" if row.start_s is not None else "") for row in seen],
        "texts": [cards.words(rows.get(row.id), _MAP_TEXT) for row in seen],
        "kinds": names,
        "kind": kinds,
        "image": at,
        "images": images,
    }


# --- neighbours


def _neighbours_section(look: _Look, rows: dict[str, ManifestRow], cards: Cards) -> Section:
    nearest = look.nearest
    assert nearest is not None
    lines = []
    for row, same, other in zip(nearest.asked, nearest.same, nearest.other, strict=True):
        width = "asked wide" if is_text(rows.get(row.id)) else "asked"
        asked = tag("div", cards.of(rows.get(row.id), row.id, start_s=row.start_s), class_=width)
        found = [
            tag("ul", [_near_card(near, rows, cards, across) for near in nears], class_="cards")
            for across, nears in ((False, same), (True, other))
            if nears
        ]
        lines.append(tag("li", asked, tag("div", found, class_="found"), class_="line-of beside"))
    of = f"{nearest.searched:,} of {nearest.of:,}" if nearest.searched < nearest.of else f"all {nearest.of:,}"
    across = " Dashed: rows of another modality." if any(nearest.other) else ""
    words = f"Rows drawn at random, each with those nearest to it of {of} vectors, and the cosine.{across}"
    sheet = tag("ul", lines, class_="sheet cards-of")
    return Section(name="neighbours", title="Neighbours", body=joined(paragraphs(words), sheet))


def _near_card(near: Near, rows: dict[str, ManifestRow], cards: Cards, across: bool) -> Html:
    row = rows.get(near.row.id)
    card = cards.of(row, near.row.id, note=f"{near.cosine:.3f}", start_s=near.row.start_s)
    kinds = [*(["across"] if across else []), *(["wide"] if is_text(row) else [])]
    return tag("li", card, class_=" ".join(kinds) or None)


# --- near copies and outliers


def _copies_section(look: _Look, rows: dict[str, ManifestRow], cards: Cards, facts: JobFacts) -> Section:
    parts: list[Html] = []
    told = []
    for pool in look.pools:
        around = look.around[pool.modality]
        groups = clusters_of(around.labels, len(pool.rows))
        alike = sum(map(len, groups))
        told.append(
            f"{pool.modality}: {alike:,} of {counted(len(pool.rows), 'row')} in {counted(len(groups), 'cluster')} "
            f"(cosine {around.threshold:.3f} and above)"
        )
        for group in groups[:_CLUSTERS]:
            some = [_card(pool.rows[n], rows, cards) for n in group[:_MEMBERS]]
            head = counted(len(group), f"{pool.modality} row") + (
                f", {_MEMBERS} of them here" if len(group) > _MEMBERS else ""
            )
            parts.append(tag("li", tag("p", head), tag("ul", some, class_="cards"), class_="line-of"))
    words = (
        "Over all rows, with those to keep:"
        if all(pool.is_all for pool in look.pools)
        else "Rows of the sample alone are compared with each other: there are more in all. "
        "Over all rows, with those to keep:"
    )
    commands = [tag("p", tag("code", line)) for line in _dedups(look, facts)]
    more = joined(tag("p", words), commands)
    sheet = tag("ul", parts, class_="sheet cards-of") if parts else None
    return Section(name="copies", title="Near copies", body=joined(paragraphs(*told), more, sheet))


def _dedups(look: _Look, facts: JobFacts) -> list[str]:
    """What finds the copies of all rows: of several modalities a command for each that has some in the sample."""
    place, pools = facts.status.location, look.pools
    if len(facts.status.vectors_by_modality) == 1:
        return [command("dedup", place, "--out", "copies")]
    some = [p for p in pools if clusters_of(look.around[p.modality].labels, 1)] or pools[:1]
    return [command("dedup", place, "--modality", p.modality, "--out", f"copies-{p.modality}") for p in some]


def _card(seen: Seen, rows: dict[str, ManifestRow], cards: Cards, note: str = "") -> Html:
    row = rows.get(seen.id)
    card = cards.of(row, seen.id, note=note, start_s=seen.start_s)
    return tag("li", card, class_="wide" if is_text(row) else None)


def _outliers_section(look: _Look, rows: dict[str, ManifestRow], cards: Cards) -> Section:
    parts = []
    for pool in look.pools:
        around = look.around[pool.modality]
        order = np.argsort(around.density)[:_OUTLIERS]
        items = [_card(pool.rows[n], rows, cards, f"{float(around.density[n]):.3f}") for n in order]
        head = f"{pool.modality}; the median row has {float(np.median(around.density)):.3f}"
        parts.append(tag("li", tag("p", head), tag("ul", items, class_="cards"), class_="line-of"))
    words = f"Rows that are least like those nearest to them: the mean cosine to the {NEAREST} nearest of the sample."
    return Section(
        name="outliers", title="Outliers", body=joined(paragraphs(words), tag("ul", parts, class_="sheet cards-of"))
    )
