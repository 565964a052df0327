"""Seeded pictures of objects and detections in COCO's format, with boxes, masks and keypoints; needs numpy alone.

Run as a program beside pycocotools (``python coco_scenes.py > coco_figures.json``) it prints the figures of COCO's
own evaluation of them, which tests hold our metrics to.
"""

import json
import random
from math import cos, sin, tau

import numpy as np

SIZE = (240, 320)  # height and width of each picture
NAMES = ["a", "b", "c"]
POINTS = 17


def draw(polygon, size=SIZE):
    """The mask (H, W) of the pixels whose centres a polygon (K, 2) encloses."""
    mask = np.zeros(size, bool)
    x = np.arange(size[1]) + 0.5
    for row in range(size[0]):
        y = row + 0.5
        for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]]):
            if (y1 <= y) != (y2 <= y):
                mask[row] ^= x > x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return mask


def encode(mask):
    """The run lengths of a mask, column by column, outside first."""
    values = np.concatenate(([0], mask.T.ravel().astype(int)))
    ends = np.flatnonzero(np.diff(values))
    counts = np.diff(ends, prepend=0, append=mask.size).tolist()
    return {"size": list(mask.shape), "counts": counts}


def box_of(polygon):
    (x1, y1), (x2, y2) = (
        tuple(side(point[axis] for point in polygon) for axis in range(2)) for side in (min, max)
    )  # fmt: skip
    return [x1, y1, x2 - x1, y2 - y1]


def make_star(rng):
    """A star of 9 vertices, its centre and radius."""
    height, width = SIZE
    radius = 6 * 14 ** rng.random()
    x, y = (radius + rng.random() * (side - 2 * radius) for side in (width, height))
    reach = [radius * (0.5 + 0.5 * rng.random()) for _ in range(9)]
    star = [(x + r * cos(tau * i / 9), y + r * sin(tau * i / 9)) for i, r in enumerate(reach)]
    return star, (x, y), radius


def make_scenes(pictures=14, seed=0):
    """COCO's data set, and the detections; each object has box, polygon and keypoints, each detection a mask's runs."""
    rng = random.Random(seed)

    def move(points, sigma):
        return [(x + rng.gauss(0, sigma), y + rng.gauss(0, sigma)) for x, y in points]

    objects, found = [], []
    for picture in range(pictures):
        for _ in range(rng.randrange(11)):
            star, (x, y), radius = make_star(rng)
            points = move([(x, y)] * POINTS, radius / 2)
            kind, crowd = rng.randrange(3), int(rng.random() < 0.08)
            seen = [0] * POINTS if rng.random() < 0.1 else [rng.randrange(3) for _ in range(POINTS)]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": picture,
                    "category_id": kind,
                    "iscrowd": crowd,
                    "bbox": box_of(star),
                    "segmentation": [[value for vertex in star for value in vertex]],
                    "keypoints": [v for (px, py), s in zip(points, seen) for v in (px, py, s)],
                    "num_keypoints": sum(s > 0 for s in seen),
                }
            )
            for _ in range(rng.randrange(1, 4)):
                noise = radius * 0.12 * rng.random()
                offset = rng.gauss(0, noise), rng.gauss(0, noise)
                moved = [(px + offset[0], py + offset[1]) for px, py in move(star, noise / 2)]
                kind_found = kind if rng.random() < 0.85 else rng.randrange(3)
                found.append((picture, kind_found, moved, move(points, noise), rng.randrange(1, 60) / 60))
        for _ in range(rng.randrange(4)):  # found where nothing is
            star, centre, radius = make_star(rng)
            found.append(
                (picture, rng.randrange(3), star, move([centre] * POINTS, radius / 2), rng.randrange(1, 40) / 60)
            )
    detections = [
        {
            "image_id": picture,
            "category_id": kind,
            "score": score,
            "bbox": box_of(star),
            "segmentation": encode(draw(star)),
            "keypoints": [v for px, py in points for v in (px, py, 1)],
        }
        for picture, kind, star, points, score in found
    ]
    height, width = SIZE
    images = [{"id": i, "height": height, "width": width} for i in range(pictures)]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    return {"info": {}, "images": images, "categories": categories, "annotations": objects}, detections


def main():
    from pycocotools import mask as tools
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data, detections = make_scenes()
    height, width = SIZE
    for one in detections:
        one["segmentation"] = tools.frPyObjects(one["segmentation"], height, width)
    figures = {}
    for name, kind, key in (("box", "bbox", "bbox"), ("mask", "segm", "segmentation"), ("keypoints",) * 3):
        truth = COCO()
        objects = [dict(one) for one in data["annotations"]]
        for one in objects:
            area = one["bbox"][2] * one["bbox"][3]
            runs = tools.merge(tools.frPyObjects(one["segmentation"], height, width))
            one["area"] = {"box": area, "mask": float(tools.area(runs)), "keypoints": 0.53 * area}[name]
        truth.dataset = {**data, "annotations": objects}
        truth.createIndex()
        parts = ("image_id", "category_id", "score", key)
        evaluation = COCOeval(truth, truth.loadRes([{part: one[part] for part in parts} for one in detections]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        per_class = evaluation.eval["precision"][..., 0, -1].mean((0, 1))
        figures[name] = {"stats": evaluation.stats.tolist(), "AP50-95": per_class.tolist()}
    return figures


if __name__ == "__main__":
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        printed = main()
    print(json.dumps(printed, indent=1))
