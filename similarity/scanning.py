"""Scanning: rows as a fast product takes them, and how far what it gives may be from the truth.

A row x is scanned as `values * scale`; what that leaves of x, |x - values * scale|, is measured and not guessed. For
two rows |x·y - x'·y'| <= |x - x'| |y| + |x'| |y - y'| (Cauchy and Schwarz), and the product x'·y' itself errs by no
more than `gamma` |x'| |y'|.
"""

from dataclasses import dataclass

import numpy as np
import torch

from schemas.join import Precision
from similarity.engine import Engine
from similarity.exact import ExactRows, tensor_of
from similarity.measure import ROUNDOFF

#: Scores are looked at by their greatest in so many: reading it costs a sixteenth of reading them.
CHUNK = 64
_INT8_MOST = 127
#: Norms are taken in float32; what they are called is this much more than what they are.
_NORM_SLACK = 1.0 + 2.0**-12


@dataclass(frozen=True, slots=True)
class ScannedRows:
    """Rows for a fast product, in groups that share a scale: one row each on the left, a chunk on the right."""

    values: torch.Tensor  # (n, dim), on the right n padded with zeros to whole chunks
    near: torch.Tensor  # float32 (n, dim), on the processor: the rows but for their scale, to look again
    scale: np.ndarray  # float64 (groups,): of `values`
    near_scale: np.ndarray  # float64 (groups,): of `near`
    length: np.ndarray  # float64 (groups,): of the longest row
    off: np.ndarray  # float64 (groups,): |x - values * scale|, at most
    near_off: np.ndarray  # float64 (groups,): |x - near * near_scale|, at most


def scanned(rows: ExactRows, count: int, dim: int, group: int, engine: Engine) -> ScannedRows:
    """`count` rows as `engine` multiplies them, in groups of `group`."""
    groups = -(-count // group)
    lengths = np.zeros(groups * group)
    lengths[:count] = rows.scan_lengths()
    length = lengths.reshape(groups, group).max(axis=1, initial=0.0)
    # Lengths near 1 by a power of two: nothing overflows, and nothing is rounded.
    near_scale = np.exp2(np.ceil(np.log2(np.where(length > 0, length, 1.0))))
    divisors = np.ones(groups * group)
    divisors[:count] = rows.divisors(slice(None))
    divisors *= np.repeat(near_scale, group)
    near = torch.zeros(groups * group, dim)
    for at in range(0, count, 512):
        some = slice(at, min(count, at + 512))
        near[some] = _divided(rows.unscaled(some), divisors[some, None])
    near_off = 2 * ROUNDOFF * length
    values, scale, off = _in_precision(near, group, engine.precision)
    return ScannedRows(
        values=values.to(engine.device),
        near=near,
        scale=scale * near_scale,
        near_scale=near_scale,
        length=length,
        off=off * near_scale + near_off,
        near_off=near_off,
    )


def _divided(rows: np.ndarray, divisors: np.ndarray) -> torch.Tensor:
    return tensor_of(rows).to(torch.float64, copy=True).div_(torch.from_numpy(divisors))


def _in_precision(near: torch.Tensor, group: int, precision: Precision) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Values of the precision, the scale of each group, and by how much the group's rows are off, at most."""
    groups = len(near) // group
    ones = np.ones(groups)
    if precision is Precision.INT8:
        grouped = near.view(groups, -1)
        scale = torch.maximum(grouped.amax(1), -grouped.amin(1)) / _INT8_MOST
        scale[scale == 0] = 1.0
        spread = scale.repeat_interleave(group)[:, None]
        rounded = (near / spread).round_()
        values = rounded.to(torch.int8)
        return values, scale.double().numpy(), _off(near, rounded.mul_(spread), group)
    if precision is Precision.BF16:
        values = near.to(torch.bfloat16)
        return values, ones, _off(near, values.float(), group)
    if precision is Precision.TF32:  # rounded here, so that it does not matter how the device would
        values = ((near.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
        return values, ones, _off(near, values.clone(), group)
    return near, ones, np.zeros(groups)


def _off(near: torch.Tensor, values: torch.Tensor, group: int) -> np.ndarray:
    """float64 (groups,): the greatest distance of a row from its values, which are overwritten."""
    lengths = values.sub_(near).norm(dim=1).view(-1, group).amax(1)
    return np.asarray(lengths.double().numpy() * _NORM_SLACK + 4 * ROUNDOFF)


def gamma(precision: Precision, dim: int) -> float:
    """How far a product may be off, for each unit of the product of the lengths.

    Sums in float32: `dim` roundoffs in any order (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and
    four times as much on tensor cores, which cut off instead of rounding and align sums in blocks (Fasi et al. 2021,
    Numerical behavior of NVIDIA tensor cores). A product in bfloat16 is rounded to it at the end. Sums of int8 are
    exact; some roundoffs remain for what is done with them.
    """
    if precision is Precision.INT8:
        return 16 * ROUNDOFF
    rounding = (dim + 16) * ROUNDOFF
    if precision is Precision.FP32:
        return rounding
    return 4 * rounding + (2.0**-8 if precision is Precision.BF16 else 0.0)


def product_error(left: ScannedRows, right: ScannedRows, gamma: float) -> np.ndarray:
    """float64 (left, chunks of right): how far the product of two rows may be off."""
    one, other = left.length + left.off, right.length + right.off
    return np.asarray(np.outer(left.off, right.length) + np.outer(one, right.off) + gamma * np.outer(one, other))
