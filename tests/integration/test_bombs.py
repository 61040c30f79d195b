"""Bombs among good media: each costs its own row, in bounded memory; all others get their vectors."""

import gzip
import io
import random
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from schemas.failures import FailureCode
from storage.shards import footer_of, published_shards, read_failures, read_shard
from storage.store import LocalStore
from tests.bad_images import bomb, encoded, good_images, text_bomb
from tests.bad_media import containers_that_name, long_silence, playlists, wav_header, wide_avi, wide_gif
from tests.http_server import HttpServer, Page, http_server, pouring
from tests.media import film, gif, m4a, sound, tone
from tests.mill import children, command_of, started, texts, write_jsonl

Row = dict[str, Any]
MIB = 2**20

#: What a decoder may take, and files may have.
DECODE_MB, FILE_MB = 96, 2
#: A decoder starts with some 65 MiB, of which libraries are most; beyond what it may take it is told that it has none.
MOST_IN_A_DECODER = (DECODE_MB + 90) * MIB
#: A worker has some 160 MiB with good rows alone. Of bombs it holds files (2 MiB each, a handful at once), never what
#: they would become: none of these may cost it much more than that, while each would be 140 MiB to 10 GiB unpacked.
MOST_IN_A_WORKER = 250 * MIB


def bombs(server: HttpServer) -> dict[str, tuple[str, bytes | None, FailureCode]]:
    """Modality, content and code of each, by uri."""
    target = f"{server.url}/canary.mp4"
    server.pages["/endless.wav"] = pouring(
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\n\r\n", wav_header(data_bytes=0xFFFFFFFF), piece=bytes(2**16)
    )
    disguised = {sample.name: ("video", sample.data, FailureCode.FORMAT_UNSUPPORTED) for sample in playlists(target)}
    return disguised | {
        "pixels.png": ("image", bomb(), FailureCode.TOO_MANY_PIXELS),
        "text.png": ("image", text_bomb(), FailureCode.DECODE_FAILED),
        "memory.png": ("image", encoded(Image.new("RGB", (7_000, 7_000)), "PNG"), FailureCode.DECODE_MEMORY),
        "unpacked.png.gz": ("image", gzip.compress(bytes(64 * MIB)), FailureCode.FILE_TOO_LARGE),
        "twice.png.gz": ("image", gzip.compress(gzip.compress(bytes(64 * MIB))), FailureCode.FORMAT_UNSUPPORTED),
        "nested.tar::inner.tar": ("image", tar("inner.tar", tar("a.png", bytes(512))), FailureCode.FORMAT_UNSUPPORTED),
        "packed.tar::a.png.gz": ("image", tar("a.png.gz", gzip.compress(bytes(64 * MIB))), FailureCode.FILE_TOO_LARGE),
        "seconds.flac": ("audio", long_silence(601), FailureCode.TOO_LONG),
        "channels.wav": ("audio", wav_header(channels=60_000, data_bytes=240_000) + bytes(240_000),
                         FailureCode.DECODE_FAILED),
        "liar.wav": ("audio", wav_header(data_bytes=2**30) + bytes(1_000), FailureCode.DECODE_FAILED),
        f"{server.url}/endless.wav": ("audio", None, FailureCode.FILE_TOO_LARGE),
        "seconds.gif": ("video", wide_gif(1, 1, frames=60_100), FailureCode.TOO_LONG),
        "work.gif": ("video", wide_gif(2_000, 2_000, frames=50_000), FailureCode.DECODE_TIMEOUT),
        "memory.gif": ("video", wide_gif(7_000, 7_000), FailureCode.DECODE_MEMORY),
        "pixels.gif": ("video", wide_gif(60_000, 60_000), FailureCode.TOO_MANY_PIXELS),
        "pixels.avi": ("video", wide_avi(8_000, 8_000), FailureCode.TOO_MANY_PIXELS),
        "linked.mkv": ("video", containers_that_name(target)["linked.mkv"], FailureCode.DECODE_FAILED),
        "elsewhere.mov": ("video", containers_that_name(target)["dref.mov"], FailureCode.MEDIA_EMPTY),
    }  # fmt: skip


def good_media() -> dict[str, tuple[str, bytes]]:
    """Modality and content of media that nothing is wrong with, by uri."""
    sounds = {
        "good.wav": sound(tone(8_000), 8_000),
        "good.flac": sound(tone(96_000), 96_000, "FLAC"),
        "good.mp3": sound(tone(44_100), 44_100, "MP3"),
        "good.opus": sound(tone(48_000), 48_000, "OGG", "OPUS"),
        "good.m4a": m4a(tone(16_000), 16_000),
        "silent.wav": sound(0 * tone(16_000), 16_000),
    }
    films = {
        "good.mp4": film(20),
        "good_h264.mp4": film(20, codec="libx264", b_frames=2),
        "good.webm": film(20, form="webm", codec="libvpx"),
        "good.avi": film(20, form="avi"),
        "good.gif": gif(6),
    }
    return {name: ("audio", data) for name, data in sounds.items()} | {
        name: ("video", data) for name, data in films.items()
    }


def tar(name: str, data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def written(folder: Path, server: HttpServer) -> tuple[list[Row], dict[str, str]]:
    """All rows, in one fixed disorder, with the media that they name; and each row's outcome."""
    rows: list[Row] = []
    outcomes: dict[str, str] = {}
    files: dict[str, bytes | None] = {}
    images = {sample.name: ("image", sample.data or b"") for sample in good_images()}
    for uri, (modality, content) in (good_media() | images).items():
        rows += [{"id": f"good {uri} {n}", "uri": uri, "modality": modality} for n in range(3)]
        files[uri] = content
    for uri, (modality, data, code) in bombs(server).items():
        rows.append({"id": f"bomb {uri}", "uri": uri, "modality": modality})
        outcomes[f"bomb {uri}"] = code
        files[uri.partition("::")[0]] = data
    rows += texts(50)
    for name, held in files.items():
        if held is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(held)
    random.Random(7).shuffle(rows)
    return rows, {row["id"]: "vector" for row in rows} | outcomes


def outcomes_of(out: Path) -> dict[str, str]:
    """Each row's outcome by id: `vector`, or its failure's code; no row may have two."""
    store, found = LocalStore(out), list[tuple[str, str]]()
    for _, key, _ in sorted(published_shards(store)):
        footer = footer_of(store, key)
        found += [(item, "vector") for item in read_shard(store, key)[1]]
        failures = read_failures(store, footer.shard, footer.attempt).to_pylist()
        found += [(row["id"], row["code"]) for row in failures]
    assert len({item for item, _ in found}) == len(found)
    return dict(found)


class Peaks:
    """The most memory that each process below another has had at once, by what it is."""

    def __init__(self) -> None:
        self.decoder = self.worker = 0

    def look(self, root: int) -> None:
        """Read the high-water marks of all processes as they are now."""
        for pid in descendants(root):
            command = command_of(pid)
            if "decode_child" in command:
                self.decoder = max(self.decoder, high_water(pid))
            elif "celery" in command or "spawn_main" in command:
                self.worker = max(self.worker, high_water(pid))


@contextmanager
def watched(root: int) -> Iterator[Peaks]:
    """Look at the memory of all processes below `root`, again and again, to the end of the `with`."""
    peaks, ended = Peaks(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peaks.look(root)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:  # grows as it is read
        found += children(pid)
    return found[1:]


def high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it ended while we looked
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_every_bomb_costs_its_own_row_and_bounded_memory(tmp_path: Path) -> None:
    """Pixels, frames, seconds, packed files, disguises, endless streams: one failure each, beside good rows."""
    out = tmp_path / "out"
    with http_server() as server:
        rows, expected = written(tmp_path, server)
        server.pages["/canary.mp4"] = Page(body=film(3))
        manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
        words = (
            "run",
            manifest,
            "--model",
            "hash",
            "--out",
            out,
            "--workers",
            1,
            "--allow-http",
            "--allow-private-hosts",
        )
        limits = ("--decode-seconds", 2, "--max-media-seconds", 600, "--max-file-mb", FILE_MB)
        environ = {"EMBEDMILL_DECODE_MEMORY_MB": str(DECODE_MB)}

        with started(*words, *limits, env=environ, log=tmp_path / "log") as process, watched(process.pid) as peaks:
            code = process.wait(240)

        asked = set(server.paths)

    assert code == 1, (tmp_path / "log").read_text()
    found = outcomes_of(out)
    assert {item: outcome for item, outcome in found.items() if outcome != expected[item]} == {}
    assert found.keys() == expected.keys()
    assert asked == {"/endless.wav"}
    assert 0 < peaks.decoder < MOST_IN_A_DECODER
    assert 0 < peaks.worker < MOST_IN_A_WORKER


def test_bombs_and_good_media_meet_in_one_shard(tmp_path: Path) -> None:
    """The test above proves something: bombs have company of their own modality, of which one shard is made."""
    with http_server() as server:
        rows, expected = written(tmp_path, server)

    for modality in ("image", "audio", "video"):
        outcomes = {expected[row["id"]] for row in rows if row.get("modality") == modality}
        assert "vector" in outcomes
        assert len(outcomes) > 2
