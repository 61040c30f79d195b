"""Tiny models of sounds, films and mixtures of parts, with random weights and in hub layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling

from tests.tiny_corpus import CORPUS, SMALL, byte_pairs

CLAP_RATE, CLAP_WINDOW_S = 48_000, 1
OMNI_RATE, OMNI_WINDOW_S = 16_000, 2
VIDEOPRISM_FRAMES = 4
QUERY_PROMPT = "Retrieve images or text relevant to the user's query."

_QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "yes",
    "no",
)
_QWEN_CONTENT = (
    "{%- macro content(m) -%}{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for c in m.content -%}"
    "{%- if c.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif c.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif c.type == 'text' -%}{{ c.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
_EMBEDDING_TEMPLATE = _QWEN_CONTENT + (
    "{%- if messages[0].role != 'system' -%}<|im_start|>system\nRepresent the user's input.<|im_end|>\n{%- endif -%}"
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ content(m) }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}<|endoftext|>"
)
_RERANKER_TEMPLATE = _QWEN_CONTENT + (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
    "{%- set s = messages | selectattr('role', 'eq', 'system') | list -%}"
    "{%- if s -%}{{ content(s[0]) }}{%- else -%}"
    "Given a search query, retrieve relevant candidates that answer the query.{%- endif -%}"
    "<Query>:{%- for m in messages if m.role == 'query' -%}{{ content(m) }}{%- endfor -%}\n"
    "<Document>:{%- for m in messages if m.role == 'document' -%}{{ content(m) }}{%- endfor -%}<|im_end|>\n"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
_OMNI_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_OMNI_TEMPLATE = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{%- if m.content is string -%}{{ m.content }}{%- else -%}"
    "{%- for c in m.content -%}{%- if c.type == 'image' -%}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{%- elif c.type == 'audio' -%}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{%- elif c.type == 'video' -%}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{%- elif c.type == 'text' -%}{{ c.text }}{%- endif -%}{%- endfor -%}{%- endif -%}<|im_end|>\n{%- endfor -%}"
)

# transformers and tokenizers are typed in part, and differently in each release.
_hf: Any = transformers


def build_clap(path: Path) -> Path:
    """A plain transformers folder of texts and sounds, as laion/clap-htsat-unfused."""
    torch.manual_seed(5)
    vocab, merges = byte_pairs(600, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    tokenizer = _hf.RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    extractor = _hf.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=CLAP_RATE,
        max_length_s=CLAP_WINDOW_S,
        fft_window_size=1024,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    audio = {"spec_size": 64, "num_mel_bins": 16, "window_size": 2, "depths": [1, 1], "num_attention_heads": [2, 2]}
    patches = {"patch_embeds_hidden_size": 16, "patch_size": 4, "patch_stride": [4, 4]}
    config = _hf.ClapConfig(
        text_config={"max_position_embeddings": 80, "projection_dim": 24, **SMALL, **ids},
        audio_config={**SMALL, **audio, **patches, "projection_dim": 24, "enable_fusion": False},
        projection_dim=24,
    )
    _hf.ClapModel(config).save_pretrained(path)
    _hf.ClapProcessor(extractor, tokenizer).save_pretrained(path)
    return path


def build_qwen3vl_embedding(path: Path) -> Path:
    """The layout of Qwen/Qwen3-VL-Embedding-2B: the last token of a chat template, in bfloat16."""
    raw = build_qwen3vl(path.with_name(f"{path.name}_raw"), _EMBEDDING_TEMPLATE)
    module = Transformer(
        str(raw),
        unpad_inputs=False,
        module_output_name="token_embeddings",
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
        modality_config=_qwen_modalities("last_hidden_state"),
    )
    modules = [module, Pooling(module.get_embedding_dimension(), "lasttoken"), Normalize()]
    model = SentenceTransformer(modules=modules, prompts={"query": QUERY_PROMPT}, device="cpu")
    model.save_pretrained(str(path), create_model_card=False)
    return path


def build_qwen3vl_reranker(path: Path) -> Path:
    """The layout of Qwen/Qwen3-VL-Reranker-2B: how much likelier "yes" is than "no" after the pair."""
    raw = build_qwen3vl(path.with_name(f"{path.name}_raw"), _RERANKER_TEMPLATE)
    module: Any = Transformer(
        str(raw),
        transformer_task="any-to-any",
        unpad_inputs=False,
        module_output_name="causal_logits",
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
        modality_config=_qwen_modalities("logits"),
    )
    yes, no = (module.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    score = LogitScore(true_token_id=yes, false_token_id=no)
    model = CrossEncoder(modules=[module, score], activation_fn=torch.nn.Identity(), device="cpu")
    model.save_pretrained(str(path), create_model_card=False)
    return path


def build_omni(path: Path) -> Path:
    """The thinker of Qwen2.5-Omni as an embedding model: texts, images, sounds, films and mixtures of them."""
    torch.manual_seed(7)
    raw = path.with_name(f"{path.name}_raw")
    tokenizer = _omni_tokenizer()
    _hf.Qwen2_5OmniThinkerForConditionalGeneration(_omni_config(tokenizer)).save_pretrained(raw)
    _hf.Qwen2_5OmniProcessor(
        _hf.Qwen2VLImageProcessor(patch_size=14, size=_pixels(28 * 28, 56 * 56)),
        _hf.Qwen2VLVideoProcessor(patch_size=14, size=_pixels(28 * 28, 4 * 56 * 56)),
        _hf.WhisperFeatureExtractor(feature_size=16, chunk_length=OMNI_WINDOW_S),
        tokenizer,
        chat_template=_OMNI_TEMPLATE,
    ).save_pretrained(raw)
    module = Transformer(str(raw), unpad_inputs=False)
    modules = [module, Pooling(module.get_embedding_dimension(), "lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(path), create_model_card=False)
    return path


def build_videoprism(path: Path) -> Path:
    """A plain transformers folder of texts and films, as google/videoprism-lvt-base-f16r288."""
    torch.manual_seed(8)
    letters = sorted(set("".join(CORPUS)) - {" "})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    tokenizer = _hf.VideoPrismTokenizer(vocab=vocab, model_max_length=64)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    frames = {"image_size": 36, "num_frames": VIDEOPRISM_FRAMES, "tubelet_size": (1, 18, 18)}
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 64}
    config = _hf.VideoPrismConfig(text_config={**small, **text}, vision_config={**small, **layers, **frames})
    _hf.VideoPrismClipModel(config).save_pretrained(path)
    films = _hf.LlavaOnevisionVideoProcessor(size={"height": 36, "width": 36}, do_normalize=False)
    _hf.VideoPrismProcessor(films, tokenizer).save_pretrained(path)
    return path


def build_qwen3vl(path: Path, template: str = _EMBEDDING_TEMPLATE) -> Path:
    """A plain transformers folder of Qwen3-VL, which has no embedding head of its own; an image is 1 to 4 tokens."""
    torch.manual_seed(6)
    vocab, merges = byte_pairs(700, _QWEN_SPECIAL)
    tokenizer = _hf.Qwen2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=4096, extra_special_tokens=list(_QWEN_SPECIAL[1:8])
    )
    _hf.Qwen3VLForConditionalGeneration(_qwen3vl_config(tokenizer)).to(torch.bfloat16).save_pretrained(path)
    images = _hf.Qwen2VLImageProcessor(
        patch_size=16, temporal_patch_size=2, merge_size=2, size=_pixels(32 * 32, 64 * 64)
    )
    films = _hf.Qwen3VLVideoProcessor(
        size=_pixels(2 * 32 * 32, 8 * 32 * 32), min_frames=2, max_frames=8, cap_pixels_per_frame=False
    )
    _hf.Qwen3VLProcessor(images, tokenizer, films, chat_template=template).save_pretrained(path)
    return path


def _qwen3vl_config(tokenizer: Any) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {
        **_text(tokenizer, rope, positions=4096),
        "head_dim": 16,
        "pad_token_id": ids("<|endoftext|>"),
        "bos_token_id": None,
        "eos_token_id": ids("<|im_end|>"),
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16}
    return _hf.Qwen3VLConfig(
        text_config=text,
        vision_config={
            **vision,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _qwen_modalities(output: str) -> dict[str, dict[str, str]]:
    forward = {"method": "forward", "method_output_name": output}
    alone = dict.fromkeys(("text", "image", "video"), forward)
    return {**alone, "message": {**forward, "format": "structured"}}


def _omni_tokenizer() -> Any:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_OMNI_TOKENS.values())
    vocab, merges = byte_pairs(700, special)
    tokenizer = _hf.Qwen2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=2048, padding_side="left", extra_special_tokens=_OMNI_TOKENS
    )
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return tokenizer


def _omni_config(tokenizer: Any) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
    text = {
        **_text(tokenizer, rope, positions=2048),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14}
    audio = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    return _hf.Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config={**vision, "window_size": 56, "out_hidden_size": 32, "fullatt_block_indexes": [1]},
        audio_config={**audio, "d_model": 32, "max_source_positions": 100, "n_window": 50, "output_dim": 32},
        image_token_index=ids("<|IMAGE|>"),
        audio_token_index=ids("<|AUDIO|>"),
        video_token_index=ids("<|VIDEO|>"),
        audio_start_token_id=ids("<|audio_bos|>"),
        audio_end_token_id=ids("<|audio_eos|>"),
        user_token_id=3,
        vision_start_token_id=ids("<|vision_bos|>"),
        vision_end_token_id=ids("<|vision_eos|>"),
        pad_token_id=0,
        tie_word_embeddings=True,
    )


def _text(tokenizer: Sequence[object], rope: dict[str, object], *, positions: int) -> dict[str, Any]:
    shape = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "max_position_embeddings": positions}
    return {**SMALL, **shape, "rope_parameters": rope}


def _pixels(least: int, most: int) -> dict[str, int]:
    """The pixel areas that Qwen's processors name by edges."""
    return {"shortest_edge": least, "longest_edge": most}
