"""The apart reader: two texts are read apart, by one sentence model, and scored by the cosine of their vectors.

It is a plain `transformers` architecture, registered with the Auto classes: a saved folder loads like any other, and no
code of a repository's own is run.
"""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput


def register_apart_reader() -> None:
    """Make `transformers` know the architecture; to be called before a folder is loaded, any number of times."""
    AutoConfig.register(ApartReaderConfig.model_type, ApartReaderConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(ApartReaderConfig, ApartReader, exist_ok=True)


class ApartReaderConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers is typed in part
    """The sentence model's config."""

    model_type = "apart-reader"
    sub_configs = {"text_config": BertConfig}  # noqa: RUF012  # transformers reads it as it is

    def __init__(
        self,
        text_config: BertConfig | dict[str, Any] | None = None,
        **kwargs: Any,  # Any: transformers' own fields
    ) -> None:
        self.text_config = text_config if isinstance(text_config, BertConfig) else BertConfig(**(text_config or {}))
        super().__init__(**{"num_labels": 1, **kwargs})


class ApartReader(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers is typed in part
    """A BERT that embeds each text of a pair by the mean of its tokens."""

    config_class = ApartReaderConfig
    _supports_sdpa = True

    def __init__(self, config: ApartReaderConfig) -> None:
        super().__init__(config)
        self.reader = BertModel(config.text_config, add_pooling_layer=False)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers is typed in part

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: every weight comes from the saved file."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        **_: Any,  # Any: what transformers passes beside
    ) -> SequenceClassifierOutput:
        """Scores of `[CLS] a [SEP] b [SEP]`, padded on the right: -1 to 1, (pairs, 1)."""
        is_first = attention_mask * (1 - token_type_ids)
        first = self._embedding(input_ids, is_first)
        second = self._embedding(*_second_alone(input_ids, is_first.sum(1), (attention_mask * token_type_ids).sum(1)))
        return SequenceClassifierOutput(logits=torch.nn.functional.cosine_similarity(first, second).unsqueeze(1))

    def _embedding(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        width = int(mask.sum(1).max())  # a query is much shorter than the pair
        input_ids, mask = input_ids[:, :width], mask[:, :width]
        hidden = self.reader(input_ids=input_ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean: torch.Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return mean


def _second_alone(
    input_ids: torch.Tensor, first_lengths: torch.Tensor, second_lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[CLS] b [SEP]` of each row, and its mask: b's tokens moved to the left, after the row's own first token."""
    width = int(second_lengths.max()) + 1
    places = torch.arange(width, device=input_ids.device)
    taken = (first_lengths[:, None] + places - 1).clamp(max=input_ids.shape[1] - 1)
    moved = torch.where(places > 0, input_ids.gather(1, taken), input_ids[:, :1])
    return moved, (places <= second_lengths[:, None]).to(input_ids.dtype)
