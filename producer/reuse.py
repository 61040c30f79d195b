"""Reuse: the earlier jobs that `--reuse` names, and what of a new job they make unnecessary."""

from collections.abc import Iterable

from producer.costs import text_cost
from schemas.contents import text_content
from schemas.errors import Refused
from schemas.model_cards import Kind, ModelCard
from schemas.rows import ManifestRow, Modality
from schemas.space import Space
from schemas.text_run import TextRun
from storage.jobs import Job, open_job
from storage.reuse import EarlierContents, contents_of, reused_column
from storage.store import open_store


def earlier_contents(places: Iterable[str], space: Space) -> EarlierContents | None:
    """What the jobs at `places` have vectors of; None where there are none.

    Raises Refused for a job whose vectors are of another space, naming the fields, or cannot be taken.
    """
    jobs = [_usable(open_job(open_store(place)), space) for place in places]
    if not jobs:
        return None
    if reused_column(space.recipe) is None:
        outputs = ", ".join(space.recipe.outputs)
        raise Refused(f"--reuse takes vectors of float32, or of float16 alone, and this job writes {outputs}")
    return contents_of(jobs)


def _usable(job: Job, space: Space) -> Job:
    record, where = job.record, f"--reuse {job.store.url}"
    if record.spec.kind is not Kind.EMBED:
        raise Refused(f"{where} holds scores of pairs, no vectors; name a job that embeds")
    differing = record.space.differences(space)
    if differing:
        mine, theirs = space.fields(), record.space.fields()
        told = "; ".join(
            f"{name}: {_short(theirs.get(name))} there, {_short(mine.get(name))} here" for name in differing
        )
        raise Refused(f"{where} holds vectors of another space ({told}); they cannot stand for this job's")
    if not record.spec.content_hashes:
        raise Refused(f"{where} was written without content hashes, by an older embedmill; leave it out")
    return job


def _short(value: object) -> str:
    shown = str(value)
    return shown if len(shown) <= 40 else f"{shown[:39]}…"


class ReusedTexts:
    """Counts the texts of a plan that earlier jobs have, and what they would cost; media are known when fetched."""

    def __init__(self, earlier: EarlierContents | None, card: ModelCard) -> None:
        self._earlier, self._card = earlier, card
        self.rows = 0
        self.cost = 0.0  # estimated tokens
        self.has_media = False

    def saved_by(self, modality: Modality, rows: Iterable[ManifestRow], runs: Iterable[TextRun]) -> float:
        """The cost of those of a shard's rows that need not be computed; equal ones count once."""
        if self._earlier is None:
            return 0.0
        if modality is not Modality.TEXT:
            self.has_media = True
            return 0.0
        texts = [row.text for row in rows if row.text is not None and row.defect is None]
        texts += [text for run in runs for text in run.texts]
        places = self._earlier.find(b"".join(map(text_content, texts)))
        found = {text for text, place in zip(texts, places.tolist(), strict=True) if place >= 0}
        self._earlier.want(places[places >= 0])
        saved = sum(text_cost(text, self._card) for text in found)
        self.rows += int((places >= 0).sum())
        self.cost += saved
        return saved
