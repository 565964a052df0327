"""The Fréchet distance between two sets of features, arXiv 1706.08500, in double precision by numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def frechet_distance(first: Array, second: Array) -> float:
    """Return the squared Fréchet distance of the normal distributions with mean and covariance of two sets.

    It is |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), and 0 for equal sets.

    Args:
        first, second: (N, D) features, at least two of each.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    gap = a.mean(0) - b.mean(0)
    one, two = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (a, b))
    # The product's root has the trace of the symmetric (C1^(1/2) C2 C1^(1/2))^(1/2), whose eigenvalues are real.
    root = square_root(one)
    middle = np.linalg.eigvalsh(root @ two @ root).clip(0)
    return float(max(gap @ gap + np.trace(one) + np.trace(two) - 2 * np.sqrt(middle).sum(), 0.0))


def square_root(matrix: Array) -> Array:
    """Return the square root of a symmetric matrix without negative eigenvalues, beside rounding."""
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
