"""`embedmill search`: the rows of a job nearest to a text or a file, for a look by hand."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.job_options import FirstDevice, ModalityName

if TYPE_CHECKING:
    from schemas.rows import ManifestRow
    from similarity.search import Found, Hit
    from storage.jobs import Job

#: Characters of a text, a uri or a kept column that are shown to people.
_SHOWN = 80


def search(
    out: Annotated[str, typer.Argument(metavar="JOB", help="The job's folder, or s3://bucket/prefix.")],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to look for; always a text, never a path.")
    ] = None,
    file: Annotated[
        str, typer.Option("--file", help="Look for what is like this picture, sound or film of this machine.")
    ] = "",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=10_000, help="Rows to show.")] = 10,
    modality: Annotated[ModalityName | None, typer.Option("--modality", help="Only rows of this modality.")] = None,
    device: FirstDevice = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
) -> None:
    """Show the rows of a job that are nearest to a text or a file, by cosine.

    \b
    embedmill search vectors "a cat that sleeps"
    embedmill search vectors --file cat.png --modality image --top-k 5

    The query is embedded on this machine with the job's own model, which must be here: nothing is downloaded. Where
    the model has a prompt for queries it is used. Looks at what is published so far, a piece at a time, exactly.
    """
    import json
    import os
    import sys
    from shlex import quote

    from schemas.visible import visible
    from storage.jobs import open_job
    from storage.store import canonical_location, open_store

    if (text is None) == (not file):
        raise typer.BadParameter("give a text, or --file PATH: one of the two")
    os.environ["HF_HUB_OFFLINE"] = "1"  # a model that is not here is said, not fetched
    job = open_job(open_store(canonical_location(out)))
    row, role, found = _search(job, text, file, device, top_k, modality)
    if as_json:
        print(json.dumps(_told(job, row, role, found)))
        return
    print("\n".join(_lines(found.hits)))
    print(visible(_summary(job, role, found)), file=sys.stderr)
    if text and os.path.isfile(text):  # noqa: PTH113  # a Path raises for a text that is too long to be one
        told = visible(f"embedmill search {quote(out)} --file {quote(text)}")
        print(f"these words were searched for; what is like the file of that name: {told}", file=sys.stderr)


def _search(
    job: "Job", text: str | None, file: str, device: str, top_k: int, modality: ModalityName | None
) -> "tuple[ManifestRow, str, Found]":
    """The query as a row, the role that it was embedded in, and what was found."""
    import os
    from dataclasses import replace

    from producer.query import file_row, query_recipe, text_row
    from schemas.rows import Modality
    from schemas.settings import Settings
    from similarity.search import search as nearest
    from workers.devices import find_devices
    from workers.query import embed_query, model_of

    takes = job.record.spec.takes
    row = file_row(file, takes) if text is None else text_row(text, takes)
    here = find_devices(device)[0]
    settings = replace(Settings.from_environ(os.environ), device=here.name, size=here.size)
    model = model_of(job, settings)
    recipe = query_recipe(model.card, job.record.space.recipe)
    vector = embed_query(job, model, row, recipe, settings)
    return row, str(recipe.role), nearest(job, vector, k=top_k, modality=Modality(modality) if modality else None)


def _told(job: "Job", row: "ManifestRow", role: str, found: "Found") -> dict[str, object]:
    return {
        "job": job.id,
        "model": job.record.spec.model,
        "query": {"modality": str(row.modality), "text": row.text, "file": row.uri, "role": role or None},
        "vectors": found.vectors,
        "stored": str(found.stored),
        "shards": found.shards,
        "shards_planned": found.planned,
        "hits": [_hit_told(rank, hit, job) for rank, hit in enumerate(found.hits, start=1)],
    }


def _hit_told(rank: int, hit: "Hit", job: "Job") -> dict[str, Any]:  # Any: kept columns are of any type
    row = hit.row
    return {
        "rank": rank,
        "score": round(hit.score, 6),
        "id": row.id,
        "modality": str(row.modality),
        "start_s": hit.start_s,
        "text": row.text,
        "uri": row.uri,
        "parts": [{"modality": str(p.modality), "text": p.text, "uri": p.uri} for p in row.parts] or None,
        "kept": {column.name: value for column, value in zip(job.record.spec.keep, row.kept, strict=True)},
    }


def _lines(hits: "list[Hit]") -> list[str]:
    """Rank, score, id, modality and a snippet of each, in columns."""
    rows = [
        (str(rank), f"{hit.score:.4f}", _short(hit.row.id), str(hit.row.modality), _snippet(hit))
        for rank, hit in enumerate(hits, start=1)
    ]
    rank_width, score_width, id_width, modality_width, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        f"{rank:>{rank_width}}  {score:>{score_width}}  {id_:{id_width}}  {modality:{modality_width}}  {said}".rstrip()
        for rank, score, id_, modality, said in rows
    ]


def _snippet(hit: "Hit") -> str:
    """What the row is: its text or uri, when its segment begins, its kept columns."""
    from schemas.redaction import redact

    row = hit.row
    contents = [row.text, row.uri, *(content for part in row.parts for content in (part.text, part.uri))]
    said = [_short(redact(content)) for content in contents if content]
    if hit.start_s is not None:
        said.append(f"from {hit.start_s:g} s")
    return "  ".join([*said, *(_short(str(value)) for value in row.kept if value is not None)])


def _short(text: str) -> str:
    from schemas.failures import one_line

    safe = one_line(text)
    return safe if len(safe) <= _SHOWN else safe[: _SHOWN - 1] + "…"


def _summary(job: "Job", role: str, found: "Found") -> str:
    from schemas.counted import counted

    said = f"{job.id}: cosine over {counted(found.vectors, 'vector')} of model {job.record.spec.model}"
    if role:
        said += f", asked as {role}"
    if found.stored not in ("float32", "float16"):
        said += f", stored as {found.stored}: scores are about right"
    return said + (f"; {found.shards} of {found.planned} shards are published" if found.shards < found.planned else "")
