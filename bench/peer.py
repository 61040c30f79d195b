"""One peer's whole run, as a user would write it: a manifest in, a Parquet file of ids and vectors out.

python bench/peer.py encode job.json      # run by bench/against_peers.py, in the peers' environment

The words of the job: manifest (JSONL with id and text, or id and uri), model (a folder), out (a Parquet file, or a
folder of them), cores, and onnx (a folder that fastembed reads).
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Pictures that are open at a time: 128 of 1280 x 960 take 470 MB.
_OPEN = 128

Job = dict[str, Any]


def main() -> None:
    """Run the peer that the command line names."""
    name, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    PEERS[name](job)


def encode(job: Job) -> None:
    """The plain script: one process, the library's own threads."""
    rows, model = _rows(job), _model(job)
    _write(job, rows, _encoded(model, rows))


def encode_fp32(job: Job) -> None:
    """The plain script in single precision, whatever the others compute in."""
    encode(job | {"dtype": "float32"})


def pool(job: Job) -> None:
    """The library's multi-process pool: a process for each core."""
    rows, model = _rows(job), _model(job)
    processes = model.start_multi_process_pool(["cpu"] * job["cores"])
    try:
        _write(job, rows, _encoded(model, rows, pool=processes))
    finally:
        model.stop_multi_process_pool(processes)


def ray_data(job: Job) -> None:
    """Ray Data: an actor for each core, blocks of rows through `map_batches`."""
    ray: Any = importlib.import_module("ray")
    # One more than the actors take, or nothing is left to read with, and it waits for ever.
    ray.init(num_cpus=job["cores"] + 1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    data: Any = importlib.import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    rows = data.read_json(job["manifest"], override_num_blocks=max(8, 4 * job["cores"]))
    made = rows.map_batches(
        _Embed,
        fn_constructor_kwargs={"job": job},
        batch_size=_batch(job),
        num_cpus=1,
        concurrency=job["cores"],
        batch_format="numpy",
    )
    made.write_parquet(job["out"])


def daft(job: Job) -> None:
    """Daft: a UDF in a process of its own for each core."""
    daft: Any = importlib.import_module("daft")
    column = _column(job)

    class Embed:
        def __init__(self) -> None:
            self.embed = _Embed(job)

        def __call__(self, values: Any) -> Any:
            return self.embed.vectors(values.to_pylist())

    options = {"batch_size": _batch(job), "concurrency": job["cores"], "use_process": True}
    embed = daft.udf(return_dtype=daft.DataType.list(daft.DataType.float32()), **options)(Embed)
    rows = daft.read_json(job["manifest"]).into_partitions(max(8, 4 * job["cores"]))
    rows.select(daft.col("id"), embed(daft.col(column)).alias("embedding")).write_parquet(job["out"])


def fastembed(job: Job) -> None:
    """fastembed: ONNX Runtime, its own batches; texts alone."""
    found: Any = importlib.import_module("fastembed")
    told: Any = importlib.import_module("fastembed.common.model_description")
    source = told.ModelSource(hf="bench/model")
    found.TextEmbedding.add_custom_model(
        "bench/model", told.PoolingType.MEAN, True, source, job["dim"], model_file="model.onnx"
    )
    model = found.TextEmbedding("bench/model", specific_model_path=job["onnx"], threads=job["cores"])
    rows = _rows(job)
    numpy: Any = importlib.import_module("numpy")
    _write(job, rows, numpy.stack(list(model.embed([row["text"] for row in rows]))))


def export(job: Job) -> None:
    """The model as ONNX, for fastembed; not timed."""
    import shutil

    torch: Any = importlib.import_module("torch")
    hf: Any = importlib.import_module("transformers")
    model = hf.AutoModel.from_pretrained(job["model"]).eval()

    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            told = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
            return self.model(input_ids=input_ids, **told).last_hidden_state

    ones = torch.ones(2, 16, dtype=torch.long)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    folder = Path(job["onnx"])
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        Plain(),
        (ones, ones.clone(), 0 * ones),  # one tensor twice would be one input
        str(folder / "model.onnx"),
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=["last_hidden_state"],
        dynamic_shapes=(free, free, free),
        dynamo=True,
        external_data=False,
    )
    for name in ("tokenizer.json", "config.json", "special_tokens_map.json"):
        shutil.copy(Path(job["model"]) / name, folder / name)
    tokenizer = json.loads((Path(job["model"]) / "tokenizer_config.json").read_text())
    limit = json.loads((Path(job["model"]) / "sentence_bert_config.json").read_text())["max_seq_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": limit}))


class _Embed:
    """What Ray Data and Daft call with a batch of rows: plain `encode`, one thread."""

    def __init__(self, job: Job) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(1)
        self._job, self._model = job, _model(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"id": batch["id"], "embedding": self.vectors(list(batch[_column(self._job)]))}

    def vectors(self, values: list[str]) -> Any:
        return _encoded(self._model, [{_column(self._job): value} for value in values])


def _rows(job: Job) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(job["manifest"]).read_text().splitlines()]


def _column(job: Job) -> str:
    return "uri" if job["pictures"] else "text"


def _batch(job: Job) -> int:
    """Rows that Ray Data and Daft hand over at a time: `encode` sorts within them by length."""
    return 64 if job["pictures"] else 256


def _model(job: Job) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    library: Any = importlib.import_module("sentence_transformers")
    return library.SentenceTransformer(job["model"], device=job["device"], model_kwargs={"dtype": job["dtype"]})


def _encoded(model: Any, rows: list[dict[str, str]], **options: Any) -> Any:
    """Vectors of texts, or of pictures, so many of which are open at a time."""
    if not rows or "text" in rows[0]:
        return model.encode([row["text"] for row in rows], show_progress_bar=False, **options)
    image: Any = importlib.import_module("PIL.Image")
    numpy: Any = importlib.import_module("numpy")
    made = []
    for start in range(0, len(rows), _OPEN):
        pictures = [image.open(row["uri"]).convert("RGB") for row in rows[start : start + _OPEN]]
        made.append(model.encode(pictures, show_progress_bar=False, **options))
    return numpy.concatenate(made)


def _write(job: Job, rows: list[dict[str, str]], vectors: Any) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), vectors.shape[1])
    parquet.write_table(arrow.table({"id": [row["id"] for row in rows], "embedding": column}), job["out"])


PEERS: dict[str, Callable[[Job], None]] = {
    "encode": encode,
    "encode32": encode_fp32,
    "pool": pool,
    "ray": ray_data,
    "daft": daft,
    "fastembed": fastembed,
    "export": export,
}

if __name__ == "__main__":
    main()
