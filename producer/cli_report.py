"""`embedmill report`: what people look at, made of any job, join or dedup, finished or not."""

from typing import Annotated

import typer


def report(
    out: Annotated[
        str,
        typer.Argument(metavar="DIR", help="The folder or URL of a job, a rerank, a join or a dedup, finished or not."),
    ],
    file: Annotated[
        str,
        typer.Option("--out", "-o", help="Write it to this file instead of report.html in DIR.", show_default=False),
    ] = "",
    content: Annotated[
        bool,
        typer.Option(
            "--content/--no-content", help="Show texts, locations and pictures of rows; without them ids alone."
        ),
    ] = True,
    colour: Annotated[
        str, typer.Option("--colour", help="The kept column that colours the map.", show_default=False)
    ] = "",
    umap: Annotated[
        bool, typer.Option("--umap/--no-umap", help="A second map by UMAP, where umap-learn is installed.")
    ] = True,
    web: Annotated[
        bool, typer.Option("--web", help="Fetch media of https:// again for their pictures; files are read anyway.")
    ] = False,
    root: Annotated[
        list[str] | None,
        typer.Option(
            "--root", help="Read media below this folder or prefix alone. Repeatable; default: as the job does."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
) -> None:
    """Write report.html: one file that loads nothing, for a browser, a phone or a printer.

    \b
    embedmill report vectors
    embedmill report vectors --out /tmp/vectors.html --no-content

    Rows by outcome, where the time went, failures, truncation, how alike the vectors are, a map, neighbours, near
    copies and outliers; of pairs their scores and some of them side by side. Of very many rows a sample is looked at,
    and the page says so. Pictures are drawn within the job's own limits; for a job of people whom you do not trust say
    with --root where media may be read. Changes nothing else.
    """
    import json

    from report.asked import Asked
    from report.make import make_report
    from schemas.redaction import redact
    from schemas.visible import visible
    from storage import layout
    from storage.store import canonical_location, open_store

    store = open_store(canonical_location(out))
    page = make_report(store, Asked(content=content, colour=colour, umap=umap, web=web, roots=tuple(root or ())))
    if file:
        _write(file, page)
    else:
        store.replace(layout.REPORT, page)
    place = file or f"{redact(store.url)}/{layout.REPORT}"
    print(json.dumps({"report": place, "bytes": len(page)}) if as_json else visible(place))


def _write(file: str, page: bytes) -> None:
    from pathlib import Path

    from schemas.errors import Refused

    try:
        Path(file).write_bytes(page)
    except OSError as err:
        raise Refused(f"--out {file} cannot be written: {err.strerror}") from err
