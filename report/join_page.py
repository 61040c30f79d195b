"""The page of a join."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from report.asked import Asked
from report.charts import Mark
from report.html import command, joined, tag
from report.page import Page, Section
from report.pairs_part import Found, Group, PairNames, PairSample, sample_pairs, samples_section, score_section
from report.provenance import facts_table
from report.published import spread
from report.sides import Side
from report.words import share, size
from schemas.columns import START
from schemas.counted import counted
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
JOIN_NAMES = PairNames(
    left="left_id", right="right_id", one="left row", many="left rows", score="score", start=f"left.{START}"
)


def join_page(store: Store, asked: Asked) -> Page:
    """All that is to be seen of a join, finished or not."""
    record = JoinRecord.from_json(store.get(layout.JOIN))
    files = sorted((n, i.key, i.size) for i in store.walk(layout.DATA) if (n := layout.panel_of(i.key)) is not None)
    some = [(panel, key) for panel, key, _ in spread(files)[:_FILES]]
    footers = [_footer(store, key) for _, key in some]
    names = replace(JOIN_NAMES, score=str(record.spec.score))
    sample = sample_pairs(_tables(store, some), names, len(some), seed=asked.seed)
    pairs = round(sum(f.pairs for f in footers) * len(files) / max(1, len(footers)))
    finished = store.size(layout.manifest_key(0)) is not None
    state = (
        "Finished" if finished else f"Not finished: {len(files):,} of {counted(record.spec.panels, 'panel')} are done"
    )
    of = f"{counted(record.spec.left.rows, 'left row')} and {counted(record.spec.right.rows, 'right row')}"
    with_pairs, looked = sum(map(len, sample.per_left)), sum(f.rows for f in footers[: sample.tables])
    about = "about " if len(footers) < len(files) else ""
    return Page(
        title=record.id,
        kind="join",
        outcome=f"{state}: {about}{counted(pairs, 'pair')} of {of}, by {record.spec.score}.",
        state="good" if finished else "open",
        tiles=[
            ("Pairs", f"{about}{pairs:,}", ""),
            ("Left rows", f"{record.spec.left.rows:,}", record.spec.left.modality),
            ("Right rows", f"{record.spec.right.rows:,}", record.spec.right.modality),
            ("Left rows with a pair", share(with_pairs, looked), f"of {looked:,}" if looked else ""),
            ("Output", size(sum(bytes_ for _, _, bytes_ in files)), counted(len(files), "file")),
        ],
        sections=[
            *(_pair_sections(record, footers, sample, names, pairs, asked) if files else []),
            _provenance(record, footers, store),
        ],
        maps={},
        made_from=redact(store.url),
    )


def _pair_sections(
    record: JoinRecord, footers: list[PanelFooter], sample: PairSample, names: PairNames, pairs: int, asked: Asked
) -> list[Section]:
    """The scores, and some left rows with their pairs."""
    threshold = footers[0].threshold
    marks = [] if threshold is None else [Mark(at=threshold, name=f"threshold {threshold:.3g}")]
    with Side(record.spec.left.location, asked) as left, Side(record.spec.right.location, asked) as right:
        lefts = left.rows({group.left for group in sample.groups})
        rights = right.rows({pair.right for group in sample.groups for pair in group.pairs})

        def row_of(group: Group, pair: Found | None) -> ManifestRow | None:
            return lefts.get(group.left) if pair is None else rights.get(pair.right)

        return [
            score_section(sample, names, of=pairs, marks=marks, more=_asked_for(record)),
            samples_section(sample, names, (left.cards, right.cards), row_of),
        ]


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


def _provenance(record: JoinRecord, footers: list[PanelFooter], store: Store) -> Section:
    spec = record.spec
    sampled = sum(f.sampled for f in footers)
    recall = (
        f"{sum(f.recall_sum for f in footers) / sampled:.4f} of the exact pairs, "
        f"measured on {counted(sampled, 'left row')}"
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
    proof = tag("p", "Every rank, score and byte can be proved: ", tag("code", command("verify", store.url)))
    return Section(name="provenance", title="Provenance", body=joined(facts_table(rows), proof))


def _side_rows(name: str, side: JoinSide) -> list[tuple[str, str]]:
    return [
        (f"{name}", f"{redact(side.location)} ({counted(side.rows, 'row')} of {side.dim} dimensions)"),
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
            starts = [JOIN_NAMES.start] if JOIN_NAMES.start in file.schema_arrow.names else []
            yield panel, file.read(columns=[*_COLUMNS, *starts], use_threads=False)


def _footer(store: Store, key: str) -> PanelFooter:
    with open_parquet(store, key) as file:
        return PanelFooter.from_json((file.schema_arrow.metadata or {})[FOOTER_KEY])
