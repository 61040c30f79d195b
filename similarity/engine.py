"""An engine: what a join computes on, and in how many bits; no answer depends on it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from schemas.errors import Refused
from schemas.join import Device, Precision

_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.INT8: torch.int32,  # what a product of int8 is
}
#: Rows of a tile of scores: 32 MiB of them on a processor, 256 MiB on a GPU.
TILE_LEFT, TILE_RIGHT = 2048, 4096
_GPU_TILE_LEFT, _GPU_TILE_RIGHT = 4096, 16_384
#: On a GPU more threads would only hold more tiles: they score again what the device has found.
_GPU_THREADS = 4
_PROBED = 256, 1024, 384


class _Scratch(threading.local):
    """The scores of the tile that a thread is at: memory taken from the system each time would cost too much."""

    def __init__(self) -> None:
        self.scores: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a scan runs on."""

    threads: int = 1  # each computes tiles of its own with one thread of torch
    device: str = "cpu"  # as torch names it
    precision: Precision = Precision.FP32
    tile_left: int = TILE_LEFT
    tile_right: int = TILE_RIGHT
    _scratch: _Scratch = field(default_factory=_Scratch, repr=False, compare=False)

    @contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads for tiles; torch's settings, which are those of the process, are as before when they end."""
        before, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
        reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
        torch.set_num_threads(1)  # two threads of one each beat one of two: docs/joins.md
        torch.backends.cuda.matmul.allow_tf32 = self.precision is Precision.TF32
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # partial sums stay in float32
        try:  # a thread that computes starts with threads of its own unless it is told not to
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(before)
            torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced

    def products(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """(left, right): the products of rows; the tensor is this thread's, until it asks again."""
        shape, dtype = (len(left), len(right)), _DTYPES[self.precision]
        scratch = self._scratch.scores
        if scratch is None or len(scratch) < shape[0] * shape[1] or scratch.dtype != dtype:
            scratch = torch.empty(shape[0] * shape[1], dtype=dtype, device=self.device)
            self._scratch.scores = scratch
        out = scratch[: shape[0] * shape[1]].view(shape)
        if self.precision is Precision.INT8:
            return torch._int_mm(left, right.T, out=out)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]
        return torch.mm(left, right.T, out=out)


def engine_for(device: Device, precision: Precision, threads: int) -> Engine:
    """The engine that the user asked for, or the fastest there is.

    Raises Refused where the device, or the precision on it, is not to be had.
    """
    has_gpu = torch.cuda.is_available()
    if device is Device.CUDA and not has_gpu:
        raise Refused("--device cuda: torch sees no CUDA device here; leave --device out, or see `embedmill doctor`")
    if device is Device.CPU or not has_gpu:
        return Engine(threads=threads, precision=_of_processor(precision))
    if precision is Precision.INT8:
        raise Refused("--precision int8 is for processors; on a GPU say tf32 or bf16")
    return Engine(
        threads=min(threads, _GPU_THREADS),
        device="cuda",
        precision=Precision.FP32 if precision is Precision.AUTO else precision,
        tile_left=_GPU_TILE_LEFT,
        tile_right=_GPU_TILE_RIGHT,
    )


def _of_processor(precision: Precision) -> Precision:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as a scan has it
    try:
        if precision is Precision.INT8 and not int8_is_exact():
            raise Refused("--precision int8: this processor's int8 products are not exact; leave --precision out")
        if precision is Precision.AUTO:
            return Precision.INT8 if int8_is_exact() and _int8_is_faster() else Precision.FP32
        return precision
    finally:
        torch.set_num_threads(before)


def int8_is_exact() -> bool:
    """Whether sums of the greatest products are right: processors without VNNI may saturate at 16 bits."""
    most = torch.full((64, 512), 127, dtype=torch.int8)
    signs = torch.ones(64, 512, dtype=torch.int8)
    signs[:, ::3] = -1
    one, other = most * signs, most * signs.flip(1)
    try:
        found = [torch._int_mm(x, y.T) for x in (most, one) for y in (most, one, other)]  # type: ignore[no-untyped-call, unused-ignore]
    except RuntimeError:  # this build of torch has none
        return False
    wide = [x.double() @ y.double().T for x in (most, one) for y in (most, one, other)]
    return all(torch.equal(f.double(), w) for f, w in zip(found, wide, strict=True))


def _int8_is_faster() -> bool:
    """Whether products of int8 take less than two thirds of the time of those of float32, here and now."""
    left, right, dim = _PROBED
    x, y = torch.rand(left, dim), torch.rand(right, dim)
    a, b = (x * 100).to(torch.int8), (y * 100).to(torch.int8)
    return 1.5 * _least_s(lambda: torch._int_mm(a, b.T)) < _least_s(lambda: x @ y.T)  # type: ignore[no-untyped-call, unused-ignore]


def _least_s(work: Callable[[], object]) -> float:
    took = []
    for _ in range(4):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return min(took)
