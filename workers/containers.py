"""Containers: FFmpeg's demuxers, opened on bytes in memory, that can open nothing else."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av

from schemas.failures import Failure, FailureCode, Stage
from workers.media_formats import MediaFormat

#: Streams beyond these are no film that a person made.
_MOST_STREAMS = 64


class Undecodable(Exception):  # says more than an error: the row's own
    """The medium cannot be decoded, for a reason that is the row's."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(code=code, stage=Stage.DECODE, message=message)


@contextmanager
def opened(data: bytes, form: MediaFormat) -> Iterator[Any]:  # Any: PyAV's container is typed in part
    """The container in `data`; raises Undecodable for one that is broken, also for what is met inside the `with`."""
    try:
        # A film may name other files (data references, segments): whoever asks for one is refused.
        with av.open(
            io.BytesIO(data), mode="r", format=form.demuxer, options=_options(form), io_open=_refuse
        ) as container:
            if len(container.streams) > _MOST_STREAMS:
                raise Undecodable(FailureCode.DECODE_FAILED, f"{len(container.streams)} streams are too many")
            yield container
    except (av.FFmpegError, ValueError, OverflowError, IndexError, EOFError, OSError) as err:
        problem = f"the {form.demuxer} file is truncated or corrupt ({type(err).__name__})"
        raise Undecodable(FailureCode.DECODE_FAILED, problem) from err


def _options(form: MediaFormat) -> dict[str, str]:
    return {"enable_drefs": "0", "use_absolute_path": "0"} if form.demuxer == "mov" else {}


def _refuse(*_: object, **__: object) -> Any:
    raise PermissionError("a medium may open no other file")
