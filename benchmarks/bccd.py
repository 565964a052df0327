"""Accuracy of a detector trained with default settings: YOLO11n from scratch on BCCD, with several seeds.

    NETBUILD_DATA=/path/with/bccd python benchmarks/bccd.py runs/bccd        # about 20 minutes per seed on one core

Trains at 320 px for 40 epochs with batch 16 on the CPU. The checkpoint with the best fitness on val is measured on val
and test by the COCO API (rect, confidence 0.001, IoU 0.7, at most 300 boxes per picture). Finished runs are not
repeated, and interrupted runs are resumed. `benchmarks/README.md` has the results.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

SEEDS = [int(seed) for seed in os.environ.get("NETBUILD_SEEDS", "0,1,2").split(",")]
DATA = Path(os.environ.get("NETBUILD_DATA", "data")) / "bccd" / "data.yaml"
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
SIZE = ["--imgsz", "320"]


def netbuild(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "netbuild", *arguments], check=True, text=True, env=ENV, **options)  # type: ignore[call-overload, no-any-return]


def train(folder: Path, seed: int) -> None:
    run = ["--resume", str(folder)]
    if not (folder / "run.json").is_file():
        settings = ["--epochs", "40", "--batch", "16", "--device", "cpu", "--seed", str(seed), *SIZE]
        run = ["yolo11n.yaml", "--data", str(DATA), "--out", str(folder), *settings]
    netbuild("train", *run, stdout=sys.stderr)


def measure(folder: Path, split: str) -> dict[str, float]:
    done = netbuild(
        "val", str(folder / "best.safetensors"), "--data", str(DATA), "--split", split, *SIZE, "--device", "cpu",
        "--json", stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)["measures"]  # type: ignore[no-any-return]


def main(out: Path) -> None:
    print("| seed | val mAP50 / mAP50-95 | test mAP50 / mAP50-95 | best epoch |\n|---|---|---|---|")
    table = []
    for seed in SEEDS:
        folder = out / f"seed{seed}"
        train(folder, seed)
        row = [m[key] for m in (measure(folder, "val"), measure(folder, "test")) for key in ("mAP50", "mAP50-95")]
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
