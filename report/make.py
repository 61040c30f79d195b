"""Making a report: of whatever lies in a store."""

from report.asked import Asked
from report.dedup_page import dedup_page
from report.job_page import job_page
from report.join_page import join_page
from report.page import Page, rendered
from report.rerank_page import rerank_page
from schemas.errors import Refused
from schemas.model_cards import Kind
from schemas.redaction import redact
from storage import layout
from storage.jobs import find_job
from storage.store import Store


def make_report(store: Store, asked: Asked | None = None) -> bytes:
    """The report of the job, join or dedup in `store`, as one HTML file; raises Refused where there is none."""
    return rendered(_page(store, asked or Asked()))


def _page(store: Store, asked: Asked) -> Page:
    job = find_job(store)
    if job is not None:
        return job_page(job, asked) if job.record.spec.kind is Kind.EMBED else rerank_page(job, asked)
    if store.size(layout.JOIN) is not None:
        return join_page(store, asked)
    if store.size(layout.DEDUP) is not None:
        return dedup_page(store, asked)
    raise Refused(f"{redact(store.url)} holds no job, join or dedup; give the folder that --out named")
