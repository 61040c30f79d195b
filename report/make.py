"""Making a report: of whatever lies in a store."""

from report.asked import Asked
from report.job_page import job_page
from report.page import Page, rendered
from schemas.errors import Refused
from schemas.model_cards import Kind
from schemas.redaction import redact
from storage.answers import answer_in
from storage.jobs import find_job
from storage.store import Store


def make_report(store: Store, asked: Asked | None = None) -> bytes:
    """The report of the job, join or dedup in `store`, as one HTML file; raises Refused where there is none."""
    return rendered(_page(store, asked or Asked()))


def _page(store: Store, asked: Asked) -> Page:
    job = find_job(store)
    if job is not None and job.record.spec.kind is Kind.EMBED:
        return job_page(job, asked)
    raise Refused(f"{redact(store.url)} holds no job, join or dedup; give the folder that --out named")
