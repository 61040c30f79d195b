"""Budgets: how many padded tokens a batch of a model may hold on a device; learned, and remembered between runs."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version

from schemas.rows import Modality
from schemas.settings import Settings
from storage.memory_file import BUDGETS, MemoryFile
from storage.model_files import ResolvedModel
from workers.batching import DEFAULT_TOKENS, TokenBudget
from workers.encoder import Encoder, OutOfMemory
from workers.loading import Loaded

logger = logging.getLogger(__name__)

#: What changes how much memory a batch takes.
_LIBRARIES = ("torch", "transformers", "sentence-transformers")
_SMALLEST, _LARGEST = 512, 131_072
#: What a device had no memory for it may have again: another program has ended.
_HOLDS_S = 7 * 86_400
#: A budget twice as large must be faster by so much to be worth its memory and its padding.
_WORTH = 1.03
_WORDS = "the mill grinds slowly but it grinds exceedingly fine and no row is ever lost "


def budget_for(settings: Settings, model: ResolvedModel, dtype: str) -> TokenBudget:
    """The budget that was asked for, else the remembered one, else the default; one that shrinks is remembered.

    Where the user says how many tokens a batch may hold, nothing is remembered.
    """
    if settings.batch_tokens:
        return TokenBudget(settings.batch_tokens)
    memory, key = MemoryFile(settings.memory_dir, BUDGETS), budget_key(settings, model, dtype)
    return TokenBudget(
        remembered_budget(memory, key) or DEFAULT_TOKENS, on_shrink=partial(remember_budget, memory, key)
    )


def remember_budget(memory: MemoryFile, key: str, tokens: int) -> None:
    memory.put({key: {"tokens": tokens, "at": int(time.time())}})


def remembered_budget(memory: MemoryFile, key: str) -> int:
    """Tokens, or 0 where none are remembered of late, or what is makes no sense."""
    try:
        found = memory.entries().get(key) or {}
        tokens, age_s = found["tokens"], time.time() - found["at"]
    except (LookupError, TypeError):
        return 0
    return tokens if type(tokens) is int and 0 < tokens <= _LARGEST and age_s < _HOLDS_S else 0


def budget_key(settings: Settings, model: ResolvedModel, dtype: str) -> str:
    """What a budget holds for: the model's files, the device, the type of the computation, the libraries."""
    versions = " ".join(f"{name}={version(name)}" for name in _LIBRARIES)
    named = f"{settings.device.partition(':')[0]} {settings.size} {settings.memory_mb} {settings.hash_memory_tokens}"
    return f"{model.card.digest[:32]} {dtype} {hashlib.sha256(f'{named} {versions}'.encode()).hexdigest()[:16]}"


def learn_budget(encoder: Encoder, *, limit_s: float = 3.0, clock: Callable[[], float] = time.perf_counter) -> int:
    """The smallest budget, in doublings of 512, whose batches of texts go through the model about as fast as any.

    Ends where the device has no memory, where twice the tokens gain nothing any more, or after `limit_s`.
    """
    item = Loaded(text=_WORDS * 8)
    [length] = encoder.lengths([item])
    best, best_rate, began, tokens = DEFAULT_TOKENS, 0.0, clock(), _SMALLEST
    while tokens <= _LARGEST and clock() - began < limit_s:
        rate = _rate(encoder, [item] * max(1, tokens // length.padded), length.padded, clock)
        if not rate or rate < best_rate * _WORTH:
            break
        best, best_rate, tokens = tokens, rate, 2 * tokens
    return best


def _rate(encoder: Encoder, items: Sequence[Loaded], padded: int, clock: Callable[[], float]) -> float:
    """Tokens a second; 0 where the device has no memory for these. The best of two: the first one warms up."""
    features = encoder.preprocess(items)
    took = []
    for _ in range(2):
        begun = clock()
        try:
            encoder.forward(features)
        except (OutOfMemory, MemoryError):
            return 0.0
        took.append(max(clock() - begun, 1e-9))
    return len(items) * padded / min(took)


def is_learned(settings: Settings, model: ResolvedModel) -> bool:
    """On GPUs alone: a core is as fast from 512 to 4,096 tokens, within the noise (measured on MiniLM)."""
    return not settings.batch_tokens and settings.device.startswith("cuda") and Modality.TEXT in model.card.modalities


def learn_once(settings: Settings, model: ResolvedModel, dtype: str, encoder: Encoder, budget: TokenBudget) -> None:
    """Try how large batches should be, once for a model and device."""
    if not is_learned(settings, model):
        return
    memory, key = MemoryFile(settings.memory_dir, BUDGETS), budget_key(settings, model, dtype)
    if not remembered_budget(memory, key):
        budget.tokens = learn_budget(encoder)
        remember_budget(memory, key, budget.tokens)
        logger.info("batches of %d tokens", budget.tokens, extra={"event": "budget_learned"})
