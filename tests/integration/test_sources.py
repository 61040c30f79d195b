"""Where media come from, and what they are: every source and format through real workers."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from storage.shards import footer_of, published_shards, read_failures, read_shard
from storage.store import LocalStore
from tests.http_server import Page, http_server
from tests.mill import embedmill, write_jsonl

DEMO = Path(__file__).parents[2] / "examples" / "demo"
PICTURES = ("png", "jpg", "webp", "gif", "tiff", "bmp")
SOUNDS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "ogg": "OGG", "opus": "OGG"}


def picture(form: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3)).save(
        sink, {"jpg": "JPEG", "tiff": "TIFF"}.get(form, form.upper())
    )
    return sink.getvalue()


def sound(ending: str, *, rate: int = 16_000, channels: int = 1, seconds: float = 0.5, level: float = 0.5) -> bytes:
    samples = level * np.sin(np.arange(round(rate * seconds)) * 2 * np.pi * 440 / rate)
    sink = io.BytesIO()
    subtype = {"opus": "OPUS", "ogg": "VORBIS"}.get(ending)
    soundfile.write(sink, np.stack([samples] * channels, axis=1), rate, format=SOUNDS[ending], subtype=subtype)
    return sink.getvalue()


def gallery() -> dict[str, bytes]:
    """One medium of each format, by file name."""
    files = {f"picture.{form}": picture(form) for form in PICTURES}
    files |= {f"sound.{ending}": sound(ending, rate=48_000) for ending in SOUNDS}
    for name in ("fruit.mp4", "duck.webm"):
        files[name] = (DEMO / "video" / name).read_bytes()
    return files


def outcomes_of(out: Path) -> dict[str, str]:
    """Each row's outcome by id: `vector`, or its failure's code."""
    store = LocalStore(out)
    found: dict[str, str] = {}
    for _, key, _ in sorted(published_shards(store)):
        footer = footer_of(store, key)
        found |= dict.fromkeys(read_shard(store, key)[1], "vector")
        failures = read_failures(store, footer.shard, footer.attempt).to_pylist()
        found |= {row["id"]: row["code"] for row in failures}
    return found


def test_a_folder_of_every_format_needs_no_manifest(tmp_path: Path) -> None:
    """Each file is a row, its path the id; what is of no medium is left out and counted."""
    media = tmp_path / "media"
    for name, data in gallery().items():
        path = media / ("deep" if name.startswith("sound") else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (media / "notes.md").write_text("no medium")

    done = embedmill("run", media, "--model", "hash", "--out", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    found = outcomes_of(tmp_path / "out")
    assert found == {f"deep/{n}" if n.startswith("sound") else n: "vector" for n in gallery()}
    assert "left out  1 file whose ending is of no medium" in done.stdout


def test_a_webdataset_tar_needs_no_manifest(tmp_path: Path) -> None:
    """Members of one key are one row; its caption is a column that may be kept."""
    with tarfile.open(tmp_path / "shard-000.tar", "w") as archive:
        for number, (name, data) in enumerate(gallery().items()):
            ending = name.rpartition(".")[2]
            for member, content in ((f"{number:04d}.{ending}", data), (f"{number:04d}.txt", f"it is {name}".encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    words = ("--model", "hash", "--out", tmp_path / "out", "--keep", "caption")
    done = embedmill("run", tmp_path / "shard-000.tar", *words)

    store = LocalStore(tmp_path / "out")
    captions = {
        row["id"]: row["caption"]
        for _, key, _ in published_shards(store)
        for row in read_shard(store, key)[3].to_pylist()
    }
    assert done.returncode == 0, done.stderr
    assert captions == {f"{number:04d}": f"it is {name}" for number, name in enumerate(gallery())}


def test_media_come_over_http_where_that_is_allowed(tmp_path: Path) -> None:
    """From a server on loopback, which both flags must allow; without them each row fails by itself."""
    with http_server() as server:
        for name, data in gallery().items():
            server.pages[f"/{name}"] = Page(body=data)
        rows = [{"id": name, "uri": f"{server.url}/{name}"} for name in gallery()]
        rows += [{"id": "none", "uri": f"{server.url}/none.png"}]
        manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
        words = ("run", manifest, "--model", "hash", "--out")

        allowed = embedmill(*words, tmp_path / "out", "--allow-http", "--allow-private-hosts")
        public = embedmill(*words, tmp_path / "public", "--allow-http")
        secure = embedmill(*words, tmp_path / "secure", "--allow-private-hosts")

    assert (allowed.returncode, public.returncode, secure.returncode) == (1, 1, 1), allowed.stderr
    assert outcomes_of(tmp_path / "out") == dict.fromkeys(gallery(), "vector") | {"none": "not_found"}
    assert set(outcomes_of(tmp_path / "public").values()) == {"address_forbidden"}
    assert set(outcomes_of(tmp_path / "secure").values()) == {"uri_scheme"}


def test_members_of_tars_are_read_where_a_manifest_names_them(tmp_path: Path) -> None:
    """`archive.tar::name`, relative to the manifest; a member that is not there fails by itself."""
    with tarfile.open(tmp_path / "media.tar", "w") as archive:
        info = tarfile.TarInfo("inside/picture.png")
        data = picture("png")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    rows = [
        {"id": "there", "uri": "media.tar::inside/picture.png"},
        {"id": "not", "uri": "media.tar::inside/other.png"},
    ]
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)

    embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out")

    assert outcomes_of(tmp_path / "out") == {"there": "vector", "not": "not_found"}


@pytest.mark.model
def test_odd_sounds_and_films_each_get_their_outcome(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Rates from 8 to 96 kHz, stereo, silence: vectors. Empty, cut off, none at all: failures. All in one shard."""
    good = {
        f"rate-{rate}.wav": sound("wav", rate=rate, channels=1 + rate % 3) for rate in (8_000, 22_050, 44_100, 96_000)
    }
    good |= {
        "silent.wav": sound("wav", level=0.0),
        "long.flac": sound("flac", seconds=5.0),
        "short.wav": sound("wav", seconds=0.01),
        "film.mp4": (DEMO / "video" / "fruit.mp4").read_bytes(),
    }
    bad = {
        "nothing.wav": (b"", "file_empty"),
        "no-samples.wav": (sound("wav", seconds=0.0), "media_empty"),
        "cut.flac": (sound("flac", seconds=2.0)[:2_000], "decode_failed"),
        "words.mp3": (b"these are words, not sounds", "format_unsupported"),
        "list.mp4": (b"#EXTM3U\nfile:///etc/passwd\n", "format_unsupported"),
        "cut.mp4": ((DEMO / "video" / "fruit.mp4").read_bytes()[:3_000], "decode_failed"),
        "zero.webm": (b"\0" * 5_000, "format_unsupported"),
    }
    for name, data in [*good.items(), *((name, data) for name, (data, _) in bad.items())]:
        (tmp_path / name).write_bytes(data)
    rows = [_row(name) for name in [*good, *bad]]

    heard = embedmill("run", write_jsonl(tmp_path / "rows.jsonl", rows), "--model", "hash", "--out", tmp_path / "out")
    sounds = [row for row in rows if row["modality"] == "audio"]
    manifest = write_jsonl(tmp_path / "sounds.jsonl", sounds)
    embedmill("run", manifest, "--model", tiny_models["clap"], "--out", tmp_path / "clap")

    expected = dict.fromkeys(good, "vector") | {name: code for name, (_, code) in bad.items()}
    assert heard.returncode == 1, heard.stderr
    assert outcomes_of(tmp_path / "out") == expected
    assert outcomes_of(tmp_path / "clap") == {row["id"]: expected[row["id"]] for row in sounds}
    assert len(list((tmp_path / "clap" / "data" / "modality=audio").iterdir())) == 1


def _row(name: str) -> dict[str, Any]:
    film = name.endswith(("mp4", "webm"))
    return {"id": name, "uri": name, "modality": "video" if film else "audio"}


def test_a_text_is_never_a_location(tmp_path: Path) -> None:
    """What looks like a URL or is a file's name is embedded as text, and nothing is fetched or opened."""
    (tmp_path / "a.png").write_bytes(picture("png"))
    with http_server() as server:
        texts = [
            f"{server.url}/a.png",
            "a.png",
            str(tmp_path / "a.png"),
            "data:image/png;base64,AAAA",
            "file:///etc/passwd",
        ]
        manifest = write_jsonl(tmp_path / "rows.jsonl", [{"id": str(n), "text": t} for n, t in enumerate(texts)])

        done = embedmill(
            "run", manifest, "--model", "demo", "--out", tmp_path / "out", "--allow-http", "--allow-private-hosts"
        )
        asked = server.connections

    status = json.loads(embedmill("status", tmp_path / "out", "--json").stdout)
    assert done.returncode == 0, done.stderr
    assert (status["vectors"], asked) == (len(texts), 0)
