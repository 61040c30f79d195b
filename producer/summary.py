"""The summary: what a finished job tells its user, on stdout."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from producer.duration import duration
from producer.estimate_words import comparison_lines, estimate_lines
from producer.finish import glob_escaped
from producer.receipt_words import receipt_lines
from producer.screen import Words
from producer.status import JobState, JobStatus
from schemas.counted import counted
from schemas.failures import RETRYABLE
from schemas.model_cards import Kind


def summary_lines(status: JobStatus, *, seconds: float | None, done_now: int, searchable: bool = False) -> list[str]:
    """The lines for people; `done_now` rows got their outcome in `seconds` of this call.

    `searchable` says that the job's model takes texts, and so that its rows can be asked for in words.
    """
    lines = [
        f"{_headline(status)}",
        f"  {Words.of(status.kind).rows:10}{status.rows:,}"
        + (f" (+ {status.skipped:,} of other modalities, skipped)" if status.skipped else ""),
        _made(status),
        *_origins(status),
        f"  failures  {status.failed:,}" + _by_code(status) + _where_failed(status),
    ]
    if status.rejects:
        lines.append(
            f"  rejects   {_no_rows(status.rejects)}; which, and why: "
            f"embedmill failures --rejects {shlex.quote(_short(status.location))}"
        )
    lines += _left_out(status)
    lines += [*receipt_lines(status.receipt), *comparison_lines(status.receipt)]
    if seconds is not None and done_now:
        rate = f"{done_now / max(seconds, 1e-9):,.1f} {Words.of(status.kind).rows}/s"
        lines.append(f"  took      {duration(seconds)}, {rate}, all included")
    lines.append(f"  output    {_short(status.location)}/data ({_size(status.file_bytes)})")
    lines += _report(status)
    if status.vectors:
        lines += ["", "Look at it:", f"  {duckdb_command(status)}"]
        if searchable:
            lines.append(f'  embedmill search {shlex.quote(_short(status.location))} "a few words"')
    if set(status.failures) & {str(code) for code in RETRYABLE}:
        lines.append(f"  embedmill retry {shlex.quote(_short(status.location))}    # tries the failed rows again")
    return lines


def duckdb_command(status: JobStatus) -> str:
    """A query to paste into a shell: for the duckdb program where there is one, else for Python's package."""
    glob = glob_escaped(_short(status.location)).replace("'", "''")
    sql = f"SELECT modality, count(*) AS {_noun(status)}s FROM '{glob}/data/**/*.parquet' GROUP BY ALL"  # noqa: S608
    if shutil.which("duckdb"):
        return f"duckdb -c {_quoted(sql)}"
    quoted = repr(sql) if "'''" in sql or "\\" in sql else f"'''{sql}'''"  # no double quotes: these are the shell's
    return f"{shlex.quote(_short(sys.executable))} -c {_quoted(f'import duckdb; print(duckdb.sql({quoted}))')}"


def _quoted(words: str) -> str:
    """`words` for a shell, in double quotes where these change nothing."""
    return shlex.quote(words) if set(words) & set('"$`\\!') else f'"{words}"'


def summary_json(status: JobStatus, *, seconds: float | None, done_now: int) -> str:
    """The same for scripts, one JSON object."""
    told: dict[str, Any] = status.to_dict()
    told["seconds"] = None if seconds is None else round(seconds, 3)
    told["rows_done_now"] = done_now
    return json.dumps(told)


def status_lines(status: JobStatus) -> list[str]:
    """What `embedmill status` prints."""
    done = status.rows_ok + status.failed
    rows = Words.of(status.kind).rows
    share = f"{100 * done / status.rows:.1f} %" if status.rows else "-"
    lines = [
        f"{status.job}: {status.state}",
        f"  {rows:10}{done:,} of {status.rows:,} done ({share}), "
        f"{status.published} of {counted(status.shards, 'shard')}",
        _made(status),
        *_origins(status),
        f"  failures  {status.failed:,}{_by_code(status)}",
        f"  rejects   {status.rejects:,}",
        *_left_out(status),
        f"  model     {status.model} (space {status.space})",
        f"  output    {_short(status.location)}/data ({_size(status.file_bytes)})",
        *_report(status),
    ]
    lines += receipt_lines(status.receipt)
    lines += estimate_lines(status.estimate) if status.state is JobState.PLANNED else comparison_lines(status.receipt)
    for queue in status.queues:
        seen = (
            "" if queue.workers is None else f", {_messages(queue.waiting)} waiting, {counted(queue.workers, 'worker')}"
        )
        lines.append(f"  queue     {queue.queue}: {counted(queue.shards_left, 'shard')} left{seen}")
    return lines + [f"  note      {note}" for note in status.notes]


def _headline(status: JobStatus) -> str:
    if status.state is not JobState.FINISHED:
        return (
            f"{status.job}: {status.state}, {counted(status.left, 'pair' if _noun(status) == 'score' else 'row')} left"
        )
    if status.failed or status.rejects:
        return f"{status.job}: finished, with failures"
    return f"{status.job}: finished, every {'pair' if _noun(status) == 'score' else 'row'} has a {_noun(status)}"


def _noun(status: JobStatus) -> str:
    """What a row of the job becomes."""
    return "score" if status.kind == Kind.RERANK else "vector"


def _made(status: JobStatus) -> str:
    if _noun(status) == "score":
        return f"  scores    {status.vectors:,}{_by_modality(status)}"
    return f"  vectors   {status.vectors:,} of {status.dim} dimensions{_by_modality(status)}"


def _origins(status: JobStatus) -> list[str]:
    """Where vectors come from, and what the plan expects of earlier jobs, where it is worth a word."""
    lines = []
    if status.reusable:
        saved = duration(status.reuse_saves_s)
        known = counted(status.reusable, "text is", "texts are")
        lines.append(f"  reuse     {known} in earlier jobs, which saves about {saved} of a core")
    if status.equal or status.reused:
        taken = f"{status.equal:,} equal to others, {status.reused:,} from earlier jobs"
        lines.append(f"  computed  {counted(status.computed, 'row')}; {taken}")
    return lines


def _size(bytes_: int) -> str:
    return f"{bytes_ / 2**20:,.1f} MiB" if bytes_ >= 2**20 / 10 else f"{bytes_ / 2**10:,.1f} KiB"


def _no_rows(rejects: int) -> str:
    return counted(rejects, "line that is no row", "lines that are no rows")


def _messages(waiting: int | None) -> str:
    return "? messages" if waiting is None else counted(waiting, "message")


def _left_out(status: JobStatus) -> list[str]:
    if not status.left_out:
        return []
    return [f"  left out  {counted(status.left_out, 'file whose ending is', 'files whose endings are')} of no medium"]


def _report(status: JobStatus) -> list[str]:
    return [f"  report    {_short(status.report)}"] if status.report else []


def _by_modality(status: JobStatus) -> str:
    parts = [f"{name} {count:,}" for name, count in status.vectors_by_modality.items()]
    return f" ({', '.join(parts)})" if len(parts) > 1 else ""


def _by_code(status: JobStatus) -> str:
    parts = [f"{code} {count:,}" for code, count in status.failures.items()]
    return f" ({', '.join(parts)})" if parts else ""


def _where_failed(status: JobStatus) -> str:
    """The command that says which rows these are, and why."""
    return f"; which, and why: embedmill failures {shlex.quote(_short(status.location))}" if status.failed else ""


def _short(location: str) -> str:
    """`location` as the user would write it: relative where it lies below the current folder."""
    if "://" in location:
        return location
    relative = os.path.relpath(location)
    outside = relative.startswith("..") or relative == "." or Path.cwd() == Path("/")
    return str(Path(location).absolute()) if outside else relative
