"""Decoders: processes of their own that turn hostile bytes into pixels, frames and samples, and may be killed."""

import contextlib
import json
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage, one_line
from workers.content import Film, Sound

_LENGTH = struct.Struct("<I")
#: A header that a decoder may send; a film of 10^5 frames has their times in it.
_HEADER_LIMIT = 16 * 2**20
_CHUNK = 2**20
_START_S = 120.0
#: Seconds beyond the time limit that a decoder gets to send what it has.
_GRACE_S = 5.0


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
        self._limits = limits
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)  # a place for a process that is not started yet
        self._count = count
        self.jailed: bool | None = None  # None before the first process has started
        self._closed = threading.Event()

    def image(self, data: bytes) -> Image.Image | Failure:
        """The first frame of a picture, upright, on white, RGB."""
        told = self._ask({"kind": "image"}, data)
        if isinstance(told, Failure):
            return told
        [pixels] = told.arrays
        return Image.fromarray(pixels)

    def sound(self, data: bytes, *, rate: int) -> Sound | Failure:
        """The whole sound, mono float32 at `rate` Hz."""
        told = self._ask({"kind": "sound", "rate": rate}, data)
        if isinstance(told, Failure):
            return told
        [samples] = told.arrays
        return Sound(samples=samples, rate=rate, seconds_in=float(told.header["seconds_in"]))

    def film(
        self, data: bytes, *, frames: int, fps: float | None, segment_s: float | None, frame_pixels: int
    ) -> list[Film] | Failure:
        """Frames of a film: of the whole, or of each segment of `segment_s` seconds."""
        sampling = {"frames": frames, "fps": fps, "segment_s": segment_s, "frame_pixels": frame_pixels}
        told = self._ask({"kind": "film", "sampling": sampling}, data)
        if isinstance(told, Failure):
            return told
        return [
            Film(
                frames=pixels,
                times_s=tuple(map(float, film["times_s"])),
                fps=float(film["fps"]),
                start_s=float(film["start_s"]),
                end_s=float(film["end_s"]),
                frames_in=int(film["frames_in"]),
                seconds_in=float(film["seconds_in"]),
            )
            for film, pixels in zip(told.header["films"], told.arrays, strict=True)
        ]

    def close(self) -> None:
        """End the processes that are idle; those in work end with their medium."""
        self._closed.set()
        for _ in range(self._count):
            with contextlib.suppress(queue.Empty):
                child = self._idle.get_nowait()
                if child is not None:
                    child.kill()

    def _ask(self, header: dict[str, Any], data: bytes) -> "_Reply | Failure":
        names = ("max_pixels", "max_seconds", "max_decoded_bytes")
        limits = {name: value for name, value in asdict(self._limits).items() if name in names}
        limits["max_bytes"] = limits.pop("max_decoded_bytes")
        if header["kind"] == "image":
            limits = {"max_pixels": self._limits.max_pixels}
        child = self._idle.get()
        fresh = child is None
        try:
            child = child or self._started()
            outcome = child.ask({**header, "limits": limits}, data, self._limits)
            if isinstance(outcome, Failure) and not child.alive and not fresh and _may_be_anothers(outcome):
                # It may have died of what an earlier medium left behind: this one is tried in a new one.
                child = self._started()
                outcome = child.ask({**header, "limits": limits}, data, self._limits)
        finally:
            keep = child is not None and child.alive and not self._closed.is_set()
            if child is not None and not keep:
                child.kill()
            self._idle.put(child if keep else None)
        return outcome

    def _started(self) -> "_Child":
        child = _Child(self._limits.memory_bytes)
        self.jailed = child.jailed
        return child


@dataclass(frozen=True, slots=True)
class _Reply:
    header: dict[str, Any]
    arrays: list[np.ndarray]


def _may_be_anothers(failure: Failure) -> bool:
    return failure.code in (FailureCode.DECODE_MEMORY, FailureCode.DECODE_CRASHED)


class _Late(Exception):  # never leaves this file
    """The decoder took longer than it may."""


class _Gone(Exception):  # never leaves this file
    """The decoder has ended, or says what no decoder says."""


class _Child:
    """One decoder process."""

    def __init__(self, memory_bytes: int) -> None:
        self.alive = True
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-m", "workers.decode_child", str(memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environ(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as err:
            raise WorkerUnfit(f"no decoder can be started: {err.strerror}") from err
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        try:
            ready, _ = self._header(time.monotonic() + _START_S)
        except (_Late, _Gone) as err:
            self.kill()
            raise WorkerUnfit(f"a decoder does not start: {err or 'it says nothing'}; see `embedmill doctor`") from err
        self.jailed = bool(ready.get("jailed"))

    def ask(self, header: dict[str, Any], data: bytes, limits: DecodeLimits) -> _Reply | Failure:
        """Decode `data`; a process that hangs, dies or talks nonsense is killed, and `alive` is False."""
        deadline = time.monotonic() + limits.timeout_s
        try:
            head = json.dumps({**header, "bytes": len(data)}).encode()
            self._write(_LENGTH.pack(len(head)) + head, deadline)
            self._write(data, deadline)
            return self._answer(header["kind"], deadline, limits)
        except _Late:
            self.kill()
            return _failure(FailureCode.DECODE_TIMEOUT, f"not decoded within {limits.timeout_s:g} s")
        except _Gone as err:
            self.kill()
            return _failure(FailureCode.DECODE_CRASHED, str(err))

    def kill(self) -> None:
        """End the process now."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it was never given
                    pipe.close()

    def _answer(self, kind: str, deadline: float, limits: DecodeLimits) -> _Reply | Failure:
        told, shapes = self._header(deadline)
        if told.get("memory"):
            self.kill()  # what it holds of this medium, it may never give back
            message = f"decoding takes more than {limits.memory_bytes} bytes"
            return _failure(FailureCode.DECODE_MEMORY, message)
        if "failure" in told:
            return self._failure(told["failure"])
        checked = [_checked(kind, shape, limits) for shape in shapes]
        if sum(size for *_, size in checked) > max(limits.max_decoded_bytes, 3 * limits.max_pixels):
            raise _Gone("the decoder sent more than it may")
        arrays = [
            np.frombuffer(self._read(size, deadline + _GRACE_S), dtype).reshape(shape) for shape, dtype, size in checked
        ]
        return self._settled(kind, told, arrays)

    def _settled(self, kind: str, told: dict[str, Any], arrays: list[np.ndarray]) -> _Reply:
        """What was said, if it is what a decoder says: a hostile medium may have taken it over."""
        try:
            if kind == "film":
                sound = len(told["films"]) == len(arrays) > 0 and all(
                    len(film["times_s"]) == len(pixels) > 0
                    and all(float(film[name]) >= 0 for name in ("fps", "start_s", "end_s", "seconds_in", "frames_in"))
                    for film, pixels in zip(told["films"], arrays, strict=True)
                )
            else:
                sound = len(arrays) == 1 and (kind == "image" or bool(np.isfinite(arrays[0]).all()))
                sound = sound and (kind == "image" or float(told["seconds_in"]) >= 0)
        except (KeyError, TypeError, ValueError) as err:
            raise _Gone("the decoder said what no decoder says") from err
        if not sound:
            raise _Gone("the decoder said what no decoder says")
        return _Reply(told, arrays)

    def _failure(self, told: object) -> Failure:
        try:
            assert isinstance(told, dict)
            return _failure(FailureCode(told["code"]), str(told["message"]))
        except (AssertionError, KeyError, ValueError) as err:
            raise _Gone("the decoder said what no decoder says") from err

    def _header(self, deadline: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > _HEADER_LIMIT:
            raise _Gone("the decoder said what no decoder says")
        try:
            told = json.loads(self._read(length, deadline))
            return told, list(told["arrays"])
        except (ValueError, KeyError, TypeError) as err:
            raise _Gone("the decoder said what no decoder says") from err

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            _wait(select.POLLOUT, self._to, deadline)
            try:
                view = view[os.write(self._to, view[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as err:
                raise _Gone(self._end()) from err

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            _wait(select.POLLIN, self._from, deadline)
            try:
                count = os.readv(self._from, [view[:_CHUNK]])
            except BlockingIOError:
                continue
            if not count:
                raise _Gone(self._end())
            view = view[count:]
        return data

    def _end(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "the decoder closed its pipe"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"the decoder died of this medium ({signal.Signals(-code).name})"
        return f"the decoder died of this medium (exit code {code})"


def _wait(event: int, handle: int, deadline: float) -> None:
    """Until the pipe can be used; raises _Late at the deadline."""
    poll = select.poll()
    poll.register(handle, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _Late


def _checked(kind: str, told: object, limits: DecodeLimits) -> tuple[tuple[int, ...], str, int]:
    """Shape, type and bytes of an array that a decoder announces; raises _Gone for what it may not send."""
    dtype, axes = {"image": ("uint8", 3), "sound": ("float32", 1), "film": ("uint8", 4)}[kind]
    if not isinstance(told, dict) or told.get("dtype") != dtype:
        raise _Gone("the decoder sent an array of another type")
    shape = told.get("shape")
    whole = isinstance(shape, list) and len(shape) == axes and all(type(n) is int and 0 < n < 2**31 for n in shape)
    if not whole or not isinstance(shape, list) or (axes > 1 and shape[-1] != 3):
        raise _Gone("the decoder sent an array of another shape")
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if size > max(limits.max_decoded_bytes, 3 * limits.max_pixels):
        raise _Gone("the decoder sent more than it may")
    return tuple(shape), dtype, size


def _environ() -> dict[str, str]:
    """What a decoder needs to start, and no credentials; one thread for each library."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    packages = str(Path(__file__).parents[1])
    return {**kept, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def _failure(code: FailureCode, message: str) -> Failure:
    return Failure(code=code, stage=Stage.DECODE, message=one_line(message))
