"""Decoder processes: what hangs, dies, eats or lies costs one row; the next one is decoded as if nothing had been."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.failures import Failure, FailureCode, Stage
from tests.bad_images import bad_images, encoded, good_images, photo
from tests.bad_media import bad_films, bad_sounds, containers_that_name, playlists, wide_gif
from tests.media import film, gif, m4a, number_of, sound, tone
from tests.mill import alive, children, command_of
from workers.decode import decode_image
from workers.decoder_process import environ_of_decoders
from workers.decoder_reply import NotBelieved, Reply, films_of, image_of, sound_of
from workers.decoders import DecodeLimits, Decoders

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

Outcome = Any  # what a decoder makes of a medium, or a Failure
ROOT = Path(__file__).parents[2]
DECODE_CODES = {
    FailureCode.FORMAT_UNSUPPORTED, FailureCode.TOO_MANY_PIXELS, FailureCode.TOO_LONG, FailureCode.NO_STREAM,
    FailureCode.MEDIA_EMPTY, FailureCode.DECODE_FAILED, FailureCode.DECODE_MEMORY, FailureCode.DECODE_CRASHED,
}  # fmt: skip


@pytest.fixture
def pool() -> Iterator[Callable[..., Decoders]]:
    """Makes decoders that end with the test."""
    made: list[Decoders] = []

    def make(count: int = 1, **limits: Any) -> Decoders:
        made.append(Decoders(count=count, limits=DecodeLimits(**limits)))
        return made[-1]

    yield make
    for decoders in made:
        decoders.close()


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    """One for the tests that leave it as it was."""
    shared = Decoders(count=1, limits=DecodeLimits(timeout_s=60, memory_bytes=2**29))
    yield shared
    shared.close()


PHOTO = encoded(photo(), "PNG")


def is_photo(outcome: Outcome) -> bool:
    return isinstance(outcome, Image.Image) and outcome.tobytes() == photo().tobytes()


def frames(decoders: Decoders, data: bytes, count: int = 8) -> Outcome:
    return decoders.film(data, frames=count, fps=None, segment_s=None, frame_pixels=0)


def code_of(outcome: Outcome) -> FailureCode | None:
    return outcome.code if isinstance(outcome, Failure) else None


def decoder_pids() -> list[int]:
    return [pid for pid in children(os.getpid()) if "decode_child" in command_of(pid)]


def until(condition: Callable[[], bool], deadline_s: float = 30) -> None:
    """Look again and again, and fail at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "not within the deadline"
        time.sleep(0.01)


def slow_film() -> bytes:
    """Minutes of work for a decoder: each of its frames is a whole canvas to FFmpeg."""
    return wide_gif(3_000, 3_000, frames=20_000)


def test_media_are_decoded_as_they_are_in_process(decoders: Decoders) -> None:
    """A process of its own changes no pixel and no sample."""
    samples = tone(16_000)

    heard = decoders.sound(sound(samples, 16_000, subtype="FLOAT"), rate=16_000)
    [seen] = frames(decoders, film(10), 10)

    assert is_photo(decoders.image(PHOTO))
    assert not isinstance(heard, Failure)
    assert np.array_equal(heard.samples, samples)
    assert [number_of(frame) for frame in seen.frames] == list(range(10))
    assert decoders.jailed is True


def test_every_example_has_its_outcome_in_the_jail(decoders: Decoders) -> None:
    """What the decoders need they have opened before they are locked in: each medium is what it is outside."""
    for sample in [*good_images(), *(sample for sample in bad_images() if sample.data)]:
        assert sample.data is not None
        outcome, outside = decoders.image(sample.data), decode_image(sample.data, max_pixels=50_000_000)
        assert code_of(outcome) == code_of(outside), sample.name
        assert isinstance(outcome, Failure) or np.array_equal(np.asarray(outcome), np.asarray(outside)), sample.name
    for sample in bad_sounds():
        assert code_of(decoders.sound(sample.data or b"", rate=16_000)) is sample.code, sample.name
    for sample in bad_films():
        assert code_of(frames(decoders, sample.data or b"")) is sample.code, sample.name


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4", "mjpeg", "ffv1"])
def test_every_codec_works_in_the_jail(decoders: Decoders, codec: str) -> None:
    """A library that starts threads, or looks at the processor, finds what it needs."""
    [seen] = frames(decoders, film(12, form="matroska", codec=codec), 3)

    assert [number_of(frame) for frame in seen.frames] == [2, 6, 10]


def test_a_decoder_that_hangs_costs_one_row(pool: Callable[..., Decoders]) -> None:
    """A process that is stopped in its tracks is ended at the deadline, and another takes the next medium."""
    decoders = pool(timeout_s=1.0)
    decoders.image(PHOTO)
    [pid] = decoder_pids_of(decoders)
    os.kill(pid, signal.SIGSTOP)

    outcome = decoders.image(PHOTO)

    assert code_of(outcome) is FailureCode.DECODE_TIMEOUT
    assert not alive(pid)
    assert is_photo(decoders.image(PHOTO))


def test_a_medium_that_takes_for_ever_is_a_timeout(pool: Callable[..., Decoders]) -> None:
    """A film that is small to look at and endless to decode is given up, and its process with it."""
    decoders = pool(timeout_s=1.0)

    outcome = frames(decoders, slow_film())

    assert code_of(outcome) is FailureCode.DECODE_TIMEOUT
    assert is_photo(decoders.image(PHOTO))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_decoder_that_dies_at_work_costs_one_row(pool: Callable[..., Decoders], number: signal.Signals) -> None:
    """The row whose medium kills its decoder, and any other that takes its place, is told how; the next one works."""
    decoders = pool(timeout_s=60)
    before = set(decoder_pids())
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(frames, decoders, slow_film())
        until(lambda: bool(busy := set(decoder_pids()) - before) and all(jailed(pid) for pid in busy))
        [pid] = set(decoder_pids()) - before
        os.kill(pid, number)
        outcome = asked.result(timeout=60)

    assert code_of(outcome) is FailureCode.DECODE_CRASHED
    assert number.name in outcome.message
    assert is_photo(decoders.image(PHOTO))


def test_a_death_between_two_media_costs_none(pool: Callable[..., Decoders]) -> None:
    """A decoder that has died of what an earlier medium left behind, or of the system's need, is replaced."""
    decoders = pool()
    decoders.image(PHOTO)
    [pid] = decoder_pids_of(decoders)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))

    assert is_photo(decoders.image(PHOTO))


def test_too_much_memory_costs_one_row(pool: Callable[..., Decoders]) -> None:
    """A picture within the limit of pixels that does not fit is told so, in words that name the limit."""
    decoders = pool(memory_bytes=64 * 2**20)
    large = encoded(Image.new("RGB", (7_000, 7_000)), "PNG")

    outcomes = [decoders.image(large), frames(decoders, wide_gif(7_000, 7_000)), decoders.image(PHOTO)]

    assert [code_of(outcome) for outcome in outcomes] == [FailureCode.DECODE_MEMORY, FailureCode.DECODE_MEMORY, None]
    assert "67108864 bytes" in outcomes[0].message
    assert is_photo(outcomes[2])


def test_a_file_that_does_not_fit_itself_is_out_of_memory(pool: Callable[..., Decoders]) -> None:
    """A decoder that cannot even take in the bytes says so, and does not merely die."""
    decoders = pool(memory_bytes=32 * 2**20)

    assert code_of(decoders.image(bytes(64 * 2**20))) is FailureCode.DECODE_MEMORY
    assert is_photo(decoders.image(PHOTO))


def test_many_media_leave_nothing_behind(pool: Callable[..., Decoders]) -> None:
    """After fifty films a decoder has the threads and, but for a little, the memory that it had after the first."""
    decoders = pool()
    media = [film(12), film(12, form="webm", codec="libvpx"), film(12, codec="libx264"), gif(5)]

    def ask() -> dict[str, int]:
        for data in media:
            assert not isinstance(frames(decoders, data), Failure)
            decoders.sound(data, rate=16_000)
        [pid] = decoder_pids_of(decoders)
        until(lambda: status_of(pid)["Threads"] == 1)
        return status_of(pid)

    first = ask()
    for _ in range(12):
        last = ask()

    assert last["VmSize"] - first["VmSize"] < 2_048  # KiB


def test_many_threads_share_few_processes(pool: Callable[..., Decoders]) -> None:
    """Sixteen threads that ask two processes each get their own medium's answer."""
    decoders = pool(2)
    before = set(decoder_pids())
    most = 0

    def ask(n: int) -> int:
        nonlocal most
        outcome = decoders.image(encoded(Image.new("RGB", (n + 1, 3)), "PNG"))
        most = max(most, len(set(decoder_pids()) - before)) if n % 20 == 0 else most
        assert isinstance(outcome, Image.Image)
        return outcome.width - 1

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, range(200)))

    assert found == list(range(200))
    assert most <= 2


def test_a_process_outlasts_the_thread_that_needed_it_first(pool: Callable[..., Decoders]) -> None:
    """The kernel ends a process with the thread that started it; threads come and go, decoders stay."""
    decoders = pool()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(decoders.image, PHOTO).result()
    [pid] = decoder_pids_of(decoders)

    outcomes = [ThreadPoolExecutor(1).submit(decoders.image, PHOTO).result() for _ in range(3)]

    assert all(is_photo(outcome) for outcome in outcomes)
    assert decoder_pids_of(decoders) == [pid]


def test_closing_ends_the_processes(pool: Callable[..., Decoders]) -> None:
    """Those at rest at once; nobody may ask any more, and who waits for a place is told so."""
    decoders = pool(2)
    decoders.image(PHOTO)
    [pid] = decoder_pids_of(decoders)

    decoders.close()
    decoders.close()

    assert not alive(pid)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="closed"):
            decoders.image(PHOTO)


def test_closing_waits_for_nobody(pool: Callable[..., Decoders]) -> None:
    """A medium that is being decoded is decoded to its end, and its process ends then; who waits is refused."""
    decoders = pool(1, timeout_s=1.5)
    before = set(decoder_pids())
    with ThreadPoolExecutor(2) as threads:
        busy = threads.submit(frames, decoders, slow_film())
        until(lambda: bool(set(decoder_pids()) - before))
        waiting = threads.submit(decoders.image, PHOTO)
        decoders.close()

        assert code_of(busy.result(timeout=60)) is FailureCode.DECODE_TIMEOUT
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(timeout=60)

    assert set(decoder_pids()) <= before


BUSY_PARENT = """
import os, sys, threading, time
from tests.bad_media import wide_gif
from tests.mill import children
from workers.decoders import DecodeLimits, Decoders
decoders = Decoders(count=2, limits=DecodeLimits(timeout_s=600))
first = threading.Thread(target=decoders.image, args=(b"x",)); first.start(); first.join()
slow = wide_gif(3000, 3000, frames=100000)
for _ in range(2):
    threading.Thread(target=lambda: decoders.film(slow, frames=8, fps=None, segment_s=None, frame_pixels=0)).start()
while len(children(os.getpid())) < 2: time.sleep(0.01)
print(*children(os.getpid()), flush=True)
sys.stdin.read()
"""


def test_no_decoder_outlives_its_parent() -> None:
    """A worker that is killed without a word takes its decoders along, also those at work."""
    parent = subprocess.Popen(
        [sys.executable, "-c", BUSY_PARENT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pids = [int(word) for word in parent.stdout.readline().split()]

    parent.kill()

    assert len(pids) == 2
    until(lambda: not any(alive(pid) for pid in pids))
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()


def test_a_decoder_knows_no_secret(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the worker are not in the environment of what reads hostile bytes."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-4711")
    monkeypatch.setenv("EMBEDMILL_REDIS", "redis://:canary-4711@host")
    fresh = Decoders(count=1, limits=DecodeLimits())
    fresh.image(PHOTO)
    [pid] = decoder_pids_of(fresh)

    given = json.dumps(environ_of_decoders())
    with_others = Path(f"/proc/{pid}/environ").read_bytes() if os.geteuid() == 0 else b""
    open_files = [str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir()] if with_others else []
    fresh.close()

    assert "canary-4711" not in given
    assert b"canary-4711" not in with_others
    assert all(name.startswith("pipe:") or name == "/dev/null" for name in open_files)


def test_a_decoder_loads_nothing_that_it_does_not_need() -> None:
    """No model library and no Parquet: less memory, less to attack, and a start within a moment."""
    script = "import sys, workers.decode_child as child; child.warm_up(); print(*sorted(sys.modules))"

    done = subprocess.run([sys.executable, "-c", script], env=environ_of_decoders(), capture_output=True, check=True)

    loaded = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert not loaded & {"torch", "pyarrow", "transformers", "sentence_transformers", "celery", "redis", "obstore"}


def test_disguised_playlists_open_nothing(decoders: Decoders, tmp_path: Path) -> None:
    """Whatever a medium names, on the disk or on the net, nobody comes to look: neither the file nor the listener."""
    canary = tmp_path / "canary.mp4"
    canary.write_bytes(film(3))
    os.utime(canary, (1, 1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/canary.mp4"
        for target in (str(canary), f"file://{canary}", url, url.replace("http", "tcp", 1)):
            media = {sample.name: sample.data or b"" for sample in playlists(target)} | containers_that_name(target)
            for name, data in media.items():
                outcome = frames(decoders, data)
                heard = decoders.sound(data, rate=16_000)
                assert isinstance(heard, Failure), name
                assert isinstance(outcome, Failure) or outcome[0].frames_in == 5, name
        with pytest.raises(BlockingIOError):
            listener.accept()

    assert canary.stat().st_atime == 1


FUZZED: dict[str, Callable[[], bytes]] = {
    "mp4": lambda: film(8),
    "h264": lambda: film(8, codec="libx264", b_frames=2),
    "webm": lambda: film(8, form="webm", codec="libvpx"),
    "avi": lambda: film(8, form="avi", sound_rate=8_000),
    "gif": lambda: gif(4),
    "wav": lambda: sound(tone(8_000, 0.1), 8_000),
    "flac": lambda: sound(tone(8_000, 0.1), 8_000, "FLAC"),
    "mp3": lambda: sound(tone(16_000, 0.2), 16_000, "MP3"),
    "ogg": lambda: sound(tone(16_000, 0.1), 16_000, "OGG", "VORBIS"),
    "m4a": lambda: m4a(tone(16_000, 0.2), 16_000),
    "png": lambda: PHOTO,
    "jpg": lambda: encoded(photo(), "JPEG"),
    "webp": lambda: encoded(photo(), "WEBP"),
    "tiff": lambda: encoded(photo(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", FUZZED)
def test_flipped_bits_raise_nothing(decoders: Decoders, name: str) -> None:
    """Whatever is changed in a file, its row has an outcome, and no failure is of the jail's own making."""
    rng = random.Random(f"flips of {name}")  # the seed: a failure comes again
    whole = FUZZED[name]()
    for turn in range(40):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 4, 32))):
            data[rng.randrange(min(len(data), rng.choice((200, 10**6))))] = rng.randrange(256)
        if turn % 4 == 0:
            del data[rng.randrange(len(data)) :]

        outcomes = [
            frames(decoders, bytes(data)),
            decoders.sound(bytes(data), rate=16_000),
            decoders.image(bytes(data)),
        ]

        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        assert len(failures) >= 1, turn
        assert {failure.code for failure in failures} <= DECODE_CODES, (turn, failures)
        jails = ("ImportError", "ModuleNotFoundError", "AttributeError", "NameError", "TypeError")
        assert not [failure for failure in failures if any(word in failure.message for word in jails)], turn


def header(**told: object) -> bytes:
    return json.dumps({"arrays": [], **told}).encode()


PIXELS = {"shape": [2, 2, 3], "dtype": "uint8"}
NONSENSE: dict[str, tuple[str, bytes]] = {
    "no JSON": ("image", b"\xff\xfe"),
    "a list": ("image", b"[]"),
    "a number": ("image", b"1"),
    "too deep": ("image", b"[" * 100_000),
    "no arrays": ("image", b"{}"),
    "arrays that are none": ("image", header(arrays=7)),
    "an array that is none": ("image", header(arrays=[None])),
    "another type": ("image", header(arrays=[PIXELS | {"dtype": "float64"}])),
    "a type that is none": ("image", header(arrays=[PIXELS | {"dtype": []}])),
    "too few axes": ("image", header(arrays=[PIXELS | {"shape": [2, 2]}])),
    "four channels": ("image", header(arrays=[PIXELS | {"shape": [2, 2, 4]}])),
    "nothing": ("image", header(arrays=[PIXELS | {"shape": [0, 2, 3]}])),
    "less than nothing": ("image", header(arrays=[PIXELS | {"shape": [-1, -2, 3]}])),
    "halves": ("image", header(arrays=[PIXELS | {"shape": [2.0, 2, 3]}])),
    "truth": ("image", header(arrays=[PIXELS | {"shape": [True, 2, 3]}])),
    "text": ("image", header(arrays=[PIXELS | {"shape": "223"}])),
    "too large": ("image", header(arrays=[PIXELS | {"shape": [2**20, 2**20, 3]}])),
    "beyond all numbers": ("image", header(arrays=[PIXELS | {"shape": [2**31 - 1] * 2 + [3]}])),
    "too many": ("image", header(arrays=[PIXELS | {"shape": [50, 100, 3]}] * 3)),
    "a sound for a picture": ("image", header(arrays=[{"shape": [4], "dtype": "float32"}])),
    "two pictures": ("image", header(arrays=[PIXELS] * 2)),
    "no picture": ("image", header()),
    "a failure that is none": ("image", header(failure=7)),
    "a failure of another stage": ("image", header(failure={"code": "text_empty", "message": "x"})),
    "a failure that blames the parent": ("image", header(failure={"code": "decode_timeout", "message": "x"})),
    "a failure without words": ("image", header(failure={"code": "decode_failed", "message": None})),
    "a sound of no length": ("sound", header(arrays=[{"shape": [4], "dtype": "float32"}])),
    "a sound of endless length": (
        "sound", header(arrays=[{"shape": [4], "dtype": "float32"}], seconds_in=float("inf"))),
    "a film without films": ("film", header(arrays=[])),
    "a film of no film": ("film", header(arrays=[], films=[])),
    "a film without its frames": ("film", header(arrays=[], films=[{}])),
    "a film of other times": (
        "film", header(arrays=[{"shape": [1, 2, 2, 3], "dtype": "uint8"}], films=[
            {"times_s": [0, 1], "fps": 1, "start_s": 0, "end_s": 1, "frames_in": 1, "seconds_in": 1}])),
    "a film of times that are none": (
        "film", header(arrays=[{"shape": [1, 2, 2, 3], "dtype": "uint8"}], films=[
            {"times_s": ["0"], "fps": 1, "start_s": 0, "end_s": 1, "frames_in": 1, "seconds_in": 1}])),
    "a film of endless frames": (
        "film", header(arrays=[{"shape": [1, 2, 2, 3], "dtype": "uint8"}], films=[
            {"times_s": [0], "fps": 1, "start_s": 0, "end_s": 1, "frames_in": float("inf"), "seconds_in": 1}])),
    "a film before its beginning": (
        "film", header(arrays=[{"shape": [1, 2, 2, 3], "dtype": "uint8"}], films=[
            {"times_s": [0], "fps": 1, "start_s": -1, "end_s": 1, "frames_in": 1, "seconds_in": 1}])),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_not_believed(name: str) -> None:
    """A decoder that a medium has taken over may say anything; nothing of it is taken at its word."""
    kind, said = NONSENSE[name]

    with pytest.raises(NotBelieved):
        believed(kind, said)


def believed(kind: str, said: bytes) -> Outcome:
    """What the parent makes of a reply and arrays as they were announced."""
    reply = Reply.parse(said, kind, 30_000)
    arrays = [np.zeros(array.shape, array.dtype) for array in reply.arrays]
    if reply.failure is not None:
        return reply.failure
    if kind == "sound":
        return sound_of(reply, arrays, rate=16_000)
    return image_of(reply, arrays) if kind == "image" else films_of(reply, arrays)


def test_samples_that_are_none_are_not_believed() -> None:
    """NaN does not get past the parent, whatever the decoder says."""
    reply = Reply.parse(header(arrays=[{"shape": [2], "dtype": "float32"}], seconds_in=1), "sound", 100)

    with pytest.raises(NotBelieved):
        sound_of(reply, [np.array([0, np.nan], np.float32)], rate=16_000)


def test_a_failures_words_are_made_safe() -> None:
    """A message is one line, and no longer than a message may be."""
    reply = Reply.parse(header(failure={"code": "decode_failed", "message": "a\n\x1b[31m" + "b" * 10_000}), "image", 1)

    assert reply.failure is not None
    assert reply.failure.stage is Stage.DECODE
    assert reply.failure.message.startswith("a\\x0a\\x1b[31mbbb")
    assert len(reply.failure.message) <= 512


def decoder_pids_of(decoders: Decoders) -> list[int]:
    """The processes at rest; a look inside, for there is no other way to tell them from another pool's."""
    idle = list(decoders._idle.queue)
    return [process.pid for process in idle if process is not None]


def status_of(pid: int) -> dict[str, int]:
    """What the kernel says of a process, as far as it is numbers."""
    pairs = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(told.split()[0]) for name, told in pairs if told.split()[:1] and told.split()[0].isdigit()}


def jailed(pid: int) -> bool:
    """Whether a process has locked itself in: it has then begun to read what it is asked."""
    try:
        return status_of(pid)["Seccomp"] == 2
    except OSError:
        return False
