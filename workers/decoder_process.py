"""A decoder process, as its parent sees it: asked over pipes, waited for as long as it may take, killed at will."""

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import WorkerUnfit
from workers.decoder_reply import Announced, NotBelieved, Reply

#: Exit code of a decoder that had no memory left.
NO_MEMORY = 12  # ENOMEM
_LENGTH = struct.Struct("<I")
#: A header that a decoder may send; a film of 10^5 frames has their times in it.
_HEADER_LIMIT = 16 * 2**20
_CHUNK = 2**20
_START_S = 120.0
#: Seconds beyond the time limit that a decoder gets to send what it has.
_GRACE_S = 5.0


class Late(Exception):  # never leaves the decoders
    """The decoder took longer than it may."""


class Gone(Exception):  # never leaves the decoders
    """The decoder has ended."""

    def __init__(self, message: str, *, memory: bool = False) -> None:
        super().__init__(message)
        self.memory = memory  # it had none left


class DecoderProcess:
    """One decoder; after Late, Gone or NotBelieved it is of no more use."""

    def __init__(self, memory_bytes: int) -> None:
        """Start it. It ends with the thread that calls this, at the latest: it asks the kernel to see to that."""
        self.alive, self.jailed = True, False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", "workers.decode_child", str(memory_bytes), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ_of_decoders(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as err:
            raise WorkerUnfit(f"no decoder can be started: {err.strerror}") from err
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError, AttributeError):  # of Linux, and as far as it allows: fewer, longer reads
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Until it has locked itself in; raises WorkerUnfit."""
        try:
            ready = json.loads(self._header(time.monotonic() + _START_S))
            self.jailed = ready["jailed"] is True
        except (Late, Gone, NotBelieved, ValueError, KeyError, TypeError) as err:
            self.kill()
            raise WorkerUnfit(f"a decoder does not start: {err or 'it says nothing'}; see `embedmill doctor`") from err

    def ask(
        self, request: dict[str, Any], data: bytes, timeout_s: float, parse: Callable[[bytearray], Reply]
    ) -> tuple[Reply, list[np.ndarray]]:
        """What it makes of `data`; raises Late, Gone or NotBelieved."""
        deadline = time.monotonic() + timeout_s
        head = json.dumps({**request, "bytes": len(data)}).encode()
        self._write(_LENGTH.pack(len(head)) + head, deadline)
        self._write(data, deadline)
        reply = parse(self._header(deadline))
        return reply, [self._array(array, deadline + _GRACE_S) for array in reply.arrays]

    def kill(self) -> None:
        """End it now."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it was never given
                pipe.close()

    def _header(self, deadline: float) -> bytearray:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > _HEADER_LIMIT:
            raise NotBelieved("the decoder said what no decoder says")
        return self._read(length, deadline)

    def _array(self, announced: Announced, deadline: float) -> np.ndarray:
        array = np.empty(announced.shape, announced.dtype)  # unlike a bytearray, not filled in vain
        self._fill(array.reshape(-1).view(np.uint8).data, deadline)
        return array

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._to, view[:_CHUNK]) :]
            except BlockingIOError:
                _wait(select.POLLOUT, self._to, deadline)
            except BrokenPipeError as err:
                raise self._gone() from err

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data), deadline)
        return data

    def _fill(self, view: memoryview, deadline: float) -> None:
        while view:
            _wait(select.POLLIN, self._from, deadline)
            try:
                count = os.readv(self._from, [view[:_CHUNK]])
            except BlockingIOError:
                continue
            if not count:
                raise self._gone()
            view = view[count:]

    def _gone(self) -> Gone:
        """How the process ended, in words."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return Gone("the decoder closed its pipe")
        if code < 0:
            with contextlib.suppress(ValueError):
                return Gone(f"the decoder died of this medium ({signal.Signals(-code).name})")
        return Gone(f"the decoder died of this medium (exit code {code})", memory=code == NO_MEMORY)


def environ_of_decoders() -> dict[str, str]:
    """What a decoder needs to start, and no credentials; one thread for each library."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    packages = str(Path(__file__).parents[1])
    return {**kept, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def _wait(event: int, handle: int, deadline: float) -> None:
    """Until the pipe can be used; raises Late at the deadline."""
    poll = select.poll()
    poll.register(handle, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise Late
