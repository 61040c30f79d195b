"""The page of a job that makes vectors."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from report.asked import Asked
from report.cards import Cards
from report.charts import Bar, Curve, bars, figure, legend, lines, scrolled, table
from report.html import Html, command, joined, snippet, tag
from report.job_facts import Cut, JobFacts
from report.page import Page, Section, paragraphs
from report.pictures import Pictures
from report.provenance import provenance
from report.row_book import RowBook
from report.timeline import Timeline, timeline_of
from report.vectors_part import vector_sections
from report.words import lasting, moment, number, share, size
from schemas.counted import counted
from schemas.failures import RETRYABLE
from schemas.redaction import redact
from schemas.rows import ManifestRow
from storage.jobs import Job

#: Failures of a code that are shown.
_SAMPLES = 8


def job_page(job: Job, asked: Asked) -> Page:
    """All that is to be seen of a job, finished or not."""
    facts, book = JobFacts(job), RowBook(job)
    maps: dict[str, object] = {}
    with Pictures.asked(job.record.spec, asked) as pictures:
        cards = Cards(pictures if asked.content else None)
        sections = [rows_section(facts, "vector"), *time_sections(facts), *failures_section(facts, cards, book)]
        sections += [*truncation_section(facts), *vector_sections(facts, cards, book, asked, maps)]
    sections.append(provenance(facts))
    return page_of(facts, sections, maps, "vector")


def page_of(facts: JobFacts, sections: list[Section], maps: dict[str, object], noun: str) -> Page:
    """The page of a job whose rows become vectors, or scores."""
    status = facts.status
    return Page(
        title=status.job,
        kind="job" if noun == "vector" else "rerank job",
        outcome=outcome_of(facts, noun),
        state="open" if status.left else "warn" if status.failed or status.rejects else "good",
        tiles=_tiles(facts, noun),
        sections=sections,
        maps=maps,
        made_from=redact(status.location),
    )


def outcome_of(facts: JobFacts, noun: str) -> str:
    """One sentence: what became of the rows."""
    status = facts.status
    row = "row" if noun == "vector" else "pair"
    done = f"{status.rows_ok:,} of {counted(status.rows, row)}"
    codes = ", ".join(f"{code} {count:,}" for code, count in Counter(status.failures).most_common(3))
    failed = f"; {status.failed:,} failed ({codes}{', …' if len(status.failures) > 3 else ''})" if status.failed else ""
    verb = f"is no {row}" if status.rejects == 1 else f"are no {row}s"
    rejects = f"; {counted(status.rejects, 'line')} of the manifest {verb}" if status.rejects else ""
    if status.left:
        state = {"cancelled": "was cancelled", "stopped": "stopped"}.get(str(status.state), "is not finished")
        note = f": {status.notes[0]}" if status.notes else ""
        left = f"{counted(status.left, row)} {'has' if status.left == 1 else 'have'} no outcome yet"
        return f"The job {state}: {done} {_have(status.rows_ok, noun)}{failed}, and {left}{rejects}{note}."
    if not failed and not rejects:
        return f"Finished: every one of {counted(status.rows, row)} has a {noun}."
    return f"Finished: {done} {_have(status.rows_ok, noun)}{failed}{rejects}."


def _have(count: int, noun: str) -> str:
    return f"has a {noun}" if count == 1 else f"have a {noun}"


def _tiles(facts: JobFacts, noun: str) -> list[tuple[str, str, str]]:
    status = facts.status
    of = f"of {status.dim} dimensions" if noun == "vector" else ""
    tiles = [
        (
            "Pairs" if noun == "score" else "Rows",
            f"{status.rows:,}",
            f"{counted(status.rejects, 'line')} rejected" if status.rejects else "",
        ),
        (f"{noun.capitalize()}s", f"{status.vectors:,}", of),
        ("Failures", f"{status.failed:,}", share(status.failed, status.rows) if status.failed else ""),
    ]
    receipt = status.receipt
    if receipt:
        active = receipt["total"]["active_s"]
        tiles.append(("Time at work", lasting(active), counted(len(receipt["workers"]), "worker")))
        done = receipt["total"]["rows"]
        tiles.append(
            (
                "Speed",
                f"{number(round(done / max(active, 1e-3), 1))}/s",
                "rows, all workers" if noun == "vector" else "pairs",
            )
        )
    tiles.append(("Output", size(status.file_bytes), counted(status.published, "file")))
    return tiles


def rows_section(facts: JobFacts, noun: str) -> Section:
    """Rows by modality and outcome."""
    rows, status = facts.rows, facts.status
    told = [
        Bar(name=str(modality), values=(n.ok, n.failed, n.left), told=_told(n.ok, n.failed, n.left, noun))
        for modality, n in rows.items()
    ]
    if len(rows) > 1:
        told.append(
            Bar(
                name="all",
                values=(status.rows_ok, status.failed, status.left),
                told=_told(status.rows_ok, status.failed, status.left, noun),
            )
        )
    chart = bars((f"{noun}s", "failures", "no outcome yet"), told, colours=(0, 4, 7))
    more = [
        f"{counted(status.equal, 'row')} took the {noun} of another row of the same content." if status.equal else None,
        f"{counted(status.reused, 'row')} took the vectors of earlier jobs." if status.reused else None,
        f"{counted(status.retries, 'retry', 'retries')} of failed rows." if status.retries else None,
        f"{status.vectors:,} vectors: rows are cut into segments." if status.vectors > status.rows_ok else None,
        f"{counted(status.skipped, 'row')} of other modalities {'was' if status.skipped == 1 else 'were'} skipped."
        if status.skipped
        else None,
        _left_out(status.left_out),
    ]
    return Section(name="rows", title="Rows", body=joined(chart, paragraphs(*more)))


def _left_out(files: int) -> str | None:
    if not files:
        return None
    ending = "file was left out: its ending is" if files == 1 else "files were left out: their endings are"
    return f"{files:,} {ending} of no medium."


def _told(ok: int, failed: int, left: int, noun: str) -> str:
    parts = [f"{ok:,}", f"{failed:,} failed" if failed else "", f"{left:,} left" if left else ""]
    return ", ".join(filter(None, parts))


# --- where the time went

_STEPS = {
    "device": "the model's forward pass",
    "input_wait": "waiting for input",
    "queue_wait": "waiting for shards",
    "load_model": "loading the model",
    "copy": "copying to and from the device",
    "write": "writing",
    "check": "checking the model on known items",
    "read": "reading the plan",
}
_BESIDE = {"fetch": "fetching media", "decode": "decoding media", "preprocess": "preprocessing"}


def time_sections(facts: JobFacts) -> list[Section]:
    """Throughput over time and the receipt; nothing where nothing was measured."""
    receipt = facts.status.receipt
    parts = [_throughput(line, facts) for line in [timeline_of(facts.footers, scale=facts.footers_scale)] if line]
    if receipt:
        parts.append(_receipt(receipt))
    if not parts:
        return []
    limit = receipt["bottleneck"]["words"] if receipt else ""
    advice = tag("p", tag("strong", "What was the limit: "), f"{limit}.", class_="advice prose") if limit else None
    return [Section(name="time", title="Time", body=joined(advice, tag("div", parts, class_="grid2")))]


def _throughput(timeline: Timeline, facts: JobFacts) -> Html:
    shown = [Curve(name=name, values=list(rates), colour=n) for n, (name, rates) in enumerate(timeline.rates.items())]
    total = np.sum(list(timeline.rates.values()), axis=0)
    label = (
        f"Rows a second over {lasting(timeline.seconds)}; at most {number(round(float(total.max()), 1))} a second, "
        f"with {number(round(float(timeline.workers.max()), 1))} workers at work at most"
    )
    chart = lines(timeline.middles, shown, label=label, axis="time since the first shard began", ticks=timeline.ticks())
    if len(shown) > 1:
        chart = joined(legend([curve.name for curve in shown]), chart)
    some = (
        ""
        if len(facts.footers) == len(facts.shards)
        else f" Drawn from {len(facts.footers):,} of {len(facts.shards):,} shards."
    )
    every = max(1, len(timeline.middles) // 12)
    numbers = table(
        ["after", *timeline.rates, "workers"],
        [
            [
                lasting(at),
                *(number(round(float(r[n]), 1)) for r in timeline.rates.values()),
                number(round(float(timeline.workers[n]), 1)),
            ]
            for n, at in list(enumerate(timeline.middles))[::every]
        ],
    )
    note = f"Rows a second, from {moment(timeline.began_at)} on; the rows of a shard are spread over its time.{some}"
    return figure("Throughput over time", chart, note=note, table=numbers)


def _receipt(receipt: Mapping[str, Any]) -> Html:  # Any: JSON, as JobReceipt.to_dict has it
    seconds = receipt["total"]["seconds"]
    wall = max(seconds["wall"], 1e-9)
    own = [(words, seconds[step]) for step, words in _STEPS.items() if seconds[step] > 0.001 * wall]
    other = wall - sum(value for _, value in own)
    own += [("all else", other)] if other > 0.005 * wall else []
    told = [
        Bar(name=words, values=(value,), told=f"{lasting(value)} · {share(value, wall)}")
        for words, value in sorted(own, key=lambda item: -item[1])
    ]
    beside = [(words, seconds[step]) for step, words in _BESIDE.items() if seconds[step] > 0]
    chart = bars(("seconds",), told)
    more = ", ".join(f"{words} {lasting(value)}" for words, value in beside)
    note = f"Of {lasting(wall)} of {counted(len(receipt['workers']), 'worker')}, added up."
    note += f" Beside that, in threads: {more}." if more else ""
    return figure("Where the workers' time went", chart, note=note)


# --- what failed


def failures_section(facts: JobFacts, cards: Cards, book: RowBook) -> list[Section]:
    """Failures by code with samples, and lines that are no rows."""
    status = facts.status
    if not status.failed and not status.rejects:
        return []
    parts: list[Html | None] = []
    if status.failed:
        by_code = Counter(status.failures).most_common()
        told = [Bar(name=code, values=(count,), told=f"{count:,}") for code, count in by_code]
        parts += [figure("Failures by code", bars(("rows",), told, colours=(4,))), _again(facts)]
        parts += [_samples(facts, code, cards, book) for code, _ in by_code[:8]]
    parts.append(_rejects(facts))
    return [Section(name="failures", title="Failures", body=joined(parts))]


def _again(facts: JobFacts) -> Html | None:
    if not set(facts.status.failures) & {str(code) for code in RETRYABLE}:
        return None
    return tag("p", "Some may pass when they are tried again: ", tag("code", command("retry", facts.status.location)))


def _samples(facts: JobFacts, code: str, cards: Cards, book: RowBook) -> Html | None:
    found = facts.failures.filter(pc.equal(facts.failures["code"], code)).slice(0, _SAMPLES).to_pylist()
    if not found:
        return None
    places = [(failure["shard"], failure["id"]) for failure in found]
    rows = book.rows(places) if facts.status.kind == "embed" else book.pairs(places)
    items = []
    for failure in found:
        note = f"line {failure['line']:,}: {snippet(redact(failure['message']), 160)}"
        row = rows.get(failure["id"])
        card = cards.of(row if isinstance(row, ManifestRow) else row.item if row else None, failure["id"], note=note)
        items.append(tag("li", card, class_="wide"))
    return joined(tag("h3", tag("code", code)), tag("ul", items, class_="cards"))


def _rejects(facts: JobFacts) -> Html | None:
    rejects = facts.rejects
    if rejects is None:
        return None
    rows = [
        [f"{row['line']:,}", snippet(row["id"] or "", 60), row["code"], snippet(redact(row["message"]), 200)]
        for row in rejects.slice(0, 20).to_pylist()
    ]
    shown = table(["line", "id", "code", "why"], rows, numeric_from=9)
    of = f"The first {len(rows)} of {facts.status.rejects:,}." if len(rows) < facts.status.rejects else None
    return joined(
        tag("h3", "Lines of the manifest that are no rows"), paragraphs(of), scrolled(shown, "Lines that are no rows")
    )


# --- what was cut off


def truncation_section(facts: JobFacts) -> list[Section]:
    """How much of the rows the model did not see."""
    cuts = facts.cuts
    if not cuts:
        return []
    told = [Bar(name=cut.modality, values=(cut.used, cut.given - cut.used), told=_cut_told(cut)) for cut in cuts]
    by_unit = {cut.unit for cut in cuts}
    charts = [
        figure(
            f"{unit.capitalize()} that the model saw",
            bars(
                ("seen", "cut off"),
                [bar for bar, cut in zip(told, cuts, strict=True) if cut.unit == unit],
                colours=(0, 4),
            ),
        )
        for unit in sorted(by_unit, reverse=True)
    ]
    words = None
    if not any(cut.cut for cut in cuts):
        charts = []
        words = "Nothing was cut off: the model saw every row in full."
    some = None if facts.cuts_of_all else "Counted in some of the files, spread evenly."
    hist = [_kept_figure(cut) for cut in cuts if cut.cut]
    body = joined(paragraphs(words, some), tag("div", charts, hist, class_="grid2"))
    return [Section(name="truncation", title="Truncation", body=body)]


def _cut_told(cut: Cut) -> str:
    lost = cut.given - cut.used
    rows = f"{cut.cut:,} of {counted(cut.rows, 'row')} cut" if cut.cut else f"{counted(cut.rows, 'row')}, none cut"
    return f"{rows}; {share(lost, cut.given)} of {number(round(cut.given))} {cut.unit} lost" if cut.cut else rows


def _kept_figure(cut: Cut) -> Html:
    told = [
        Bar(
            name=f"{10 * n}-{10 * n + 10} %", values=(cut.kept_of_cut.get(n, 0),), told=f"{cut.kept_of_cut.get(n, 0):,}"
        )
        for n in reversed(range(10))
        if cut.kept_of_cut.get(n, 0)
    ]
    return figure(f"Of each {cut.modality} that was cut: the share that was seen", bars(("rows",), told))
