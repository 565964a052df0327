"""Accuracy of a detector trained with default settings: YOLO11n from scratch on BCCD, with several seeds.

    NETBUILD_DATA=/path/with/bccd python benchmarks/bccd.py runs/bccd        # about 20 minutes per seed on one core

Trains at 320 px for 40 epochs with batch 16 on the CPU. The checkpoint with the best fitness on val is measured on val
and test by the COCO API (rect, confidence 0.001, IoU 0.7, at most 300 boxes per picture). Finished runs are not
repeated, and interrupted runs are resumed. `benchmarks/README.md` has the results.
"""

import csv
import os
import sys
from pathlib import Path

from heads import BOXES, SOURCES, Row, measure, train_netbuild

SEEDS = [int(seed) for seed in os.environ.get("NETBUILD_SEEDS", "0,1,2").split(",")]
DATA = SOURCES / "bccd" / "data.yaml"
ROW = Row("yolo11n.yaml", "bccd", 320, 40, BOXES)


def main(out: Path) -> None:
    print("| seed | val mAP50 / mAP50-95 | test mAP50 / mAP50-95 | best epoch |\n|---|---|---|---|")
    table = []
    for seed in SEEDS:
        folder = out / f"seed{seed}"
        checkpoint = train_netbuild(ROW, DATA, folder, seed)
        found = [measure(ROW, checkpoint, DATA, split) for split in ("val", "test")]
        row = [measures[key] for measures in found for key in ("mAP50", "mAP50-95")]
        table.append(row)
        print(
            f"| {seed} | {row[0]:.3f} / {row[1]:.3f} | {row[2]:.3f} / {row[3]:.3f} | {best_epoch(folder)} |", flush=True
        )
    mean = [sum(column) / len(column) for column in zip(*table, strict=True)]
    print(f"| **mean** | {mean[0]:.3f} / {mean[1]:.3f} | {mean[2]:.3f} / {mean[3]:.3f} | |")


def best_epoch(folder: Path) -> str:
    with (folder / "results.csv").open(newline="") as file:
        return max(csv.DictReader(file), key=lambda row: float(row["fitness"]))["epoch"]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/bccd"))
