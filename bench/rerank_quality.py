"""What a MiniLM that learned to read pairs is worth on questions that it did not learn from; before is its cosine.

python -m bench.rerank_quality /usr/share/wordnet build/second.safetensors --out out/rerank-quality

Each query's items are ordered by cosine; the first of them are put in the order of what was learned, alone and added to
the cosine. Measured as `embedmill eval` does. docs/demo_reranker.md has the table.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from bench.wordnet import WordNet
from similarity.quality import Estimate, evaluate
from storage.model_files import minilm_folder
from workers.torchvision_cpu import make_torchvision_importable

_DEMO = Path(__file__).parents[1] / "examples" / "demo"
_METRICS = ("recall@10", "mrr", "ndcg@10")
_WEIGHT = 20.0  # of the cosine in the sum: it then differs among a query's items about as much as what was learned
_KIND_NOUNS = (3, 60)  # how many held-out nouns a kind has that is asked for
_BATCH = 128


@dataclass(frozen=True, slots=True)
class Task:
    """Queries, items, and which fit."""

    name: str
    queries: list[str]
    items: list[str]
    fitting: list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wordnet", type=Path, help="the folder of data.noun and index.noun")
    parser.add_argument("changes", type=Path, help="what bench.train_reranker made")
    parser.add_argument("--out", type=Path, default=Path("out/rerank-quality"))
    parser.add_argument("--depth", type=int, default=50, help="items of each query that are reranked")
    asked = parser.parse_args()
    make_torchvision_importable()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    model = _changed_minilm(load_file(asked.changes))
    print("| | order | " + " | ".join(_METRICS) + " |\n" + "| --- " * (len(_METRICS) + 2) + "|")
    for task in [*demo_tasks(), *wordnet_tasks(WordNet(asked.wordnet))]:
        for order, told in measure(task, model, asked.out, asked.depth).items():
            print(f"| {task.name} | {order} | {' | '.join(_shown(told[name]) for name in _METRICS)} |", flush=True)


def _shown(value: Estimate) -> str:
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


# --- what is asked


def demo_tasks() -> list[Task]:
    """The demo's judged queries, and its images by what words come with them."""
    rows = [json.loads(line) for line in (_DEMO / "manifest.jsonl").read_text("utf-8").splitlines()]
    queries = [json.loads(line) for line in (_DEMO / "queries.jsonl").read_text("utf-8").splitlines()]
    images = [row for row in rows if row["modality"] == "image"]
    described = {row["describes"]: row["text"] for row in rows if "describes" in row}
    at = {row["id"]: n for n, row in enumerate(images)}
    asked, fitting = [q["text"] for q in queries], [[at[i] for i in q["relevant"]] for q in queries]
    named = [", ".join([row["title"], *row["keywords"]]) for row in images]
    captions = [described[row["id"]] for row in images]
    both = [f"{caption}. {names}" for caption, names in zip(captions, named, strict=True)]
    kinds = (("captions", captions), ("titles and keywords", named), ("captions, titles and keywords", both))
    return [Task(f"demo, {name}", asked, items, fitting) for name, items in kinds]


def wordnet_tasks(wordnet: WordNet) -> list[Task]:
    """Held-out nouns: which one a definition is of, of each tenth, and which are of a kind."""
    learned = {noun.definition for noun in wordnet.usable() if not noun.is_held_out}
    nouns = [noun for noun in wordnet.usable() if noun.is_held_out and noun.definition not in learned]
    items = [", ".join(noun.names) for noun in nouns]
    some = range(0, len(nouns), 10)
    definitions = [nouns[n].definition for n in some]
    kinds = [noun for noun in wordnet.nouns.values() if noun.is_held_out and noun.names and noun.definition]
    members = [[n for n, noun in enumerate(nouns) if noun.key in wordnet.below(kind.key)] for kind in kinds]
    low, high = _KIND_NOUNS
    asked = [(kind, found) for kind, found in zip(kinds, members, strict=True) if low <= len(found) <= high]
    questions = [f"a kind of {kind.names[0]}" for kind, _ in asked]
    return [
        Task(f"WordNet, {len(some)} definitions, {len(nouns)} nouns", definitions, items, [[n] for n in some]),
        Task(f"WordNet, {len(asked)} kinds, {len(nouns)} nouns", questions, items, [found for _, found in asked]),
    ]


# --- before and after


def measure(task: Task, model: Any, out: Path, depth: int) -> dict[str, dict[str, Estimate]]:
    """Metrics of the order by cosine, and of each other order, with their differences query by query."""
    cosines = _cosines(task)
    order = np.argsort(-cosines, axis=1, kind="stable")
    first = order[:, :depth]
    near = np.take_along_axis(cosines, first, axis=1)
    learned = _learned(model, [(task.queries[q], task.items[i]) for q, line in enumerate(first) for i in line])
    learned = learned.reshape(first.shape)
    scores = {"MiniLM's cosine": near, "learned": learned, "cosine and learned": _WEIGHT * near + learned}
    files = []
    for number, score in enumerate(scores.values()):
        again = np.take_along_axis(first, np.argsort(-score, axis=1, kind="stable"), axis=1)
        files.append(_write_lists(out / f"order-{number}.jsonl", np.hstack([again, order[:, depth:100]])))
    judged = [{"query_id": f"q{q}", "relevant": [f"i{i}" for i in found]} for q, found in enumerate(task.fitting)]
    told = evaluate(str(_write(out / "judged.jsonl", judged)), [str(file) for file in files], ks=(1, 10)).outputs
    found = {name: output.metrics for name, output in zip(scores, told, strict=True)}
    changes = {f"{name}, difference": output.difference for name, output in zip(scores, told, strict=True)}
    return found | {name: change for name, change in changes.items() if change}


def _cosines(task: Task) -> np.ndarray:
    """float32 (queries, items)"""
    from sentence_transformers import SentenceTransformer

    minilm = SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)
    queries, items = (minilm.encode(texts, normalize_embeddings=True) for texts in (task.queries, task.items))
    cosines: np.ndarray = queries @ items.T
    return cosines


def _changed_minilm(changes: dict[str, torch.Tensor]) -> Any:  # Any: transformers does not say which class it loads
    """MiniLM with a head, and with what was learned added to its weights."""
    from transformers import AutoModelForSequenceClassification

    model: Any = AutoModelForSequenceClassification.from_pretrained(str(minilm_folder()), num_labels=1)
    for name, weight in model.state_dict().items():
        if name.startswith("classifier"):
            weight.copy_(changes[name])
        elif name in changes:
            weight.add_(changes[name])
        if f"{name}.up" in changes:
            weight.add_(changes[f"{name}.up"].float() @ changes[f"{name}.down"].float())
    return model.eval()


@torch.inference_mode()
def _learned(model: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """float64 (pairs,): raw scores."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(minilm_folder()))
    scores = np.zeros(len(pairs))
    by_length = np.argsort([len(query) + len(item) for query, item in pairs])
    for at in range(0, len(pairs), _BATCH):
        some = by_length[at : at + _BATCH]
        features = tokenizer([pairs[n] for n in some], padding=True, truncation=True, return_tensors="pt")
        scores[some] = model(**features).logits[:, 0].numpy()
    return scores


def _write_lists(path: Path, lists: np.ndarray) -> Path:
    ranked = [(f"q{q}", f"i{i}", rank) for q, line in enumerate(lists) for rank, i in enumerate(line, 1)]
    return _write(path, [{"query_id": query, "item_id": item, "rank": rank} for query, item, rank in ranked])


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


if __name__ == "__main__":
    main()
