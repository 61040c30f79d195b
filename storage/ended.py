"""Ended: whether all that a folder is to hold is there; an answer from a part of it would be a wrong one."""

from schemas.errors import Refused
from schemas.redaction import redact
from storage import layout
from storage.jobs import find_job
from storage.store import Store


def require_ended(store: Store) -> None:
    """Raise Refused where a join or a job lies whose files are not all there yet."""
    if store.size(layout.JOIN) is not None and store.size(layout.manifest_key(0)) is None:
        raise Refused(f"{redact(store.url)}: the join is not finished; the command that began it goes on with it")
    job = find_job(store)
    if job is not None and not all(job.is_finished(plan) for plan in job.rounds()):
        raise Refused(f"{redact(store.url)}: job {job.id} is not finished; the command that began it goes on with it")
