"""Two lists aligned as texts are when they are compared: in order, so that as much as possible is won by the pairs.

What moved out of order is found afterwards, among the items that are left.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import TypeVar

MAX_CELLS = 4_000_000  # of the table; beyond it items are aligned by equality alone
T = TypeVar("T")


def in_order(
    source: Sequence[T], target: Sequence[T], gain: Callable[[T, T], float], key: Callable[[T], Hashable]
) -> list[tuple[T, T]]:
    """Pairs in the order of both lists whose gains are the most in all (Needleman and Wunsch, 1970).

    Args:
        source, target: the lists.
        gain: what is won by a pair; 0 if it makes no sense.
        key: what equal items share.
    """
    if len(source) * len(target) > MAX_CELLS:
        matcher = SequenceMatcher(None, [*map(key, source)], [*map(key, target)], autojunk=False)
        return [(source[b.a + i], target[b.b + i]) for b in matcher.get_matching_blocks() for i in range(b.size)]
    gains = [[gain(a, b) for b in target] for a in source]
    best = [[0.0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i in reversed(range(len(source))):
        for j in reversed(range(len(target))):
            paired = best[i + 1][j + 1] + gains[i][j] if gains[i][j] else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    return [(source[i], target[j]) for i, j in _path(gains, best)]


def _path(gains: list[list[float]], best: list[list[float]]) -> Iterator[tuple[int, int]]:
    i = j = 0
    while i < len(best) - 1 and j < len(best[0]) - 1:
        if gains[i][j] and best[i][j] == best[i + 1][j + 1] + gains[i][j]:
            yield i, j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1


def moved(source: Sequence[T], target: Sequence[T], key: Callable[[T], Hashable]) -> list[tuple[T, T]]:
    """Items whose key occurs once in each list."""
    here, there = Counter(map(key, target)), Counter(map(key, source))
    found = {key(a): a for a in source if there[key(a)] == 1}
    return [(found[key(b)], b) for b in target if key(b) in found and here[key(b)] == 1]
