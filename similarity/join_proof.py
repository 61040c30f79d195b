"""The proof of a join, offline: every panel there, every bit of it as it was written, every rank where it belongs."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from schemas.columns import START
from schemas.counted import counted
from schemas.errors import EmbedmillError, StoreError
from schemas.join import JoinRecord, PanelFooter
from schemas.sealed import unsealed
from schemas.shard import FOOTER_KEY
from similarity.join import pairs_sha256
from similarity.recall import Recall
from similarity.score_proof import ScoreProof
from storage import layout
from storage.parquet import parse_parquet
from storage.parquet_seal import check_seal
from storage.store import Store

_LEFT_START = f"left.{START}"
_DAMAGE = (EmbedmillError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException)


@dataclass(slots=True)
class JoinVerdict:
    """What the files of a join prove."""

    join: str
    panels: int
    published: int = 0
    pairs: int = 0
    problems: list[str] = field(default_factory=list)
    scores: str = ""  # what is known of the scores themselves

    @property
    def complete(self) -> bool:
        """Whether each panel is there and nothing is wrong."""
        return not self.problems and self.published == self.panels

    def lines(self) -> list[str]:
        """What is proved, or what is wrong."""
        told = f"{self.join}: {counted(self.pairs, 'pair')} in {self.published} of {counted(self.panels, 'panel')}"
        if self.problems:
            return [
                f"{told}: {counted(len(self.problems), 'problem')}",
                *(f"  {problem}" for problem in self.problems[:20]),
            ]
        return [f"{told}: each rank, score and byte as it was written", *([self.scores] if self.scores else [])]


def prove_join(store: Store) -> JoinVerdict:
    """Read every file of the join at `store`; raises SpecMismatch where its record is damaged."""
    record = JoinRecord.from_json(store.get(layout.JOIN))
    verdict = JoinVerdict(record.id, record.spec.panels)
    proof = ScoreProof.of(record) if record.spec.funnel else None
    if proof is not None:
        verdict.scores = (
            f"scores not proved: {proof}" if isinstance(proof, str) else "each score is that of its vectors"
        )
    footers: list[PanelFooter] = []
    digests: dict[str, str] = {}
    for item in sorted(store.walk(layout.DATA), key=lambda item: item.key):
        panel = layout.panel_of(item.key)
        if panel is None or panel >= record.spec.panels:
            verdict.problems.append(f"{item.key} is no panel of this join; remove it")
            continue
        try:
            data = store.get(item.key)
            digests[item.key] = hashlib.sha256(data).hexdigest()
            footers.append(_prove_panel(record, panel, data, item.key, proof))
            verdict.pairs += footers[-1].pairs
            verdict.published += 1
        except _DAMAGE as err:
            verdict.problems.append(f"{item.key}: {_first_line(err)}")
    for item in sorted(store.walk(layout.STAGE), key=lambda item: item.key):
        verdict.problems += _stage_problems(store, item.key)
    if store.size(layout.manifest_key(0)) is not None:
        verdict.problems += _manifest_problems(record, store, digests, footers)
    return verdict


def _prove_panel(record: JoinRecord, panel: int, data: bytes, key: str, proof: ScoreProof | str | None) -> PanelFooter:
    """What the panel says of itself; raises StoreError for what is not as it was written."""
    _, broken = check_seal(data, key)
    if broken:
        raise StoreError(broken)
    table = parse_parquet(data, key)
    footer = PanelFooter.from_json((table.schema.metadata or {})[FOOTER_KEY])
    first = panel * record.spec.panel_rows
    rows = min(record.spec.panel_rows, record.spec.left.rows - first)
    if (footer.join, footer.panel, footer.first, footer.rows) != (record.id, panel, first, rows):
        raise StoreError("it is of another join or panel")
    if footer.pairs != table.num_rows or footer.content_sha256 != pairs_sha256(table):
        raise StoreError("its pairs are not those that its footer counts")
    for problem in _order_problems(table, record, footer):
        raise StoreError(problem)
    if isinstance(proof, ScoreProof) and (problem := proof.problem(table, footer)):
        raise StoreError(problem)
    return footer


def _order_problems(table: pa.Table, record: JoinRecord, footer: PanelFooter) -> Iterator[str]:
    """What is wrong with ranks and scores: 1, 2, ... within each left id, by falling score."""
    rank, score = np.asarray(table["rank"]), np.asarray(table["score"])
    if not len(rank):
        return
    left = _codes(table["left_id"])
    if _LEFT_START in table.column_names:  # segments: several rows have one id
        begun = _codes(table[_LEFT_START])
        left = left * (begun.max() + 1) + begun
    begins = np.r_[True, left[1:] != left[:-1]]
    if len(np.unique(left)) != begins.sum() or (rank[begins] != 1).any() or (np.diff(rank)[~begins[1:]] != 1).any():
        yield "its ranks are not 1, 2, ... for each left id"
    if (np.diff(score)[~begins[1:]] > 0).any():
        yield "its scores do not fall with the rank"
    if footer.threshold is not None and (score < np.float32(footer.threshold)).any():
        yield "it has a score below the threshold"
    if record.spec.top_k is not None and rank.max() > record.spec.top_k:
        yield f"it has more than {record.spec.top_k} pairs of one left id"


def _stage_problems(store: Store, key: str) -> Iterator[str]:
    """What is wrong with an object that the panels go by."""
    try:
        data = store.get(key)
        if key.endswith(".json"):
            unsealed(data)
        elif broken := check_seal(data, key)[1]:
            raise StoreError(broken)
    except _DAMAGE as err:
        yield f"{key}: {_first_line(err)}"


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """int64 (n,): equal numbers for equal values."""
    return np.asarray(column.combine_chunks().dictionary_encode("encode").indices, np.int64)


def _manifest_problems(
    record: JoinRecord, store: Store, digests: dict[str, str], footers: list[PanelFooter]
) -> Iterator[str]:
    key = layout.manifest_key(0)
    try:
        manifest = unsealed(store.get(key))
        listed = {entry["key"]: entry["sha256"] for entry in manifest["files"]}
    except _DAMAGE as err:
        yield f"{key}: {_first_line(err)}"
        return
    if manifest["join"] != record.id:
        yield f"{key} is of another join"
    if record.spec.funnel and manifest.get("recall") != Recall.of(footers).to_dict():
        yield f"{key} tells of another recall than the panels"
    for name in sorted(listed.keys() | digests.keys()):
        if listed.get(name) != digests.get(name):
            yield f"{name}: it is not the file that {key} lists"


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
