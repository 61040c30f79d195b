"""Tiles: rows of a panel times columns of a block by torch, what stands out of them, and how far they may be off."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from similarity.exact import RATIO_FLOOR, Form
from similarity.rows import Rows

#: Columns whose largest score is looked at before the scores themselves.
CHUNK = 64
_UNIT = 2.0**-24  # half a step of float32 at 1
#: What rounding to fewer bits adds for each unit of length: two factors, and what bfloat16 makes of the result.
_ROUNDING = {"fp32": 0.0, "tf32": 2.05 * 2.0**-10, "bf16": 3.05 * 2.0**-8}
#: Beyond these lengths float32 would lose a dot product: such rows are scaled to unit length before the scan.
_LEAST, _MOST = 2.0**-20, 2.0**20


class Precision(StrEnum):
    """What the scan multiplies in; published scores are exact whatever it is."""

    FP32 = "fp32"
    TF32 = "tf32"  # float32 with 10 bits of mantissa: tensor cores of GPUs; elsewhere it is fp32
    BF16 = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a scan runs on; no answer depends on it."""

    threads: int = 1  # each computes tiles of its own with one thread of torch
    device: str = "cpu"
    precision: Precision = Precision.FP32
    tile_rows: int = 256
    tile_columns: int = 4096  # a tile's scores: 4 bytes * rows * columns for each thread


@dataclass(frozen=True, slots=True)
class PanelSide:
    """The left factor of tiles; a row's score is `scan * gain - shift`."""

    first: int
    vectors: torch.Tensor  # (n, dim)
    lengths: np.ndarray  # float64 (n,), of the scan vectors
    gain: np.ndarray  # float64 (n,), above zero
    shift: np.ndarray  # float64 (n,)
    offsets: torch.Tensor | None  # float32 (n, 1), for ratios


@dataclass(frozen=True, slots=True)
class BlockSide:
    """The right factor of tiles."""

    first: int
    count: int
    vectors: torch.Tensor  # (n padded to whole chunks, dim)
    bias: torch.Tensor | None  # added to each row of a tile
    offsets: torch.Tensor | None  # float32 (1, n padded), for ratios
    longest: float  # of the scan vectors
    most_bias: float
    least_offset: float


def panel_side(rows: Rows, form: Form, engine: Engine, *, biased: bool) -> PanelSide:
    """`rows` for the left of a scan, as they are where they can be: constants of a row do not change its order."""
    ones = np.ones(len(rows))
    scale = ones if rows.scale is None else rows.scale
    vectors, lengths, gain = rows.vectors, rows.norms, ones
    if form is Form.COSINE and biased:
        vectors, lengths = _scaled(rows, scale), scale
    elif form is not Form.DOT:
        if not (_LEAST <= lengths.min(initial=1) and lengths.max(initial=1) <= _MOST):
            vectors, lengths = _scaled(rows, ones), ones
        gain = (scale if form is Form.COSINE else ones) / lengths
    ratio = form is Form.RATIO
    return PanelSide(
        first=rows.first,
        vectors=_on_device(vectors, engine),
        lengths=lengths,
        gain=gain,
        shift=rows.offset if form is Form.COSINE and rows.offset is not None else np.zeros(len(rows)),
        offsets=_column(rows.offset, engine) if ratio else None,
    )


def block_side(rows: Rows, form: Form, engine: Engine) -> BlockSide:
    """`rows` for the right of a scan: of unit length times their scale, but for dot products."""
    scale = rows.norms if form is Form.DOT else np.ones(len(rows)) if rows.scale is None else rows.scale
    vectors = rows.vectors if form is Form.DOT else _scaled(rows, scale)
    padding = -len(rows) % CHUNK
    if padding:
        vectors = np.concatenate([vectors, np.zeros((padding, rows.dim), np.float32)])
    offset = rows.offset if rows.offset is not None else np.zeros(0)
    biased = form is Form.COSINE and rows.offset is not None
    ratio = form is Form.RATIO
    padded = np.concatenate([offset, np.zeros(padding)]).astype(np.float32)
    return BlockSide(
        first=rows.first,
        count=len(rows),
        vectors=_on_device(vectors, engine),
        bias=torch.from_numpy(-padded).to(engine.device, _dtype(engine)) if biased else None,
        offsets=torch.from_numpy(padded).to(engine.device)[None, :] if ratio else None,
        longest=float(scale.max(initial=0.0)),
        most_bias=float(np.abs(offset).max(initial=0.0)) if biased else 0.0,
        least_offset=float(offset.min()) if ratio else 0.0,
    )


def tile(panel: PanelSide, start: int, stop: int, block: BlockSide) -> torch.Tensor:
    """float32 (stop - start, columns in whole chunks): the scan scores; -inf in the padding."""
    left = panel.vectors[start:stop]
    if block.bias is not None:
        scores = torch.addmm(block.bias, left, block.vectors.T)
    else:
        scores = left @ block.vectors.T
    scores = scores.float()
    if block.offsets is not None:
        assert panel.offsets is not None
        scores /= (panel.offsets[start:stop] + block.offsets).mul_(0.5).clamp_(min=RATIO_FLOOR)
    if block.count < scores.shape[1]:
        scores[:, block.count :] = -torch.inf
    return scores


def hide_own(scores: torch.Tensor, first_row: int, first_column: int, *, below: bool = False) -> None:
    """-inf where a row meets itself, and with `below` where the column's number is lower than the row's."""
    rows, columns = scores.shape
    if first_column >= first_row + rows or (not below and first_column + columns <= first_row):
        return
    own = torch.arange(first_row, first_row + rows, device=scores.device)[:, None]
    other = torch.arange(first_column, first_column + columns, device=scores.device)[None, :]
    scores.masked_fill_(other <= own if below else other == own, -torch.inf)


def standing_out(scores: torch.Tensor, floors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and values, row by row, of the scores above their row's floor (n,); whole chunks are skipped."""
    chunks = scores.view(len(scores), -1, CHUNK)
    row, chunk = torch.nonzero(chunks.amax(2) > floors[:, None], as_tuple=True)
    values = chunks[row, chunk]
    hit, at = torch.nonzero(values > floors[row][:, None], as_tuple=True)
    return row[hit], chunk[hit] * CHUNK + at, values[hit, at]


def error_bound(
    panel: PanelSide, dim: int, form: Form, precision: Precision, *, longest: float, most_bias: float, least: float
) -> np.ndarray:
    """float64 (n,): how far a scan score of each row may be from the real one, at most.

    The bound of a sum of `dim` products in float32 in whatever order, (dim + c) u |x||y| (Higham, Accuracy and
    Stability of Numerical Algorithms, 3.1), with some units for the scaling of the factors.
    """
    factor = (dim + 16) * _UNIT * 1.01 + _ROUNDING[precision]
    if form is Form.RATIO:
        assert panel.offsets is not None
        offsets = panel.offsets[:, 0].double().cpu().numpy()
        divisor = np.maximum((offsets + least) * 0.5 - 4 * _UNIT, RATIO_FLOOR)
        return panel.lengths * longest / divisor * (factor + 8 * _UNIT / divisor)
    return factor * (panel.lengths * longest + most_bias)


def _scaled(rows: Rows, scale: np.ndarray) -> np.ndarray:
    factors = (scale / rows.norms)[:, None]
    out = np.empty(rows.vectors.shape, np.float32)
    np.multiply(rows.vectors, factors, out=out, casting="same_kind")
    return out


def _on_device(vectors: np.ndarray, engine: Engine) -> torch.Tensor:
    return torch.from_numpy(vectors).to(engine.device, _dtype(engine))


def _column(values: np.ndarray | None, engine: Engine) -> torch.Tensor:
    assert values is not None
    return torch.from_numpy(values.astype(np.float32)).to(engine.device)[:, None]


def _dtype(engine: Engine) -> torch.dtype:
    return torch.bfloat16 if engine.precision is Precision.BF16 else torch.float32
