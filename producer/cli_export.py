"""`embedmill export`: an edge that parses words and calls one function for each form that is asked for."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from storage.jobs import Job


def export(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A finished job's folder, or s3://bucket/prefix.")],
    delta: Annotated[
        bool, typer.Option("--delta", help="Register the job's files as a Delta table, where they are: no rewriting.")
    ] = False,
    iceberg: Annotated[
        bool, typer.Option("--iceberg", help="Register them as Iceberg tables, one a modality, likewise.")
    ] = False,
    compact: Annotated[
        str,
        typer.Option(
            "--compact", metavar="SIZE", help="Write files of about this size (512MB) to --out.", show_default=False
        ),
    ] = "",
    out: Annotated[
        str, typer.Option("--out", "-o", help="With --compact: a folder, or s3://bucket/prefix.", show_default=False)
    ] = "",
    faiss: Annotated[
        str, typer.Option("--faiss", metavar="FILE", help="Write an index file for FAISS.", show_default=False)
    ] = "",
    factory: Annotated[
        str, typer.Option("--factory", help="With --faiss: its kind, in FAISS's words (HNSW32, IVF1024,PQ48).")
    ] = "Flat",
    usearch: Annotated[
        str, typer.Option("--usearch", metavar="FILE", help="Write an index file for USearch.", show_default=False)
    ] = "",
    modality: Annotated[
        str, typer.Option("--modality", help="With --faiss and --usearch: rows of this one only.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
) -> None:
    """Give a finished job's vectors to other tools: as tables, in larger files, or as an index.

    \b
    embedmill export vectors --delta --iceberg
    embedmill export vectors --compact 512MB --out larger
    embedmill export vectors --faiss vectors.faiss --modality text

    Tables are registered beside the files, which stay as they are and readable as before. After a retry do it again:
    the table gets what is new. An index comes with FILE.ids.parquet: which id each of its numbers stands for.
    """
    import json

    from schemas.visible import visible_lines
    from storage.jobs import open_job
    from storage.store import canonical_location, open_store

    if bool(compact) != bool(out):
        raise typer.BadParameter("--compact SIZE and --out go together")
    if not (delta or iceberg or compact or faiss or usearch):
        raise typer.BadParameter(
            "say what to make: --delta, --iceberg, --compact SIZE --out DIR, --faiss or --usearch FILE"
        )
    opened = open_job(open_store(canonical_location(job)))
    told = _tables(opened, delta=delta, iceberg=iceberg)
    if compact:
        told["compact"] = _compacted(opened, out, compact)
    if faiss or usearch:
        told |= _indexes(opened, faiss=faiss, factory=factory, usearch=usearch, modality=modality)
    print(json.dumps(told) if as_json else visible_lines("\n".join(_lines(told))))


def _tables(job: "Job", *, delta: bool, iceberg: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from storage.delta_table import register_delta
    from storage.iceberg_table import register_iceberg

    told: dict[str, Any] = {}
    if delta:
        told["delta"] = asdict(register_delta(job))
    if iceberg:
        told["iceberg"] = [asdict(table) for table in register_iceberg(job)]
    return told


def _compacted(job: "Job", out: str, size: str) -> dict[str, Any]:
    from dataclasses import asdict

    from similarity.join_request import bytes_of
    from storage.compacted import compact
    from storage.store import canonical_location, open_store

    store = open_store(canonical_location(out))
    return {"location": store.url, **asdict(compact(job, store, bytes_of(size)))}


def _indexes(job: "Job", *, faiss: str, factory: str, usearch: str, modality: str) -> dict[str, Any]:
    from pathlib import Path

    from similarity.index_file import faiss_index, usearch_index
    from similarity.vectors import open_vectors
    from storage.reader import JobReader

    there = [modality] if modality else JobReader(job).modalities
    sources = [open_vectors(job.store.url, modality=name) for name in there or ["text"]]
    made = {}
    if faiss:
        made["faiss"] = faiss_index(sources, Path(faiss), factory)
    if usearch:
        made["usearch"] = usearch_index(sources, Path(usearch))
    return {
        name: {"location": str(index.path), "ids": str(index.ids), "vectors": index.vectors, "kind": index.kind}
        for name, index in made.items()
    }


def _lines(told: dict[str, Any]) -> list[str]:
    from schemas.counted import counted

    tables = [*([told["delta"]] if "delta" in told else []), *told.get("iceberg", [])]
    lines = [f"{t['location']}: {counted(t['files'], 'file')}, {t['added']} of them new to the table" for t in tables]
    if "compact" in told:
        made = told["compact"]
        size = f"{made['size'] / 2**20:,.2f} MiB"
        lines.append(f"{made['location']}: {counted(made['rows'], 'row')} in {counted(made['files'], 'file')}, {size}")
    indexes = [told[name] for name in ("faiss", "usearch") if name in told]
    return lines + [
        f"{i['location']}: {counted(i['vectors'], 'vector')}, {i['kind']}; ids in {i['ids']}" for i in indexes
    ]
