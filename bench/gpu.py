"""embedmill against plain `encode` on a GPU, in half and in single precision: `python -m bench.gpu`.

MiniLM, and CLIP B/32 and L/14 of random weights; whole processes, as in bench/against_peers.py, whose words it takes.
Device-busy shares are those of each job's receipt. Without a GPU it says so and stops.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.against_peers import Case, adopt_orphans, arguments, compare
from bench.peer_data import clip_like, minilm_folder, pictures, texts
from schemas.errors import Refused
from workers.devices import find_devices

_L14_PICTURES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
_L14_TEXTS = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
_TEXTS, _PICTURES = 200_000, 10_000


def main() -> None:
    try:
        device = find_devices("cuda")[0]
    except Refused as err:
        print(f"nothing was measured: {err}")
        return
    adopt_orphans()
    told = ["--device", device.name, "--dtype", "float16", "--peers", "encode", "encode32"]
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-") as folder:
        compare(_cases(Path(folder)), arguments([*told, *sys.argv[1:]]))


def _cases(folder: Path) -> Iterator[Case]:
    model = minilm_folder()
    rows = texts(folder / "texts", _TEXTS, duplicates=0.0, model=model)
    yield Case(
        title=f"{_TEXTS:,} texts, MiniLM fp16",
        folder=rows.parent,
        manifest=rows,
        model=model,
        model_name="minilm",
        rows=_TEXTS,
        dim=384,
    )
    photos = pictures(folder / "pictures", _PICTURES, duplicates=0.0)
    for name, vision, text, dim in (("B/32", {}, {}, 512), ("L/14", _L14_PICTURES, _L14_TEXTS, 768)):
        clip = clip_like(folder / f"clip-{dim}", vision, text)
        yield Case(
            title=f"{_PICTURES:,} JPEGs of 1280 x 960, CLIP {name} (random weights) fp16",
            folder=photos.parent / f"runs-{dim}",
            manifest=photos,
            model=clip,
            model_name=str(clip),
            rows=_PICTURES,
            dim=dim,
            pictures=True,
        )


if __name__ == "__main__":
    main()
