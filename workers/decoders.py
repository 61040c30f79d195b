"""Decoders: processes of their own that turn hostile bytes into pixels, frames and samples, and may be killed."""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from schemas.failures import Failure, FailureCode, Stage, one_line
from workers.content import Film, Sound
from workers.decoder_process import DecoderProcess, Gone, Late
from workers.decoder_reply import NotBelieved, Reply, films_of, image_of, sound_of
from workers.shrinking import Shrink

_T = TypeVar("_T")
_Made = Callable[[Reply, list[np.ndarray]], _T]
_MAY_BE_ANOTHERS = (FailureCode.DECODE_MEMORY, FailureCode.DECODE_CRASHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one medium may cost."""

    max_pixels: int = 50_000_000  # of a picture, or of a film's frame as it is in the file
    max_seconds: float = 3600.0  # length of a sound or film
    max_decoded_bytes: int = 2**29  # of samples, or of frames
    timeout_s: float = 60.0  # wall time of one decode
    memory_bytes: int = 2**30  # that a decoder may take beyond what it starts with


class Decoders:
    """At most `count` processes, each with one medium at a time; any number of threads may ask."""

    def __init__(self, *, count: int, limits: DecodeLimits) -> None:
        self._limits, self._count = limits, count
        self._idle: queue.LifoQueue[DecoderProcess | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)  # a place for a process that is not started yet
        self.jailed: bool | None = None  # None before the first process has started
        self._closed = threading.Event()
        # A process dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG): threads that ask come and go.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoders")

    def image(self, data: bytes, *, shrink: Shrink | None = None) -> Image.Image | Failure:
        """The first frame of a picture, upright, on white, RGB; a large one at the size that `shrink` says."""
        return self._ask({"kind": "image", "shrink": asdict(shrink) if shrink else None}, data, image_of)

    def sound(self, data: bytes, *, rate: int) -> Sound | Failure:
        """The whole sound, mono float32 at `rate` Hz."""
        return self._ask({"kind": "sound", "rate": rate}, data, partial(sound_of, rate=rate))

    def film(
        self, data: bytes, *, frames: int, fps: float | None, segment_s: float | None, frame_pixels: int
    ) -> list[Film] | Failure:
        """Frames of a film: of the whole, or of each segment of `segment_s` seconds."""
        sampling = {"frames": frames, "fps": fps, "segment_s": segment_s, "frame_pixels": frame_pixels}
        return self._ask({"kind": "film", "sampling": sampling}, data, films_of)

    def close(self) -> None:
        """End the processes that are idle; those in work end with their medium. Nobody may ask from now on."""
        self._closed.set()
        places = self._vacated()
        for process in places:
            if process is not None:
                process.kill()
            self._idle.put(None)  # whoever waits for a place is told, and does not wait for ever
        if len(places) == self._count:
            self._starter.shutdown(wait=False)

    def _vacated(self) -> list[DecoderProcess | None]:
        places: list[DecoderProcess | None] = []
        with contextlib.suppress(queue.Empty):
            while len(places) < self._count:
                places.append(self._idle.get_nowait())
        return places

    def _ask(self, request: dict[str, Any], data: bytes, made: _Made[_T]) -> _T | Failure:
        place = self._idle.get()
        inherited = place is not None
        try:
            place = place or self._started()
            outcome = self._outcome(place, request, data, made)
            if inherited and isinstance(outcome, Failure) and outcome.code in _MAY_BE_ANOTHERS:
                # It may have died of what an earlier medium left behind: this one is tried in a new one.
                place = self._started()
                outcome = self._outcome(place, request, data, made)
            return outcome
        finally:
            self._idle.put(place if place is not None and place.alive else None)
            if self._closed.is_set():
                self.close()

    def _outcome(self, process: DecoderProcess, request: dict[str, Any], data: bytes, made: _Made[_T]) -> _T | Failure:
        """What becomes of `data`; a process that hangs, dies or talks nonsense is killed."""
        kind, limits = request["kind"], self._limits
        most = 3 * limits.max_pixels if kind == "image" else limits.max_decoded_bytes
        try:
            parse = partial(Reply.parse, kind=kind, max_bytes=most)
            reply, arrays = process.ask(request | {"limits": self._told(kind)}, data, limits.timeout_s, parse)
            return reply.failure or made(reply, arrays)
        except BaseException as err:
            process.kill()  # whatever it was: the next medium's answer must not begin with the rest of this one's
            if not isinstance(err, Late | Gone | NotBelieved):
                raise
            return self._failure(err)

    def _told(self, kind: str) -> dict[str, float]:
        """The limits that a decoder of `kind` keeps by itself."""
        limits = self._limits
        if kind == "image":
            return {"max_pixels": limits.max_pixels}
        return {
            "max_pixels": limits.max_pixels,
            "max_seconds": limits.max_seconds,
            "max_bytes": limits.max_decoded_bytes,
        }

    def _failure(self, err: Late | Gone | NotBelieved) -> Failure:
        if isinstance(err, Late):
            code, message = FailureCode.DECODE_TIMEOUT, f"not decoded within {self._limits.timeout_s:g} s"
        elif isinstance(err, Gone) and err.memory:
            code, message = FailureCode.DECODE_MEMORY, f"decoding takes more than {self._limits.memory_bytes} bytes"
        else:
            code, message = FailureCode.DECODE_CRASHED, str(err)
        return Failure(code=code, stage=Stage.DECODE, message=one_line(message))

    def _started(self) -> DecoderProcess:
        if self._closed.is_set():
            raise RuntimeError("the decoders are closed")
        process = self._starter.submit(DecoderProcess, self._limits.memory_bytes).result()
        process.wait_until_ready()
        self.jailed = process.jailed
        return process
