"""The page of a job that scores pairs."""

from collections.abc import Iterator

import pyarrow as pa

from report.asked import Asked
from report.cards import Cards
from report.charts import Mark
from report.job_facts import JobFacts
from report.job_page import failures_section, page_of, rows_section, time_sections
from report.page import Page, Section
from report.pairs_part import Found, Group, PairNames, PairSample, sample_pairs, samples_section, score_section
from report.pictures import Pictures
from report.provenance import provenance
from report.published import spread
from report.row_book import RowBook
from schemas.rows import PAIR_MARK, ManifestRow, PairRow
from storage.jobs import Job
from storage.parquet import open_parquet
from storage.scores import ITEM, QUERY, RANK, SCORE

_NAMES = PairNames(left=QUERY, right=ITEM, one="query", many="queries", score="score")
_FILES = 400


def rerank_page(job: Job, asked: Asked) -> Page:
    """All that is to be seen of a job of pairs."""
    facts, book = JobFacts(job), RowBook(job)
    with Pictures.asked(job.record.spec, asked) as pictures:
        cards = Cards(pictures if asked.content else None)
        sections = [rows_section(facts, "score"), *time_sections(facts), *failures_section(facts, cards, book)]
        if facts.shards:
            sections += _pair_sections(facts, cards, book, asked)
    sections.append(provenance(facts))
    return page_of(facts, sections, {}, "score")


def _pair_sections(facts: JobFacts, cards: Cards, book: RowBook, asked: Asked) -> list[Section]:
    some = spread(facts.shards)[:_FILES]
    sample = sample_pairs(_tables(facts, some), _NAMES, len(some), seed=asked.seed)
    rows = _pairs_of(book, sample) if asked.content else {}

    def row_of(group: Group, pair: Found | None) -> ManifestRow | None:
        found = rows.get(f"{group.left}{PAIR_MARK}{(pair or group.pairs[0]).right}")
        return None if found is None else found.query if pair is None else found.item

    rerank = facts.job.record.spec.rerank
    band = rerank.band if rerank else None
    more = f"Only pairs whose join score is within {band[0]:g} and {band[1]:g} were scored." if band else ""
    marks: list[Mark] = []
    return [
        score_section(sample, _NAMES, of=facts.status.vectors, marks=marks, more=more),
        samples_section(sample, _NAMES, (cards, cards), row_of),
    ]


def _tables(facts: JobFacts, some: list[tuple[int, str, int]]) -> Iterator[tuple[int, pa.Table]]:
    for shard, key, _ in some:
        with open_parquet(facts.job.store, key) as file:
            yield shard, file.read(columns=[QUERY, ITEM, SCORE, RANK], use_threads=False)


def _pairs_of(book: RowBook, sample: PairSample) -> dict[str, PairRow]:
    return book.pairs(
        (group.shard, f"{group.left}{PAIR_MARK}{pair.right}") for group in sample.groups for pair in group.pairs
    )
