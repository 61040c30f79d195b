"""The page of a dedup."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from report.asked import Asked
from report.cards import is_text
from report.charts import Bar, Curve, bars, figure, histogram
from report.html import Html, command, joined, tag
from report.page import Page, Section, paragraphs
from report.provenance import facts_table
from report.sides import Side
from report.words import share
from schemas.counted import counted
from schemas.dedup import DedupRecord
from schemas.parsed_json import parsed_json
from schemas.redaction import redact
from schemas.rows import ManifestRow
from schemas.shard import FOOTER_KEY
from storage import layout
from storage.parquet import read_parquet
from storage.store import Store

_CLUSTERS, _MEMBERS = 12, 7


def dedup_page(store: Store, asked: Asked) -> Page:
    """All that is to be seen of a dedup, finished or not."""
    record = DedupRecord.from_json(store.get(layout.DEDUP))
    finished = all(store.size(key) is not None for key in (layout.CLUSTERS, layout.KEEP))
    clusters = read_parquet(store, layout.CLUSTERS) if finished else None
    told = _told(clusters) if clusters is not None else {}
    rows = record.spec.source.rows
    sections = []
    if clusters is not None and clusters.num_rows:
        with Side(record.spec.source.location, asked) as side:
            sections = [_sizes(clusters), _sheet(clusters, side, asked.seed)]
    sections.append(_provenance(record, store))
    kept = int(told.get("kept", 0))
    outcome = (
        f"Finished: {rows - kept:,} of {counted(rows, 'row')} are copies of others; {kept:,} stay."
        if finished
        else "Not finished: the command that began it goes on with it."
    )
    tiles = [("Rows", f"{rows:,}", record.spec.source.modality)]
    if finished:
        tiles += [
            ("Rows that stay", f"{kept:,}", share(kept, rows)),
            ("Clusters", f"{int(told.get('clusters', 0)):,}", "of two rows and more"),
            ("Exact copies", f"{rows - int(told.get('distinct', rows)):,}", "the same vector, bit for bit"),
        ]
    tiles.append(("Threshold", f"{record.spec.threshold:g}", "cosine"))
    return Page(
        title=record.id,
        kind="dedup",
        outcome=outcome,
        state="good" if finished else "open",
        tiles=tiles,
        sections=sections,
        maps={},
        made_from=redact(store.url),
    )


def _told(clusters: pa.Table) -> dict[str, Any]:  # Any: an id and numbers
    told: dict[str, Any] = parsed_json((clusters.schema.metadata or {}).get(FOOTER_KEY, b"{}"))
    return told


def _sizes(clusters: pa.Table) -> Section:
    counts = np.bincount(np.asarray(clusters["cluster"]))
    edges = [2, 3, 4, 5, 10, 30, 100, 1000, 10**12]
    told = []
    for low, high in pairwise(edges):
        found = int(((counts >= low) & (counts < high)).sum())
        name = f"{low:,} rows" if high - low == 1 else f"{low:,} to {high - 1:,} rows"
        name = name if high < edges[-1] else f"{low:,} rows or more"
        told += [Bar(name=name, values=(found,), told=f"{found:,}")] if found else []
    scores = np.asarray(clusters.filter(pc.invert(clusters["is_kept"]))["score"], np.float64)
    charts = [figure("Clusters by size", bars(("clusters",), told))]
    if len(scores):
        steps = [float(x) for x in np.linspace(min(float(scores.min()), 0.999), 1.0, 41)]
        shares, _ = np.histogram(scores, bins=np.asarray(steps))
        curve = Curve(name="copies", values=[float(n) for n in shares], colour=0)
        label = f"Cosines of copies to the row that stays: the median is {float(np.median(scores)):.3f}"
        note = "Of each row that goes, to the one that stays for it."
        charts.append(
            figure("How near copies are", histogram(steps, [curve], label=label, axis="cosine", filled=True), note=note)
        )
    return Section(name="sizes", title="Clusters", body=tag("div", charts, class_="grid2"))


def _sheet(clusters: pa.Table, side: Side, seed: int) -> Section:
    """The largest clusters, then some drawn at random: what lies near the threshold is seen among these."""
    cluster = np.asarray(clusters["cluster"])
    counts = np.bincount(cluster)
    largest = np.argsort(-counts, kind="stable")[: _CLUSTERS // 2]
    others = np.setdiff1d(np.arange(len(counts)), largest)
    drawn = np.random.default_rng(seed).permutation(others)[: _CLUSTERS - len(largest)]
    groups = []
    for number in [*largest, *np.sort(drawn)]:
        rows = clusters.take(pa.array(np.flatnonzero(cluster == number)[:_MEMBERS])).to_pylist()
        groups.append((int(counts[number]), rows))
    found = side.rows({row["id"] for _, rows in groups for row in rows})
    lines = [_line(count, rows, found, side) for count, rows in groups]
    words = (
        "The largest clusters, then some drawn at random. The first row of each stays; the others: their cosine to it."
    )
    return Section(
        name="sheet", title="What was found", body=joined(paragraphs(words), tag("ul", lines, class_="sheet"))
    )


def _line(count: int, rows: list[dict[str, Any]], found: dict[str, ManifestRow], side: Side) -> Html:
    cards = []
    for row in rows:
        known = found.get(row["id"])
        note = "stays" if row["is_kept"] else f"{row['score']:.3f}"
        cards.append((is_text(known), side.cards.of(known, row["id"], note=note)))
    kept, *others = cards
    head = tag("p", f"{counted(count, 'row')}" + (f", {len(rows)} of them here" if count > len(rows) else ""))
    asked = tag("div", kept[1], class_="asked wide" if kept[0] else "asked")
    items = [tag("li", card, class_="wide" if wide else None) for wide, card in others]
    return tag("li", head, tag("div", asked, tag("ul", items, class_="cards"), class_="beside"), class_="line-of")


def _provenance(record: DedupRecord, store: Store) -> Section:
    source = record.spec.source
    kept_by = (
        f"{record.spec.keep_by}, {'least' if record.spec.keep_least else 'greatest'} first"
        if record.spec.keep_by
        else "the first row"
    )
    rows = [
        ("dedup", record.id),
        ("made", record.created_at),
        ("rows", f"{redact(source.location)} ({counted(source.rows, 'row')} of {source.dim} dimensions)"),
        ("model", redact(source.model)),
        ("space", source.space),
        ("files, sha256", source.digest),
        ("of a cluster stays", kept_by),
        ("written by", ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))),
        ("output", redact(store.url)),
    ]
    proof = tag("p", "Every bit can be proved: ", tag("code", command("verify", store.url)))
    return Section(name="provenance", title="Provenance", body=joined(facts_table(rows), proof))
