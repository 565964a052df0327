"""Sequence alignment: pair the items of two lists in order so that the total gain is largest, as `diff` pairs lines.

`align_in_order` keeps the order of both lists; `pair_unique` then pairs items that moved out of order.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import TypeVar

# The table grows with len(source) * len(target), in pure Python; beyond this size only equal items are aligned.
MAX_CELLS = 4_000_000
T = TypeVar("T")


def align_in_order(
    source: Sequence[T], target: Sequence[T], gain: Callable[[T, T], float], key: Callable[[T], Hashable]
) -> list[tuple[T, T]]:
    """Pair items without crossings so that the sum of gains is largest (Needleman and Wunsch, 1970).

    Args:
        source, target: the lists.
        gain: the value of pairing two items; 0 forbids the pair.
        key: equal for items that are equal; used alone when the lists exceed `MAX_CELLS`.
    """
    if len(source) * len(target) > MAX_CELLS:
        matcher = SequenceMatcher(None, [*map(key, source)], [*map(key, target)], autojunk=False)
        return [(source[b.a + i], target[b.b + i]) for b in matcher.get_matching_blocks() for i in range(b.size)]
    gains = [[gain(a, b) for b in target] for a in source]
    # best[i][j]: the largest total gain of aligning source[i:] with target[j:].
    best = [[0.0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i in reversed(range(len(source))):
        for j in reversed(range(len(target))):
            paired = best[i + 1][j + 1] + gains[i][j] if gains[i][j] else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    return [(source[i], target[j]) for i, j in _trace_pairs(gains, best)]


def _trace_pairs(gains: list[list[float]], best: list[list[float]]) -> Iterator[tuple[int, int]]:
    """Walk through the filled table from its start and yield the index pairs of one best alignment."""
    i = j = 0
    while i < len(best) - 1 and j < len(best[0]) - 1:
        if gains[i][j] and best[i][j] == best[i + 1][j + 1] + gains[i][j]:
            yield i, j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1


def pair_unique(source: Sequence[T], target: Sequence[T], key: Callable[[T], Hashable]) -> list[tuple[T, T]]:
    """Pair items whose key occurs exactly once in each list, in any order."""
    source_counts, target_counts = Counter(map(key, source)), Counter(map(key, target))
    unique = {key(item): item for item in source if source_counts[key(item)] == 1}
    return [(unique[key(item)], item) for item in target if key(item) in unique and target_counts[key(item)] == 1]
