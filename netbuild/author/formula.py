"""A module's parameter count as a formula in its channels and repeats, fitted to samples and checked on others."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product

import numpy as np

CHANNELS = (64, 128, 192, 320)
REPEATS = (1, 2, 4)
HELD_OUT = ((256, 448, 3), (384, 128, 5), (512, 512, 2))  # samples (c1, c2, n) for the check, not used by the fit
MAX_DENOMINATOR = 64  # of coefficients, which are fractions: e=0.25 in both factors of a product gives sixteenths

Count = Callable[[int, int, int], int]  # from (c1, c2, n) to the number of parameters
_BASIS: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    ("c1*c1", lambda a, b: a * a),
    ("c1*c2", lambda a, b: a * b),
    ("c2*c2", lambda a, b: b * b),
    ("c1", lambda a, b: a),
    ("c2", lambda a, b: b),
    ("", lambda a, b: 1),
)


def fit_formula(count: Count, names: Sequence[str]) -> str | None:
    """Fit a parameter count by a polynomial of second degree in c1 and c2 and linear in n; None if it is none.

    Args:
        count: the number of parameters for given c1, c2 and n; its errors are passed on.
        names: the variables of the polynomial, among "c1", "c2" and "n".
    """
    terms = _select_terms(names)
    points = list(product(CHANNELS, CHANNELS if "c2" in names else (64,), REPEATS if "n" in names else (1,)))
    matrix = np.array([[value(*point) for _, value in terms] for point in points], dtype=float)
    counts = np.array([count(*point) for point in points], dtype=float)
    # Columns range from 1 to 320 * 320 * 4; without scaling the small coefficients would lose their precision.
    scale = np.abs(matrix).max(axis=0)
    found, *_ = np.linalg.lstsq(matrix / scale, counts, rcond=None)
    # Coefficients are fractions with small denominators, so rounding to these makes the fit exact.
    factors = [Fraction(float(x)).limit_denominator(MAX_DENOMINATOR) for x in found / scale]
    proof = [(c1, c2, n if "n" in names else 1) for c1, c2, n in HELD_OUT]
    if any(_evaluate(terms, factors, point) != count(*point) for point in (*points, *proof)):
        return None
    return _format_polynomial([(name, factor) for (name, _), factor in zip(terms, factors, strict=True) if factor])


def _select_terms(names: Sequence[str]) -> list[tuple[str, Callable[[int, int, int], int]]]:
    terms: list[tuple[str, Callable[[int, int, int], int]]] = []
    for name, value in _BASIS:
        if any(part and part not in names for part in name.split("*")):
            continue
        terms.append((name, lambda a, b, n, value=value: value(a, b)))  # type: ignore[misc]
        if "n" in names:
            terms.append((f"n*{name}".rstrip("*"), lambda a, b, n, value=value: n * value(a, b)))  # type: ignore[misc]
    return terms


def _evaluate(
    terms: Sequence[tuple[str, Callable[[int, int, int], int]]],
    factors: Sequence[Fraction],
    point: tuple[int, int, int],
) -> Fraction:
    return sum((factor * value(*point) for (_, value), factor in zip(terms, factors, strict=True)), Fraction())


def _format_polynomial(parts: Sequence[tuple[str, Fraction]]) -> str:
    text = ""
    for name, factor in parts:
        size = abs(factor)
        number = f"{float(size):g}" if float(size) == float(f"{float(size):g}") else str(size)
        term = name if size == 1 and name else f"{number}*{name}" if name else number
        text += (" - " if factor < 0 else " + ") + term
    return (
        text.removeprefix(" + ").replace(" - ", "-", 1) if text.startswith(" - ") else text.removeprefix(" + ") or "0"
    )
