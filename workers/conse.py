"""ConSE: texts and images in one space, from a sentence model and an image classifier, without any training.

An image's embedding is the mean of its likeliest classes' name embeddings, weighted by their probabilities
(Norouzi et al. 2014). It is a plain `transformers` architecture, registered with the Auto classes: a saved folder
loads like any other, and no code of a repository's own is run.
"""

from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

#: The methods that sentence-transformers calls for each modality.
MODALITY_CONFIG = {
    "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
    "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
}


def register_conse() -> None:
    """Make `transformers` know the architecture; to be called before a folder is loaded, any number of times."""
    AutoConfig.register(ConseConfig.model_type, ConseConfig, exist_ok=True)
    AutoModel.register(ConseConfig, ConseModel, exist_ok=True)


class ConseConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers is typed in part
    """The text tower's config, and how many classes an image's embedding is made of."""

    model_type = "conse"
    sub_configs = {"text_config": BertConfig}  # noqa: RUF012  # transformers reads it as it is

    def __init__(
        self,
        text_config: BertConfig | dict[str, Any] | None = None,
        projection_dim: int = 384,
        num_classes: int = 1000,
        conse_top_k: int = 8,
        **kwargs: Any,  # Any: transformers' own fields
    ) -> None:
        self.text_config = text_config if isinstance(text_config, BertConfig) else BertConfig(**(text_config or {}))
        self.projection_dim = projection_dim
        self.num_classes = num_classes
        self.conse_top_k = conse_top_k
        super().__init__(**kwargs)


class ConseModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers is typed in part
    """A BERT with mean pooling beside an EfficientNet-Lite0, and the embeddings of the latter's class names."""

    config_class = ConseConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True
    class_embeddings: torch.Tensor

    def __init__(self, config: ConseConfig) -> None:
        super().__init__(config)
        self.text_model = BertModel(config.text_config, add_pooling_layer=False)
        self.vision_model = EfficientNet.from_name("efficientnet-lite0")
        self.register_buffer("class_embeddings", torch.zeros(config.num_classes, config.projection_dim))
        self.post_init()  # type: ignore[no-untyped-call]  # transformers is typed in part

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: every weight comes from the saved file."""

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """The mean of each text's token embeddings."""
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        hidden = output.last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return BaseModelOutputWithPooling(pooler_output=(hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9))

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """The weighted mean of the likeliest classes' name embeddings."""
        probabilities, classes = self.vision_model(pixel_values).softmax(-1).topk(self.config.conse_top_k, dim=-1)
        weights = (probabilities / probabilities.sum(-1, keepdim=True)).unsqueeze(-1)
        return BaseModelOutputWithPooling(pooler_output=(weights * self.class_embeddings[classes]).sum(1))

    def forward(self, **inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        """The features of whichever modality `inputs` are of."""
        if "pixel_values" in inputs:
            return self.get_image_features(inputs["pixel_values"])
        return self.get_text_features(**inputs)
