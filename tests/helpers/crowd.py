"""A crowd of boxes that walk, cross and hide each other: true tracks and what a detector might find, from a seed."""

from functools import cache

import numpy as np

WIDTH, HEIGHT = 1280, 720


@cache
def make_crowd(seed=0, frames=200, count=20, classes=1):
    """Return true rows (frame, id, left, top, width, height, 1, class) and detections (..., confidence, class)."""
    random = np.random.default_rng(seed)
    size = random.uniform((40, 90), (90, 200), (count, 2))
    place = random.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    speed = random.normal(0, 4, (count, 2))
    label = random.integers(1, classes + 1, count)
    truth, found = [], []
    for frame in range(1, frames + 1):
        speed += random.normal(0, 0.3, (count, 2))
        place = place + speed
        speed = np.where((place < 0) & (speed < 0) | (place > (WIDTH, HEIGHT)) & (speed > 0), -speed, speed)
        boxes = np.concatenate((place - size / 2, size), 1)
        order = np.argsort(place[:, 1] + size[:, 1] / 2)[::-1]  # the nearest first
        covered = cover(boxes)
        for rank, i in enumerate(order):
            box = boxes[i]
            seen = 1 - max(covered[i, order[:rank]], default=0)
            truth.append((frame, i + 1, *box.round(2), 1, label[i]))
            if seen > 0.2 and random.random() < 0.95:
                noisy = box + random.normal(0, 0.03, 4) * np.tile(size[i], 2)
                score = np.clip(0.15 + 0.8 * seen + random.normal(0, 0.08), 0.05, 0.99)
                found.append((frame, -1, *noisy.round(2), score.round(3), label[i]))
        for _ in range(random.poisson(0.5)):
            corner, sides = random.uniform((0, 0), (WIDTH, HEIGHT)), random.uniform((40, 90), (90, 200))
            score, wrong = np.float64(random.uniform(0.1, 0.8)), random.integers(1, classes + 1)
            found.append((frame, -1, *corner.round(2), *sides.round(2), score.round(3), wrong))
    return truth, found


def cover(boxes):
    """Return the share (N, N) of each box (left, top, width, height) that each box covers."""
    ends = boxes[:, :2] + boxes[:, 2:]
    sides = np.minimum(ends[:, None], ends) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    return np.maximum(sides, 0).prod(-1) / boxes[:, None, 2:].prod(-1)


def to_text(rows):
    """Return rows as a file of MOTChallenge without visibility."""
    return "".join(",".join(f"{value:g}" for value in row) + "\n" for row in rows)


def disturb(truth, seed=0):
    """Return tracks (frame, id, left, top, width, height, 1, -1, -1, -1) as a poor tracker might give for true rows."""
    random = np.random.default_rng(seed)
    found, number, following = [], 100, {}
    for frame, track, x, y, w, h, *_ in truth:
        if frame % 37 == 0 or random.random() < 0.1:  # some frames without any track
            continue
        if track not in following or random.random() < 0.02:
            number += 1
            following[track] = number
        if random.random() < 0.01:  # two tracks change places
            other = random.choice(list(following))
            following[track], following[other] = following[other], following[track]
        box = np.array([x, y, w, h]) + random.normal(0, 0.06, 4) * (w, h, w, h)
        found.append((frame, following[track], *box.round(2), 1, -1, -1, -1))
    last = {}
    for row in found:  # of two rows of one track in a frame the second stays
        last[row[:2]] = row
    wrong = [(frame, 9000 + frame // 5, 50, 50, 40, 90, 1, -1, -1, -1) for frame in range(1, 150)]
    return [*last.values(), *wrong]
