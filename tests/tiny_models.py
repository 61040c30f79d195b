"""Tiny models with random weights, in the layouts that models have on the hub: built in seconds, without a network."""

from pathlib import Path

from workers.torchvision_cpu import make_torchvision_importable


def build_all(folder: Path) -> dict[str, Path]:
    """Every tiny model, by name, in folders below `folder`."""
    make_torchvision_importable()  # before any import of transformers
    from tests import tiny_multimodal as multimodal
    from tests import tiny_text_image as text_image

    bert = text_image.build_bert(folder / "bert")
    clip = text_image.build_clip(folder / "clip")
    return {
        "bert": bert,
        "text_st": text_image.build_text(bert, folder / "text_st"),
        "text_dense": text_image.build_text_with_dense(bert, folder / "text_dense"),
        "cross_encoder": text_image.build_cross_encoder(bert, folder / "cross_encoder", labels=1),
        "cross_encoder_3": text_image.build_cross_encoder(bert, folder / "cross_encoder_3", labels=3),
        "clip": clip,
        "clip_legacy": text_image.build_clip_legacy(clip, folder / "clip_legacy"),
        "clip_st": text_image.build_saved_anew(clip, folder / "clip_st"),
        "siglip": text_image.build_siglip(folder / "siglip"),
        "siglip2": text_image.build_siglip2(folder / "siglip2"),
        "clap": multimodal.build_clap(folder / "clap"),
        "videoprism": multimodal.build_videoprism(folder / "videoprism"),
        "qwen3vl_embedding": multimodal.build_qwen3vl_embedding(folder / "qwen3vl_embedding"),
        "qwen3vl_reranker": multimodal.build_qwen3vl_reranker(folder / "qwen3vl_reranker"),
        "omni": multimodal.build_omni(folder / "omni"),
    }
