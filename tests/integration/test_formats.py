"""One manifest in every format, and its output in every reader."""

import csv
import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from producer.finish import glob_escaped
from tests.mill import embedmill, texts, write_jsonl

Row = dict[str, Any]


def as_csv(path: Path, rows: list[Row], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def manifests(folder: Path, rows: list[Row]) -> list[Path]:
    """The same rows as JSONL, gzip'd JSONL, CSV with a BOM, TSV and Parquet."""
    plain = write_jsonl(folder / "rows.jsonl", rows)
    packed = folder / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    as_csv(folder / "rows.csv", rows, ",")
    as_csv(folder / "rows.tsv", rows, "\t")
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return [plain, packed, *(folder / f"rows.{ending}" for ending in ("csv", "tsv", "parquet"))]


def published(out: Path) -> dict[str, tuple[list[float], str]]:
    table = pq.read_table(out / "data")
    values = zip(table["embedding"].to_pylist(), table["label"].to_pylist(), strict=True)
    return dict(zip(table["id"].to_pylist(), values, strict=True))


def test_every_format_gives_the_same_ids_and_vectors(tmp_path: Path) -> None:
    """With quotes, line breaks and other scripts in the texts, whatever the manifest's format."""
    rows = [*texts(60), {"id": "odd", "text": 'he said "né",\r\nthen\t沉默', "label": "l,1"}]

    found = []
    for manifest in manifests(tmp_path, rows):
        out = tmp_path / f"out-{manifest.name}"
        done = embedmill("run", manifest, "--model", "hash", "--out", out, "--keep", "label")
        assert done.returncode == 0, done.stderr
        found.append(published(out))

    assert len(found[0]) == 61
    assert all(other == found[0] for other in found)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of 500 texts in several shards, with a kept column."""
    folder = tmp_path_factory.mktemp("readers")
    manifest = write_jsonl(folder / "rows.jsonl", texts(500))
    words = (
        "run",
        manifest,
        "--model",
        "hash",
        "--out",
        folder / "o'[u]t",
        "--keep",
        "label",
        "--shard-seconds",
        "0.1",
    )
    assert embedmill(*words).returncode == 0
    return folder / "o'[u]t"


def test_duckdb_reads_it(output: Path) -> None:
    """Rows and ids are counted by glob, and views.sql makes the vectors arrays."""
    glob = glob_escaped(str(output)).replace("'", "''") + "/data/**/*.parquet"
    with duckdb.connect() as connection:
        counts = connection.execute(f"SELECT count(*), count(DISTINCT id) FROM '{glob}'").fetchall()
        connection.execute((output / "views.sql").read_text())
        near = connection.execute(
            "SELECT count(*) FROM embeddings a, embeddings b WHERE a.id = b.id "
            "AND array_cosine_similarity(a.embedding, b.embedding) > 0.9999"
        ).fetchall()

    assert counts == [(500, 500)]
    assert near == [(500,)]


def test_the_query_of_the_summary_works(output: Path) -> None:
    """What `run` prints to paste runs as it stands, quotes in the path and all."""
    manifest = output.parent / "rows.jsonl"
    words = ("run", manifest, "--model", "hash", "--out", output, "--keep", "label", "--shard-seconds", "0.1")
    printed = next(line for line in embedmill(*words).stdout.splitlines() if "SELECT modality" in line)

    done = subprocess.run(printed, shell=True, capture_output=True, text=True, check=True)

    assert "500" in done.stdout


def test_polars_pandas_and_pyarrow_read_it(output: Path) -> None:
    """Each sees 500 rows, the modality from the folder's name, and vectors of 16 floats."""
    frame = pl.scan_parquet(glob_escaped(str(output)) + "/data/**/*.parquet", hive_partitioning=True).collect()
    table = ds.dataset(output / "data", partitioning="hive").to_table()
    panda = pd.read_parquet(output / "data")

    assert (frame.height, table.num_rows, len(panda)) == (500, 500, 500)
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 16)
    assert set(table["modality"].to_pylist()) == {"text"}
    assert np.stack(list(panda["embedding"])).shape == (500, 16)


def test_files_are_laid_out_for_readers(output: Path) -> None:
    """Ids with statistics; vectors byte-stream split, without dictionary or statistics; nothing else in data/."""
    files = [path for path in (output / "data").rglob("*") if path.is_file()]
    metadata = pq.read_metadata(files[0])
    ids, vectors = metadata.row_group(0).column(0), metadata.row_group(0).column(1)

    assert len(files) > 3
    assert all(path.suffix == ".parquet" for path in files)
    assert ids.is_stats_set
    assert not vectors.is_stats_set
    assert "BYTE_STREAM_SPLIT" in vectors.encodings
    assert not vectors.has_dictionary_page
    footer = json.loads(pq.read_schema(files[0]).metadata[b"embedmill"])
    assert {"space", "plan", "shard", "attempt", "rows_ok", "versions"} <= set(footer)
