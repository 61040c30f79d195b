"""`embedmill eval`: how well a join or a rerank finds what people judged to fit."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from similarity.quality import Estimate, Evaluation, Quality


def evaluate(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIRS",
            help="The output of `join` or `rerank`, or a Parquet, JSONL, CSV or TSV file with query_id, item_id (or "
            "left_id, right_id) and rank or score. Several are compared with the first.",
        ),
    ],
    judged: Annotated[
        str,
        typer.Option(
            "--judged",
            help="Judged pairs: query_id, item_id[, relevance], or id and relevant: [item, ...]; JSONL, CSV, Parquet.",
            envvar="EMBEDMILL_JUDGED",
        ),
    ],
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="Measure the first so many places. Repeatable; default: 1 and 10."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=100, max=100_000, help="Resampled sets of queries that intervals are taken from."
        ),
    ] = 1000,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the resampling: the same seed, the same intervals.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
) -> None:
    """Measure the output of a join or a rerank with judged pairs: recall@k, MRR, nDCG@k.

    \b
    embedmill eval joined --judged judged.jsonl
    embedmill eval joined reranked --judged judged.jsonl --k 1 --k 3 --k 10

    Places are those of the column rank, or without one by falling score; ties go by the item's id. A judged query that
    an output does not have counts 0; queries that nobody judged are passed over; items that nobody judged do not fit.
    Grades above 0 fit; a grade's gain in nDCG is 2^grade - 1, its discount log2(1 + place). Intervals hold 95 % of
    bootstrap samples of the queries; those of a difference are of the same queries in both outputs.
    """
    import json

    from schemas.visible import visible_lines
    from similarity.quality import evaluate as measure

    ks = sorted(set(k or (1, 10)))
    evaluation = measure(judged, pairs, ks=ks, samples=samples, seed=seed)
    if as_json:
        print(json.dumps(_told(evaluation, ks=ks, samples=samples, seed=seed)))
        return
    print(visible_lines("\n".join(_table(evaluation))))
    print(f"intervals: 95 % of {samples:,} bootstrap samples of the queries, seed {seed}")
    print(visible_lines("\n".join(_notes(evaluation))))


def _told(evaluation: "Evaluation", *, ks: list[int], samples: int, seed: int) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "queries": len(evaluation.judged.queries),
        "queries_without_relevant": evaluation.judged.without_relevant,
        "relevant_pairs": evaluation.judged.pairs.num_rows,
        "k": ks,
        "samples": samples,
        "seed": seed,
        "outputs": [
            {
                "pairs": output.location,
                "ordered_by": output.ranked.by,
                "pairs_read": output.ranked.pairs,
                "pairs_not_judged": output.ranked.unjudged,
                "pairs_repeated": output.ranked.repeated,
                "ties": output.ranked.ties,
                "queries_missing": _missing(output),
                "metrics": {name: asdict(value) for name, value in output.metrics.items()},
                "difference": {name: asdict(value) for name, value in output.difference.items()} or None,
            }
            for output in evaluation.outputs
        ],
    }


def _missing(output: "Quality") -> int:
    return int((~output.ranked.found).sum())


def _table(evaluation: "Evaluation") -> list[str]:
    """A line of headings, then one for each output, and one with its difference to the first."""
    names = list(evaluation.outputs[0].metrics)
    rows = [["pairs", *names]]
    for output in evaluation.outputs:
        rows.append([output.location, *map(_cell, output.metrics.values())])
        if output.difference:
            rows.append(["  minus the first", *map(_signed_cell, output.difference.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: "Estimate") -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _signed_cell(value: "Estimate") -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _notes(evaluation: "Evaluation") -> list[str]:
    """What a reader of the numbers must know: what was left out, and where ids decided."""
    judged = evaluation.judged
    count = len(judged.queries)
    notes = [f"{count:,} judged {_plural(count, 'query', 'queries')} with {judged.pairs.num_rows:,} relevant items"]
    if judged.without_relevant:
        notes.append(f"{judged.without_relevant:,} judged without any item that fits: left out")
    for output in evaluation.outputs:
        ranked, where = output.ranked, output.location
        told = {
            f"{_missing(output):,} of the judged queries are not in it: they count 0": _missing(output),
            f"{ranked.unjudged:,} of {ranked.pairs:,} pairs are of queries that nobody judged: passed over": (
                ranked.unjudged
            ),
            f"{ranked.ties:,} pairs share their {ranked.by} with the one before: ordered by the item's id": ranked.ties,
            f"{ranked.repeated:,} pairs are there again: only the best place of each counts": ranked.repeated,
        }
        notes += [f"{where}: {note}" for note, applies in told.items() if applies]
    return notes


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
