"""Train a copy of all-MiniLM-L6-v2 to score a question and a short text read together: tried, and not shipped.

python -m bench.train_reranker /usr/share/wordnet build/first.safetensors
python -m bench.train_reranker /usr/share/wordnet build/second.safetensors \
    --start build/first.safetensors --rate 7e-4 --seed 20261124

What is learned is low-rank changes of the last four layers, their biases and norms, and the head, saved as float16.
docs/demo_reranker.md says what it is trained with, and what it is worth.
"""

import argparse
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bench.reranker_questions import CANDIDATES, Choice, make_choices
from bench.wordnet import WordNet
from storage.model_files import minilm_folder
from workers.torchvision_cpu import make_torchvision_importable

SEED = 20261123
_FROZEN_LAYERS = 2
_RANK = 16
_BATCH = 2  # questions
_MAX_TOKENS = 48
_TEMPERATURE = 0.07  # of MiniLM's cosines, as it teaches
_SHOWN_EVERY = 200  # steps


def main() -> None:
    asked = _arguments()
    make_torchvision_importable()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    rng = random.Random(asked.seed)
    choices = _alike(make_choices(WordNet(asked.wordnet), asked.steps * _BATCH, rng), rng)
    model = _model()
    if asked.start is not None:
        _restore(model, load_file(asked.start))
    _train(model, choices, asked.steps, asked.rate, asked.label)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(_changes(model), asked.out)
    print(f"{asked.out}: {asked.out.stat().st_size:,} bytes after {time.process_time() / 60:.1f} minutes of a core")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wordnet", type=Path, help="the folder of data.noun and index.noun")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4400, help=f"of {_BATCH} questions with {CANDIDATES} items each")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate at its highest")
    parser.add_argument("--label", type=float, default=0.5, help="weight of what fits; the rest is MiniLM's opinion")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--start", type=Path, default=None, help="go on from the changes of an earlier run")
    return parser.parse_args()


def _alike(choices: list[Choice], rng: random.Random) -> list[Choice]:
    """Within each 64 batches, questions of like length side by side: padding costs as much as text."""
    ordered: list[Choice] = []
    for at in range(0, len(choices), 64 * _BATCH):
        some = sorted(choices[at : at + 64 * _BATCH], key=lambda choice: len(choice.text))
        batches = [some[n : n + _BATCH] for n in range(0, len(some), _BATCH)]
        rng.shuffle(batches)
        ordered += [choice for batch in batches for choice in batch]
    return ordered


# --- what learns


class _LowRank(torch.nn.Module):
    """A linear layer with a change of low rank beside it (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = torch.nn.Parameter(torch.randn(_RANK, linear.in_features) / linear.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(linear.out_features, _RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) + (x @ self.down.T) @ self.up.T
        return out


def _model() -> Any:  # Any: transformers does not say which class it loads
    """MiniLM with a head, of which only what is to be learned takes gradients; `start` is what that was before."""
    from transformers import AutoModelForSequenceClassification

    model: Any = AutoModelForSequenceClassification.from_pretrained(str(minilm_folder()), num_labels=1)
    model.eval()  # no dropout: each question is seen once
    model.requires_grad_(False)
    for layer in model.bert.encoder.layer[_FROZEN_LAYERS:]:
        _let_learn(layer)
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    torch.nn.init.zeros_(model.classifier.bias)
    for module in (model.bert.pooler, model.classifier):
        module.requires_grad_(True)
    model.start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    return model


def _let_learn(layer: torch.nn.Module) -> None:
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(parent, name, _LowRank(child))
                child.bias.requires_grad_(True)
            elif isinstance(child, torch.nn.LayerNorm):
                child.requires_grad_(True)


# --- how it learns


def _train(model: Any, choices: list[Choice], steps: int, rate: float, label: float) -> None:
    """Cross-entropy over the items of each question; the rate rises for a twentieth, and falls to nothing."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(minilm_folder()))
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    low = [value for name, value in learning.items() if name.endswith((".up", ".down"))]
    rest = [value for name, value in learning.items() if not name.endswith((".up", ".down"))]
    groups = [{"params": low, "lr": rate}, {"params": rest, "lr": rate / 3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    warm = steps // 20 + 1
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min((n + 1) / warm, (steps - n) / (steps - warm)))
    seen: list[tuple[float, float]] = []
    for step in range(steps):
        some = choices[step * _BATCH : (step + 1) * _BATCH]
        scores = _scores(model, tokenizer, some)
        loss = torch.nn.functional.cross_entropy(scores, _targets(some, label))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch is typed in part
        torch.nn.utils.clip_grad_norm_([*low, *rest], 1.0)
        optimiser.step()
        schedule.step()
        seen.append((loss.item(), (scores.argmax(1) == 0).float().mean().item()))
        if len(seen) % _SHOWN_EVERY == 0:
            mean, first = np.mean(seen[-_SHOWN_EVERY:], axis=0)
            told = f"loss {mean:.3f}, fitting item first {first:.2f}"
            print(f"step {len(seen):,} of {steps:,}: {told}, {time.process_time():.0f} s", flush=True)


def _scores(model: Any, tokenizer: Any, some: list[Choice]) -> torch.Tensor:
    """(questions, items)"""
    questions = [choice.text for choice in some for _ in choice.items]
    items = [item for choice in some for item in choice.items]
    options = {"padding": True, "truncation": True, "max_length": _MAX_TOKENS, "return_tensors": "pt"}
    scores: torch.Tensor = model(**tokenizer(questions, items, **options)).logits
    return scores.view(len(some), CANDIDATES)


def _targets(some: list[Choice], label: float) -> torch.Tensor:
    """What the fitting item is worth, and the rest shared out as MiniLM's cosines say."""
    teacher = (torch.tensor([choice.cosines for choice in some]) / _TEMPERATURE).softmax(-1)
    return label * torch.eye(CANDIDATES)[0] + (1 - label) * teacher


# --- what is saved


def _restore(model: Any, changes: dict[str, torch.Tensor]) -> None:
    """Put the changes of an earlier run where `_changes` found them."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                start = 0 if _is_whole(name) else model.start[name]
                value.copy_(changes[_saved_name(name)].float() + start)


def _changes(model: Any) -> dict[str, torch.Tensor]:
    """What was learned, float16: `NAME.up` and `NAME.down`, whose product is added to NAME, and `NAME` to be added."""
    learned = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    changes = {name: value if _is_whole(name) else value - model.start[name] for name, value in learned.items()}
    return {_saved_name(name): change.half().contiguous() for name, change in changes.items()}


def _is_whole(name: str) -> bool:
    """Whether MiniLM has nothing that it is added to."""
    return name.endswith((".up", ".down")) or name.startswith("classifier")


def _saved_name(name: str) -> str:
    """The name of the weight in MiniLM, and which factor of its change it is."""
    return re.sub(r"\.(up|down)$", r".weight.\1", name.replace(".linear.bias", ".bias"))


if __name__ == "__main__":
    main()
