"""The page of a join."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from report.asked import Asked
from report.charts import Mark
from report.html import joined, tag
from report.page import Page, Section
from report.pairs_part import Found, Group, PairNames, sample_pairs, samples_section, score_section
from report.provenance import facts_table
from report.published import spread
from report.sides import Side
from report.words import counted, share, size
from schemas.join import JoinRecord, JoinSide, PanelFooter
from schemas.redaction import redact
from schemas.rows import ManifestRow
from schemas.sealed import unsealed
from schemas.shard import FOOTER_KEY
from storage import layout
from storage.parquet import open_parquet
from storage.store import Store

_FILES = 400
_COLUMNS = ["left_id", "right_id", "score", "rank"]


def join_page(store: Store, asked: Asked) -> Page:
    """All that is to be seen of a join, finished or not."""
    record = JoinRecord.from_json(store.get(layout.JOIN))
    panels = sorted(
        (layout.panel_of(i.key), i.key, i.size) for i in store.walk(layout.DATA) if layout.panel_of(i.key) is not None
    )
    files = [(panel, key) for panel, key, _ in panels if panel is not None]
    footers = [_footer(store, key) for _, key in spread(files)[:_FILES]]
    names = PairNames(left="left_id", right="right_id", one="left row", many="left rows", score=str(record.spec.score))
    some = spread(files)[:_FILES]
    sample = sample_pairs(_tables(store, some), names, len(some), seed=asked.seed)
    finished = store.size(layout.manifest_key(0)) is not None
    pairs = round(sum(f.pairs for f in footers) * len(files) / max(1, len(footers)))
    with contextlib.ExitStack() as stack:
        left, right = (
            stack.enter_context(Side(side.location, asked)) for side in (record.spec.left, record.spec.right)
        )
        rows = (
            left.rows({g.left for g in sample.groups}),
            right.rows({p.right for g in sample.groups for p in g.pairs}),
        )

        def row_of(group: Group, pair: Found | None) -> ManifestRow | None:
            return rows[0].get(group.left) if pair is None else rows[1].get(pair.right)

        sections = _sections(record, footers, pairs, finished, store)
        if files:
            marks = [
                Mark(at=f.threshold, name=f"threshold {f.threshold:.3g}")
                for f in footers[:1]
                if f.threshold is not None
            ]
            sections.insert(0, score_section(sample, names, of=pairs, marks=marks, more=_asked_for(record)))
            sections.insert(1, samples_section(sample, names, (left.cards, right.cards), row_of))
    with_pairs = sum(map(len, sample.per_left))
    looked = sum(f.rows for f in footers)
    state = (
        "Finished" if finished else f"Not finished: {len(files):,} of {counted(record.spec.panels, 'panel')} are done"
    )
    of = f"{record.spec.left.rows:,} left rows and {record.spec.right.rows:,} right rows"
    return Page(
        title=record.id,
        kind="join",
        outcome=f"{state}: {counted(pairs, 'pair')} of {of}, by {record.spec.score}.",
        state="good" if finished else "open",
        tiles=[
            ("Pairs", f"{pairs:,}", ""),
            ("Left rows", f"{record.spec.left.rows:,}", record.spec.left.modality),
            ("Right rows", f"{record.spec.right.rows:,}", record.spec.right.modality),
            ("Left rows with a pair", share(with_pairs, looked), f"of {looked:,}" if looked else ""),
            ("Output", size(sum(s for _, _, s in panels)), counted(len(files), "file")),
        ],
        sections=sections,
        maps={},
        made_from=redact(store.url),
    )


def _asked_for(record: JoinRecord) -> str:
    spec = record.spec
    parts = [
        f"the {spec.top_k} best of each left row" if spec.top_k else "",
        f"scores of at least {spec.threshold:g}" if spec.threshold is not None else "",
        f"scores that at most {spec.fpr:g} of random pairs reach" if spec.fpr is not None else "",
        "pairs that are among each other's best" if spec.mutual else "",
        f"through a funnel of {', '.join(spec.funnel)}" if spec.funnel else "",
    ]
    told = "; ".join(filter(None, parts))
    return f"Asked for: {told}." if told else ""


def _sections(
    record: JoinRecord, footers: list[PanelFooter], pairs: int, finished: bool, store: Store
) -> list[Section]:
    spec = record.spec
    sampled = sum(f.sampled for f in footers)
    recall = (
        f"{sum(f.recall_sum for f in footers) / sampled:.4f} of the exact pairs, measured on {sampled:,} left rows"
        if sampled
        else ""
    )
    rows = [
        ("join", record.id),
        ("made", record.created_at),
        ("score", str(spec.score)),
        ("recall", recall),
        ("compared all the same", ", ".join(spec.forced)),
        *_side_rows("left", spec.left),
        *_side_rows("right", spec.right),
        ("threshold of --fpr", _threshold(store)),
        ("written by", ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))),
        ("output", redact(store.url)),
    ]
    proof = tag("p", "Every rank, score and byte can be proved: ", tag("code", f"embedmill verify {redact(store.url)}"))
    return [Section(name="provenance", title="Provenance", body=joined(facts_table(rows), proof))]


def _side_rows(name: str, side: JoinSide) -> list[tuple[str, str]]:
    return [
        (f"{name}", f"{redact(side.location)} ({side.rows:,} rows of {side.dim} dimensions)"),
        (f"{name}: model", redact(side.model)),
        (f"{name}: space", side.space),
        (f"{name}: files, sha256", side.digest),
    ]


def _threshold(store: Store) -> str:
    key = "stage/threshold.json"
    if store.size(key) is None:
        return ""
    try:
        told = unsealed(store.get(key))
        return f"{told['threshold']:.6g}, which {told['fpr']:g} of {told['random_pairs']:,} random pairs reach"
    except (ValueError, LookupError, TypeError):  # `verify` says so
        return ""


def _tables(store: Store, files: list[tuple[int, str]]) -> Iterator[tuple[int, pa.Table]]:
    for panel, key in files:
        with open_parquet(store, key) as file:
            yield panel, file.read(columns=_COLUMNS, use_threads=False)


def _footer(store: Store, key: str) -> PanelFooter:
    with open_parquet(store, key) as file:
        return PanelFooter.from_json((file.schema_arrow.metadata or {})[FOOTER_KEY])
