"""`embedmill failures`: the rows that have no vector, for people, for scripts and for spreadsheets."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.jobs import Job

_COLUMNS = ("id", "line", "modality", "code", "stage", "message", "retryable", "uri")
_REJECT_COLUMNS = ("line", "id", "code", "message")
_ID = 60


def failures(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The job's folder, or s3://bucket/prefix.")],
    code: Annotated[
        list[str] | None, typer.Option("--code", help="Only failures with this code. Repeatable; default: all.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows to show; 0: all.")] = 100,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="The lines of the manifest that are no rows, instead.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout; no cell is a formula.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row on stdout, for scripts.")] = False,
) -> None:
    """List the rows that have no vector, with why.

    \b
    embedmill failures vectors --code not_found
    embedmill failures vectors --limit 0 --csv > failures.csv
    embedmill failures vectors --rejects

    Rows that a retry has settled are not among them. Messages never hold a row's content.
    """
    import json
    import sys

    from producer.cli import job_at
    from schemas.counted import counted

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json both write to stdout; leave one away")
    job, names = job_at(out), _REJECT_COLUMNS if rejects else _COLUMNS
    found = _of_codes(_rejects(job) if rejects else _failed(job), code or []).sort_by("line")
    shown = found.slice(0, limit) if limit else found
    rows: list[dict[str, Any]] = shown.select(list(names)).to_pylist()  # Any: as Arrow gives them
    if as_json:
        for row in rows:
            print(json.dumps(row))
    elif as_csv:
        _write_csv(rows, names)
    elif rows:
        print("\n".join(_lines(rows)))
    if not as_json and not as_csv:
        of = f", the first {len(rows):,} of them here; --limit 0 shows all" if len(rows) < found.num_rows else ""
        told = counted(found.num_rows, "line is no row", "lines are no rows") if rejects else ""
        told = told or counted(found.num_rows, "row failed", "rows failed")
        none = "every line is a row" if rejects else "no row failed"
        none = f"{'no line' if rejects else 'no row'} with {', '.join(code)}" if code else none
        print(f"{told}{of}" if found.num_rows else none, file=sys.stderr)


def _failed(job: "Job") -> "pa.Table":
    from producer.outcomes import published_files
    from storage.failures import open_failures

    return open_failures(job, [file.footer for file in published_files(job)])


def _rejects(job: "Job") -> "pa.Table":
    """The lines that are no rows; an id is null where a line has none."""
    from storage.parquet import read_parquet
    from storage.plans import REJECTS_SCHEMA

    key = job.rounds()[0].rejects_file
    return REJECTS_SCHEMA.empty_table() if key is None else read_parquet(job.store, key)


def _of_codes(table: "pa.Table", codes: list[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table["code"], pa.array(codes))) if codes else table


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """Line, id, code and message in columns."""
    from schemas.redaction import redact
    from schemas.visible import visible

    ids = [visible(row["id"] or "") for row in rows]
    ids = [id_ if len(id_) <= _ID else f"{id_[: _ID - 1]}…" for id_ in ids]
    width, wide = max(map(len, ids)), max(len(row["code"]) for row in rows)
    return [
        f"line {row['line']:>6}  {id_:{width}}  {row['code']:{wide}}  {visible(redact(row['message']))}"
        for row, id_ in zip(rows, ids, strict=True)
    ]


def _write_csv(rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    import csv
    import sys

    from schemas.visible import cell

    writer = csv.writer(sys.stdout, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cell("" if row[name] is None else str(row[name])) for name in names] for row in rows)
