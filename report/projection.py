"""Projections: vectors as points of a plane."""

import importlib.util

import numpy as np


def pca(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of (n, dim) vectors: (n, 2), and the shares of the variance they hold.

    The sign of a component is that of its greatest weight, so that the same vectors give the same picture.
    """
    centred = (vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32)
    if len(centred) < 2:
        return np.zeros((len(centred), 2)), np.zeros(2)
    values, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    points = centred @ axes
    if points.shape[1] < 2:  # one dimension
        points = np.column_stack([points, np.zeros(len(points))])
    shares = np.clip(values[::-1][:2], 0, None) / max(float(np.clip(values, 0, None).sum()), 1e-12)
    return np.asarray(points), np.resize(shares, 2)


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None


def umap(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(n, 2) by UMAP with cosines (McInnes et al., 2018); umap-learn must be installed."""
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba and of the seed, which keeps it from using threads
        fitted = UMAP(n_neighbors=min(15, len(vectors) - 1), metric="cosine", random_state=seed).fit_transform(vectors)
    return np.asarray(fitted, np.float64)
