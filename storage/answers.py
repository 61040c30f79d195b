"""Answers: the folders of joins and dedups, told apart from those of jobs; and whether what lies there has ended."""

from schemas.errors import Refused, SpecMismatch
from schemas.redaction import redact
from storage import layout
from storage.jobs import find_job
from storage.store import Store


def answer_in(store: Store) -> str:
    """`join` or `dedup`, whichever lies there; "" where neither does."""
    records = (record for record in (layout.JOIN, layout.DEDUP) if store.size(record) is not None)
    return next(records, "").removesuffix(".json")


def require_no_answer(store: Store) -> None:
    """Raise SpecMismatch where a join or a dedup lies: its files would be taken for the job's."""
    kind = answer_in(store)
    if kind:
        raise SpecMismatch(f"{redact(store.url)} holds a {kind}; give the job a folder of its own with --out")


def require_ended(store: Store) -> None:
    """Raise Refused where a join or a job lies whose files are not all there yet: of a part the answer is another."""
    if answer_in(store) == "join" and store.size(layout.manifest_key(0)) is None:
        raise Refused(f"{redact(store.url)}: the join is not finished; the command that began it goes on with it")
    job = find_job(store)
    if job is not None and not job.has_ended():
        raise Refused(f"{redact(store.url)}: job {job.id} is not finished; the command that began it goes on with it")
