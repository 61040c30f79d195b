"""The planner: cuts a manifest into shards of about equal cost, and writes the plan."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from producer.blocks import Block
from producer.costs import row_cost, row_size, run_costs, run_sizes
from producer.equal_contents import EqualContents, Outcome, Together, runs_parted, together
from producer.manifest import FileManifest, Manifest
from producer.parsing import RowParser, one_for_each, require_columns
from producer.records import Line
from producer.reuse import ReusedTexts
from schemas.counted import counted
from schemas.errors import ManifestError
from schemas.failures import FailureCode, Reject, RejectCode
from schemas.job import JobSpec, PlanRecord
from schemas.model_cards import ModelCard
from schemas.recipe import OutputType, Recipe
from schemas.rows import ManifestRow, Modality
from schemas.text_run import TextRun
from storage.duplicates import DuplicateFinder
from storage.plans import PlanWriter
from storage.reuse import EarlierContents
from storage.sample import RowSample
from storage.store import Store

#: A shard is closed at so many rows, or bytes of text: it is held in memory as a whole.
MAX_SHARD_ROWS = 16384
MAX_SHARD_BYTES = 32 * 2**20
#: The first shards are smaller, so that a small job is spread over workers and shows progress early.
RAMP = 8
PROGRESS_ROWS = 10_000
#: Rows of a run that are looked at together for where a shard is full.
_CUT_AT_ONCE = 2048
#: Fewer rows than so many are sooner taken one by one.
_SHORT_RUN = 24


def make_plan(
    store: Store,
    manifest: Manifest,
    spec: JobSpec,
    card: ModelCard,
    recipe: Recipe,
    *,
    progress: Callable[[int], None] | None = None,
    earlier: EarlierContents | None = None,
) -> tuple[PlanRecord, str]:
    """Cut the rows of `manifest` into shards and upload the plan; returns it and the manifest's sha256.

    Rows of equal content come into one shard. What `earlier` has is planned too, and costs nothing.
    Of `spec`: id_column, keep, modalities, strict and shard_seconds. `progress` hears the records read so far.
    Raises ManifestError for a manifest that has no rows or cannot be read; if strict, for a line that is no row.
    """
    require_columns(manifest, [spec.id_column], "--id-column")
    require_columns(manifest, [column.name for column in spec.keep], "--keep")
    parser = RowParser(id_column=spec.id_column, keep=spec.keep, modalities=spec.modalities, supported=spec.takes)
    ids, contents = DuplicateFinder(), EqualContents()
    with PlanWriter(spec.keep) as writer:
        outcomes = _with_ids_noted(_outcomes(manifest, parser, progress), ids, contents)
        if spec.strict:
            outcomes = _rows_only(outcomes, ids, manifest.name)
        read = _write(outcomes, writer, _Cutter(writer, card, recipe, spec.shard_seconds, earlier))
        duplicates = ids.duplicate_pairs()
        equal = contents.lines(writer.rows, read.cost / card.tokens_per_second)
        if not len(duplicates) and not len(equal):
            return _published(store, writer, read, manifest, card, earlier)
    with PlanWriter(spec.keep) as writer:  # only now is it known which ids, and contents, come again
        outcomes = _outcomes(manifest, parser, progress)
        if len(duplicates):
            outcomes = _without(duplicates, outcomes)
        if len(equal):
            outcomes = together(outcomes, equal)
        read = _write(outcomes, writer, _Cutter(writer, card, recipe, spec.shard_seconds, earlier))
        return _published(store, writer, read, manifest, card, earlier)


@dataclass(slots=True, kw_only=True)
class _Read:
    """What a reading of the manifest found beside rows."""

    skipped: int = 0
    first_reject: Reject | None = None
    unsupported: Counter[Modality] = field(default_factory=Counter)  # rows that the model has no input for
    sample: RowSample | None = None  # where int8 ranges are wanted
    reused: ReusedTexts
    cost: float = 0.0  # of all rows, estimated tokens


def _outcomes(manifest: Manifest, parser: RowParser, progress: Callable[[int], None] | None) -> Iterator[Outcome]:
    """What each record of the manifest is, in line order."""
    count, told = 0, PROGRESS_ROWS
    for item in _read(manifest, parser.columns):
        count += len(item) if isinstance(item, Block) else 1
        while progress is not None and told <= count:
            progress(told)
            told += PROGRESS_ROWS
        if isinstance(item, Block):
            yield from parser.parse_block(item)
        else:
            line, record = item
            yield record if isinstance(record, Reject) else parser.parse(line, record)


def _read(manifest: Manifest, columns: Collection[str]) -> Iterator[Block | Line]:
    return manifest.blocks(columns) if isinstance(manifest, FileManifest) else manifest.records(columns)


def _with_ids_noted(outcomes: Iterable[Outcome], ids: DuplicateFinder, contents: EqualContents) -> Iterator[Outcome]:
    for outcome in outcomes:
        if type(outcome) is ManifestRow:
            ids.add(outcome.id, outcome.line)
            contents.add(outcome)
        elif type(outcome) is TextRun:
            ids.add_ids(outcome.ids, outcome.lines)
            contents.add_run(outcome)
        yield outcome


def _rows_only(outcomes: Iterable[Outcome], ids: DuplicateFinder, name: str) -> Iterator[Outcome]:
    """The outcomes while none is a reject; raises ManifestError for the first line that is none, duplicates too."""
    reject = None
    for outcome in outcomes:
        if isinstance(outcome, Reject):
            reject = outcome
            break
        yield outcome
    duplicates = ids.duplicate_pairs()
    if len(duplicates):  # each of them on an earlier line than the reject
        line, first = duplicates[0].tolist()
        reject = _duplicate(line, first)
    if reject is not None:
        raise ManifestError(
            f"{name} line {reject.line}: {reject.code}: {reject.message}; correct it, or leave --strict away"
        )


def _without(duplicates: np.ndarray, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """The outcomes, with the rows on the lines of `duplicates` made rejects."""
    at, line = 0, int(duplicates[0, 0])
    for outcome in runs_parted(outcomes, duplicates[:, 0]):
        if type(outcome) is ManifestRow and outcome.line == line:
            yield _duplicate(line, int(duplicates[at, 1]), outcome.id)
            at += 1
            line = int(duplicates[at, 0]) if at < len(duplicates) else 0
        else:
            yield outcome


def _duplicate(line: int, first: int, id_: str | None = None) -> Reject:
    message = f"the id was used before, on line {first}"
    return Reject(line=line, id=id_, code=RejectCode.DUPLICATE_ID, message=message)


def _write(outcomes: Iterable[Outcome], writer: PlanWriter, cutter: "_Cutter") -> _Read:
    read = _Read(sample=cutter.sample, reused=cutter.reused)
    for outcome in outcomes:
        if type(outcome) is ManifestRow:
            cutter.add(outcome)
            if outcome.defect is FailureCode.MODALITY_UNSUPPORTED:
                read.unsupported[outcome.modality] += 1
        elif type(outcome) is TextRun:
            cutter.add_run(outcome)
        elif type(outcome) is tuple:
            cutter.add(outcome[0], outcome[1:])
        elif outcome is None:
            read.skipped += 1
        elif isinstance(outcome, Reject):
            writer.add_reject(outcome)
            read.first_reject = read.first_reject or outcome
    cutter.close()
    read.cost = cutter.cost
    return read


def _published(
    store: Store,
    writer: PlanWriter,
    read: _Read,
    manifest: Manifest,
    card: ModelCard,
    earlier: EarlierContents | None,
) -> tuple[PlanRecord, str]:
    if not writer.rows:
        raise ManifestError(f"{manifest.name} has no rows: {_why_no_rows(writer, read)}")
    if writer.empty_columns and manifest.columns is None:  # a header would have told before
        names = sorted(name.removeprefix("keep.") for name in writer.empty_columns)
        hint = next(filter(None, (one_for_each(name, "--keep") for name in names)), "correct the name, or leave it out")
        raise ManifestError(f"{manifest.name}: no row has a value for --keep {', '.join(names)}; {hint}")
    if read.unsupported.total() == writer.rows:
        raise ManifestError(
            f"{manifest.name}: model {card.name} takes {', '.join(sorted(card.modalities))}, and all {writer.rows:,} "
            f"rows are {', '.join(sorted(read.unsupported))}; give another model"
        )
    assert manifest.sha256 is not None  # it was read to its end
    plan = dataclasses.replace(writer.publish(store, skipped=read.skipped), left_out=manifest.left_out)
    if read.sample is not None:
        plan = dataclasses.replace(plan, sample=read.sample.publish(store, plan.digest))
    if earlier is not None:
        reused, wanted_only = read.reused, not read.reused.has_media
        saved_s = round(reused.cost / card.tokens_per_second, 3)
        reuse = earlier.publish(store, plan.digest, wanted_only=wanted_only)
        plan = dataclasses.replace(plan, reuse=reuse, reused=reused.rows, reuse_saves_s=saved_s)
    return plan, manifest.sha256


def _why_no_rows(writer: PlanWriter, read: _Read) -> str:
    if read.first_reject is not None:
        first = read.first_reject
        rejected = f"{counted(writer.rejects, 'line was', 'lines were')} rejected"
        return f"{rejected}, the first on line {first.line}: {first.message}"
    return f"{read.skipped:,} are of other modalities than --modality" if read.skipped else "it is empty; add some"


@dataclass(slots=True)
class _OpenShard:
    """The rows of one modality that wait for their shard to be full."""

    rows: list[ManifestRow] = field(default_factory=list)
    runs: list[TextRun] = field(default_factory=list)  # more rows
    count: int = 0  # of all of them
    cost: float = 0.0  # estimated tokens
    size: int = 0  # bytes of text, uri and kept strings


class _Cutter:
    """Collects rows by modality and gives full shards to the writer."""

    def __init__(
        self,
        writer: PlanWriter,
        card: ModelCard,
        recipe: Recipe,
        shard_seconds: float,
        earlier: EarlierContents | None,
    ) -> None:
        self._writer, self._card, self._recipe = writer, card, recipe
        self.sample = RowSample() if OutputType.INT8 in recipe.outputs else None
        self.reused = ReusedTexts(earlier, card)
        self.cost = 0.0  # of the shards that are closed, estimated tokens
        self._full_budget = card.tokens_per_second * shard_seconds
        self._shards = 0
        self._budget = self._ramped()
        self._open = {modality: _OpenShard() for modality in Modality}

    def add(self, row: ManifestRow, equal: Together = ()) -> None:
        """Take `row`, and rows of the same content, which cost nothing beside it."""
        if equal and self._is_too_much(row, equal):
            self._close_shard(row.modality)
        shard = self._open[row.modality]
        shard.rows += (row, *equal)
        shard.count += 1 + len(equal)
        shard.cost += row_cost(row, self._card, self._recipe)
        shard.size += row_size(row) + sum(map(row_size, equal))
        if self.sample is not None:
            for one in (row, *equal):
                self.sample.offer(one)
        if shard.cost >= self._budget or shard.count >= MAX_SHARD_ROWS or shard.size >= MAX_SHARD_BYTES:
            self._close_shard(row.modality)

    def add_run(self, run: TextRun) -> None:
        """Take many rows, as `add` takes each."""
        if len(run) < _SHORT_RUN:
            for row in run.rows():
                self.add(row)
            return
        if self.sample is not None:
            for row in run.rows():
                self.sample.offer(row)
        costs, sizes = run_costs(run, self._card), run_sizes(run)
        begin = 0
        while begin < len(run):
            part = slice(begin, min(begin + _CUT_AT_ONCE, len(run)))
            begin += self._take(run, part, costs[part], sizes[part])

    def _take(self, run: TextRun, part: slice, costs: np.ndarray, sizes: np.ndarray) -> int:
        """Take the rows of `part` up to the one that fills the shard; how many these are."""
        shard = self._open[Modality.TEXT]
        cost = np.cumsum(np.concatenate([[shard.cost], costs]))[1:]  # one after the other, as if they were added singly
        size = shard.size + np.cumsum(sizes)
        count = shard.count + np.arange(1, len(costs) + 1)
        full = (cost >= self._budget) | (count >= MAX_SHARD_ROWS) | (size >= MAX_SHARD_BYTES)
        last = int(full.argmax()) if full.any() else len(costs) - 1
        shard.runs.append(run[part.start : part.start + last + 1])
        shard.count, shard.cost, shard.size = int(count[last]), float(cost[last]), int(size[last])
        if full[last]:
            self._close_shard(Modality.TEXT)
        return last + 1

    def _is_too_much(self, row: ManifestRow, equal: Together) -> bool:
        """Whether these rows, which stay together, are too much for the open shard."""
        shard, size = self._open[row.modality], row_size(row) + sum(map(row_size, equal))
        full = shard.count + len(equal) >= MAX_SHARD_ROWS or shard.size + size > MAX_SHARD_BYTES
        return bool(shard.count) and full

    def close(self) -> None:
        """Close the shards that are not full, in the order of their modalities."""
        for modality, shard in self._open.items():
            if shard.count:
                self._close_shard(modality)

    def _close_shard(self, modality: Modality) -> None:
        shard = self._open[modality]
        cost = shard.cost - self.reused.saved_by(modality, shard.rows, shard.runs)
        self._writer.add_shard(modality, shard.rows, max(cost, 0.0), runs=shard.runs)
        self.cost += cost
        self._open[modality] = _OpenShard()
        self._shards += 1
        self._budget = self._ramped()

    def _ramped(self) -> float:
        return self._full_budget * min(1.0, (1 + self._shards) / RAMP)
