"""The cross scorer: a CrossEncoder of sentence-transformers, called at its preprocessing and its forward pass.

`CrossEncoder.predict` is not used, for the reasons that `encode` is not. Pairs go in as dicts that name their parts
where the model takes messages; where it takes texts alone, as the two strings that its tokenizer takes.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from schemas.errors import WorkerUnfit
from schemas.model_cards import PIXELS_PER_TOKEN, ModelCard
from schemas.recipe import Recipe
from schemas.rerank import Activation, Scoring
from workers.canary import probe_pairs
from workers.encoder import Length, OutOfMemory
from workers.loading import Loaded
from workers.onednn_linear import quicken
from workers.pair_scorer import LoadedPair
from workers.processor_check import check_processor
from workers.sentence_encoder import is_out_of_memory, judged_error, on_device, quiet

Features = dict[str, Any]  # Any: tensors, and the names that sentence-transformers puts beside them

#: What is made of raw scores.
Activate = Callable[[torch.Tensor], torch.Tensor]

#: Tokens that a second of sound takes up, about.
_TOKENS_PER_SECOND = 50


class CrossScorer:
    """A CrossEncoder in memory."""

    dim = 1

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the model in `folder`; raises WorkerUnfit where it does not load, or is not what its card says."""
        if device == "cpu":
            torch.set_num_threads(1)
        self._card, self._model = card, _loaded(card, folder, device, dtype)
        self._messages = self._model.supports("message")
        self._prompt = card.default_prompt
        self._activation: Activate = torch.nn.Identity()
        self._max_length = 0
        self._around = 0  # tokens beside those of the two texts
        self._around = self._measured_frame()
        if not quicken(self._model, self._check):
            self._model = _loaded(card, folder, device, dtype)

    @property
    def activation(self) -> str:
        return type(self._activation).__name__

    def told(self, recipe: Recipe, scoring: Scoring) -> "CrossScorer":
        twin = copy.copy(self)  # the model itself is shared
        twin._prompt, twin._max_length = recipe.prompt, scoring.max_length
        twin._activation = self._activation_of(scoring.activation)
        return twin

    def lengths(self, items: Sequence[LoadedPair]) -> list[Length]:
        texts = list(dict.fromkeys(text for pair in items for text in _texts_of(pair)))  # a query comes many times
        tokens = dict(zip(texts, self._token_counts(texts), strict=True))
        return [self._length(pair, sum(tokens[text] for text in _texts_of(pair))) for pair in items]

    def preprocess(self, items: Sequence[LoadedPair]) -> Features:
        values = [self._pair_of(pair) for pair in items]
        kwargs = self._processing_kwargs(items[0])
        return dict(self._model.preprocess(values, prompt=self._prompt or None, processing_kwargs=kwargs))

    def forward(self, features: Features) -> np.ndarray:
        try:
            return self._scores(features)
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise judged_error(err) from err
        # Out here, where the traceback no longer holds the batch's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory("the device has no memory for this batch")

    @torch.inference_mode()
    def _scores(self, features: Features) -> np.ndarray:
        moved = {name: on_device(self._model.device, value) for name, value in features.items()}
        raw: torch.Tensor = self._model(moved)["scores"].float()  # before the activation, or close scores become ties
        scores: torch.Tensor = self._activation(raw).float()
        return np.asarray(scores.cpu().numpy().reshape(len(scores), -1))

    def _activation_of(self, activation: Activation) -> Activate:
        if activation is Activation.NONE:
            return torch.nn.Identity()
        if activation is Activation.SIGMOID:
            return torch.nn.Sigmoid()
        return self._model.activation_fn or torch.nn.Identity()

    def _pair_of(self, pair: LoadedPair) -> tuple[Any, Any]:
        if self._messages:
            return _side_of(pair.query), _side_of(pair.item)
        return pair.query.text, pair.item.text

    def _processing_kwargs(self, pair: LoadedPair) -> dict[str, dict[str, Any]]:
        kwargs: dict[str, dict[str, Any]] = {}
        if self._max_length:
            kwargs["text"] = {"max_length": self._limit()}
        if self._messages:  # a text must not be able to write in the template
            kwargs["chat_template"] = {"sanitize_control_tokens": True}
        if "film" in pair.kinds:
            kwargs["video"] = {"do_sample_frames": False}  # its frames are chosen
        return kwargs

    def _limit(self) -> int:
        own = min(self._model.max_seq_length or self._card.max_tokens, 10**6)
        return min(self._max_length or own, own)

    def _length(self, pair: LoadedPair, tokens: int) -> Length:
        media = sum(self._media_tokens(side) for side in (pair.query, pair.item))
        return Length(min(tokens + self._around, self._limit()) + media)

    def _media_tokens(self, side: Loaded) -> int:
        tokens = 0 if side.image is None else self._card.tokens_per_image
        if side.sound is not None:
            tokens += math.ceil(side.sound.seconds * _TOKENS_PER_SECOND)
        if side.film is not None:
            count, height, width, _ = side.film.frames.shape
            tokens += math.ceil(count * min(self._card.tokens_per_frame, height * width / PIXELS_PER_TOKEN))
        return tokens

    def _token_counts(self, texts: list[str]) -> list[int]:
        """The tokens of each text, without those that mark its ends."""
        tokenizer = self._model.tokenizer
        if tokenizer is None or not texts:
            return [len(text) // 4 + 1 for text in texts]
        options = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
        return [len(row) for row in tokenizer(texts, add_special_tokens=False, **options)["input_ids"]]

    def _measured_frame(self) -> int:
        """Tokens that mark the ends of the texts, or that a chat template puts around them, the prompt among them."""
        pair = LoadedPair(Loaded(text="a"), Loaded(text="a"))
        whole = self.preprocess([pair])["input_ids"].shape[-1]
        return int(whole) - sum(self._token_counts(["a", "a"]))

    def _check(self) -> list[np.ndarray]:
        """The scores of a pair of each modality; raises WorkerUnfit unless each is one finite number."""
        found = []
        for pair in probe_pairs(self._card):
            try:
                scores = self.forward(self.preprocess([pair]))
            except (ImportError, KeyError, TypeError, ValueError, RuntimeError, OutOfMemory) as err:
                raise WorkerUnfit(f"model {self._card.name} takes no pair of {pair.kinds} here: {err}") from err
            if scores.shape != (1, 1) or not np.isfinite(scores).all():
                raise WorkerUnfit(f"model {self._card.name} gives {scores.shape[1:]} scores, or none that is finite")
            found.append(scores)
        return found


def _texts_of(pair: LoadedPair) -> list[str]:
    return [side.text for side in (pair.query, pair.item) if side.text is not None]


def _side_of(side: Loaded) -> dict[str, Any]:
    """What a CrossEncoder takes for a side: media bare, since in pairs it unwraps no dicts (version 6.2)."""
    value: dict[str, Any] = {}
    if side.image is not None:
        value["image"] = side.image
    if side.film is not None:
        value["video"] = side.film.frames
    if side.sound is not None:
        value["audio"] = side.sound.samples
    if side.text is not None:
        value["text"] = side.text
    return value


def _probe_template_once(card: ModelCard, model: CrossEncoder) -> None:
    """Raise WorkerUnfit unless the chat template renders both sides; from here on that is taken as known.

    sentence-transformers 6.2 tries the template with each batch, without tokenizing, and transformers refuses to make
    control tokens in texts harmless where nothing is tokenized: so with its own probe no pair would be safe.
    """
    module: Any = model[0]
    failure = module.input_formatter.pair_roles_failure({})
    if failure is not None:
        raise WorkerUnfit(f"model {card.name} cannot be fed pairs: its chat template does not carry them: {failure}")
    module._verify_pair_roles_supported = lambda *_: None


def _loaded(card: ModelCard, folder: Path, device: str, dtype: str) -> CrossEncoder:
    problem = check_processor(folder)  # before the weights: they may be 16 GB
    if problem is not None:
        raise WorkerUnfit(f"model {card.name} cannot be fed here: {problem}")
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # what a model that left the shelf held is given back only now
    try:
        with quiet():
            model: CrossEncoder = CrossEncoder(
                str(folder),
                device=device,
                local_files_only=True,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
    except (ImportError, OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError, AssertionError) as err:
        raise WorkerUnfit(f"model {card.name} cannot be loaded here: {type(err).__name__}: {err}") from err
    model.eval()
    if model.supports("message"):
        _probe_template_once(card, model)
    return model
