"""The pair planner: cuts pairs into shards of about equal cost, a query's items together, and writes the plan."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from producer.contents import Refusal
from producer.costs import row_cost, row_size
from producer.manifest import Manifest
from producer.pair_index import NamedPair, PairIndex
from producer.pair_sides import Side
from producer.parsing import kept_values, parsed_id
from producer.planner import MAX_SHARD_BYTES, MAX_SHARD_ROWS, PROGRESS_ROWS, RAMP
from producer.records import Record
from schemas.counted import counted
from schemas.errors import ManifestError, Refused
from schemas.failures import FailureCode, Reject, RejectCode
from schemas.job import JobSpec, PlanRecord
from schemas.model_cards import ModelCard
from schemas.recipe import Recipe
from schemas.rerank import JOIN_RANK, JOIN_SCORE, RerankSpec
from schemas.rows import Modality, PairRow, modality_of_pairs
from storage.planned_pairs import pairs_schema, pairs_table
from storage.plans import PlanWriter
from storage.scores import RANK, SCORE
from storage.store import Store

#: A query with more items is refused: they are one shard, which one worker holds in memory, for their ranks' sake.
MAX_ITEMS = 100_000

#: The columns of a join that are kept under other names, for the output has its own of theirs.
_OF_A_JOIN = {JOIN_SCORE: SCORE, JOIN_RANK: RANK}


def make_pair_plan(
    store: Store,
    pairs: Manifest,
    sides: tuple[Side, Side],
    spec: JobSpec,
    card: ModelCard,
    recipe: Recipe,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[PlanRecord, str]:
    """Cut the pairs into shards and upload the plan; returns it and the sha256 of the pairs.

    An id that its side does not have makes its pair a failure, a pair that comes again a reject.
    Raises ManifestError for pairs that cannot be read or are none, and, if strict, for a line that is no pair.
    """
    assert spec.rerank is not None
    with PlanWriter(spec.keep, schema=pairs_schema(spec.keep)) as writer, PairIndex() as index:
        reader = _Reader(pairs, spec, spec.rerank, writer, progress)
        index.add_pairs(reader.pairs())
        index.add_queries(sides[0].rows())
        index.add_items(sides[1].rows())
        cutter = _QueryCutter(writer, spec, card, recipe)
        for query in index.by_query(MAX_ITEMS):
            cutter.add(index.resolved(list(_once(query, reader.reject))))
        cutter.close()
        _require_rows(pairs, writer, cutter, card, reader.first_reject)
        assert pairs.sha256 is not None  # they were read to their end
        return dataclasses.replace(writer.publish(store), left_out=0), pairs.sha256


class _Reader:
    """Reads the pairs, and tells the plan of what is none."""

    def __init__(
        self,
        manifest: Manifest,
        spec: JobSpec,
        columns: RerankSpec,
        writer: PlanWriter,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._manifest, self._spec, self._columns = manifest, spec, columns
        self._writer, self._progress = writer, progress
        self.first_reject: Reject | None = None

    def pairs(self) -> Iterator[NamedPair]:
        kept = (_OF_A_JOIN.get(column.name, column.name) for column in self._spec.keep)
        names = {*self._names, *kept}
        for count, (line, record) in enumerate(self._manifest.records(names), start=1):
            if self._progress is not None and count % PROGRESS_ROWS == 0:
                self._progress(count)
            pair = record if isinstance(record, Reject) else self._parsed(line, record)
            if isinstance(pair, Reject):
                self.reject(pair)
            else:
                yield pair

    def reject(self, reject: Reject) -> None:
        """Record a line that is no pair; raises ManifestError where none may be."""
        if self._spec.strict:
            said = f"{self._manifest.name} line {reject.line}: {reject.code}: {reject.message}"
            raise ManifestError(f"{said}; correct it, or leave --strict away")
        self.first_reject = self.first_reject or reject
        self._writer.add_reject(reject)

    def _parsed(self, line: int, record: Record) -> NamedPair | Reject:
        try:
            query, item = (parsed_id(record.get(name), name) for name in self._names)
            kept = kept_values(_with_join_names(record), self._spec.keep)
            if self._columns.band is not None:
                _require_score(join_score(kept, self._spec))
            return NamedPair(query=query, item=item, line=line, kept=kept)
        except Refusal as refusal:
            return refusal.reject(line, None)

    @property
    def _names(self) -> tuple[str, str]:
        return self._columns.query_column, self._columns.item_column


def join_score(kept: tuple[object, ...], spec: JobSpec) -> object:
    """What was kept of a pair's score in the join."""
    return kept[[column.name for column in spec.keep].index(JOIN_SCORE)]


def _require_score(score: object) -> None:
    if not isinstance(score, float) or math.isnan(score):
        raise Refusal(RejectCode.BAD_VALUE, "the join score is missing, and --selective goes by it")


def _with_join_names(record: Record) -> Record:
    return {**{name: record[source] for name, source in _OF_A_JOIN.items() if source in record}, **record}


def _once(pairs: list[NamedPair], reject: Callable[[Reject], None]) -> Iterator[NamedPair]:
    """The pairs of a query, each item once: of several the one on the earliest line."""
    if len(pairs) > MAX_ITEMS:
        raise Refused(
            f"query {pairs[0].query} has more than {MAX_ITEMS:,} items, and ranks are among all of them: "
            "take the best of a join with --top-k"
        )
    yield pairs[0]
    first = pairs[0]
    for before, pair in pairwise(pairs):
        if pair.item != before.item:
            first = pair
            yield pair
            continue
        message = f"the pair was there before, on line {first.line}"
        reject(Reject(line=pair.line, id=pair.query, code=RejectCode.DUPLICATE_PAIR, message=message))


def pair_cost(pair: PairRow, card: ModelCard, recipe: Recipe) -> float:
    """The estimated tokens of a pair; one that is known to fail costs next to nothing."""
    if pair.query.defect is not None or pair.item.defect is not None:
        return 1.0
    return row_cost(pair.query, card, recipe) + row_cost(pair.item, card, recipe)


class _QueryCutter:
    """Collects the pairs of whole queries by modality, and gives full shards to the writer."""

    def __init__(self, writer: PlanWriter, spec: JobSpec, card: ModelCard, recipe: Recipe) -> None:
        self._writer, self._spec, self._card, self._recipe = writer, spec, card, recipe
        self._full_budget = card.tokens_per_second * spec.shard_seconds
        self._shards = 0
        self._open: dict[Modality, list[PairRow]] = {modality: [] for modality in Modality}
        self._cost = dict.fromkeys(Modality, 0.0)  # estimated tokens
        self._size = dict.fromkeys(Modality, 0)  # bytes
        self.defects: dict[FailureCode, int] = {}

    def add(self, pairs: list[PairRow]) -> None:
        """Take all pairs of one query; their shard is closed where it has had enough."""
        modality = modality_of_pairs(pairs)
        size = sum(row_size(side) for pair in pairs for side in (pair.query, pair.item))
        if not self._has_room(modality, len(pairs), size):
            self._close_shard(modality)
        self._open[modality] += pairs
        self._cost[modality] += sum(self._cost_of(pair) for pair in pairs)
        self._size[modality] += size
        self._count_defects(pairs)
        if self._cost[modality] >= self._full_budget * min(1.0, (1 + self._shards) / RAMP):
            self._close_shard(modality)

    def close(self) -> None:
        """Close the shards that are not full."""
        for modality in Modality:
            self._close_shard(modality)

    def _cost_of(self, pair: PairRow) -> float:
        band = self._spec.rerank.band if self._spec.rerank else None
        if band is not None and not band[0] <= join_score(pair.kept, self._spec) <= band[1]:  # type: ignore[operator]
            return 1.0  # it keeps its place in the join
        return pair_cost(pair, self._card, self._recipe)

    def _has_room(self, modality: Modality, rows: int, size: int) -> bool:
        fits = len(self._open[modality]) + rows <= MAX_SHARD_ROWS
        return fits and self._size[modality] + size <= MAX_SHARD_BYTES

    def _close_shard(self, modality: Modality) -> None:
        pairs = self._open[modality]
        if not pairs:
            return
        self._writer.add_built(modality, pairs_table(pairs, self._spec.keep), self._cost[modality])
        self._open[modality], self._cost[modality], self._size[modality] = [], 0.0, 0
        self._shards += 1

    def _count_defects(self, pairs: list[PairRow]) -> None:
        for pair in pairs:
            defect = pair.query.defect or pair.item.defect
            if defect is not None:
                self.defects[defect] = self.defects.get(defect, 0) + 1


def _require_rows(
    pairs: Manifest, writer: PlanWriter, cutter: _QueryCutter, card: ModelCard, first: Reject | None
) -> None:
    """Raise ManifestError where nothing can come of the job: a wrong file was given, most likely."""
    if not writer.rows:
        why = "it is empty; add some"
        if first is not None:
            rejected = f"{counted(writer.rejects, 'line was', 'lines were')} rejected"
            why = f"{rejected}, the first on line {first.line}: {first.message}"
        raise ManifestError(f"{pairs.name} has no pairs: {why}")
    if writer.empty_columns and pairs.columns is None:  # a header would have told before
        names = ", ".join(sorted(name.removeprefix("keep.") for name in writer.empty_columns))
        raise ManifestError(f"{pairs.name}: no pair has a value for --keep {names}; correct the name, or leave it out")
    if cutter.defects.get(FailureCode.ID_UNKNOWN) == writer.rows:
        raise ManifestError(
            f"{pairs.name}: of no pair are both ids there; --left is what the queries' ids name, --right the items'"
        )
    if cutter.defects.get(FailureCode.MODALITY_UNSUPPORTED) == writer.rows:
        takes = ", ".join(sorted(card.modalities))
        raise ManifestError(f"{pairs.name}: model {card.name} takes {takes}, and no pair is of these; give another")
