"""Accuracy of each head trained from scratch with default settings, side by side with a peer.

    NETBUILD_DATA=/path/with/sets NETBUILD_PEER=/path/to/python python benchmarks/heads.py runs/heads
        [--rows nuclei,lsp] [--seeds 0,1,2] [--sides netbuild,peer]

Each row of `ROWS` is one network on one data set, trained on the CPU with batch 16. Both sides train on the same files,
and `netbuild val` measures both checkpoints: it reads the peer's `best.pt`. The peer's Python has ultralytics installed
and is run as a black box. Finished runs are not repeated and netbuild's interrupted runs are resumed, so the command
can be stopped and started again; `benchmarks/README.md` has the results.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import yaml
from PIL import Image

SOURCES = Path(os.environ.get("NETBUILD_DATA", "data"))
PEER = os.environ.get("NETBUILD_PEER")
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
TRAIN_PEER = """
import sys, ultralytics
network, data, imgsz, epochs, seed, out = sys.argv[1:]
build = ultralytics.RTDETR if "rtdetr" in network else ultralytics.YOLO
build(network).train(data=data, imgsz=int(imgsz), epochs=int(epochs), seed=int(seed), batch=16, workers=0, device="cpu",
                     project=out, name="peer", exist_ok=True, plots=False)
"""


@dataclass(frozen=True)
class Row:
    """One comparison: a network trained on a data set, and the measures that are compared."""

    network: str
    data: str
    imgsz: int
    epochs: int
    measures: tuple[str, ...]
    sides: tuple[str, ...] = ("netbuild", "peer")


BOXES = ("mAP50-95", "mAP50")
POINTS = (*BOXES, "pose-mAP50-95", "PCK", "point-error")
MAPS = ("mIoU", "pixel-accuracy")
DEPTHS = ("delta1", "abs-rel", "rmse")
SCENES = "scenes-depth"  # made here
ROWS = {
    "fly-pose": Row("yolo11n-pose.yaml", "fly-pose", 192, 100, POINTS),
    "ore-obb": Row("yolo11n-obb.yaml", "ore-obb", 320, 40, (*BOXES, "polygon-mAP50-95")),
    "nuclei": Row("yolo11n-seg.yaml", "nuclei", 320, 40, (*BOXES, "mask-mAP50-95", "mask-mAP50")),
    "camvid": Row("yolo26n-sem.yaml", "camvid", 320, 40, MAPS),
    "lsp": Row("yolo11n-pose.yaml", "lsp", 256, 40, POINTS),
    "camvid-unet": Row("unet.yaml", "camvid", 320, 40, MAPS, sides=("netbuild",)),
    "scenes-depth": Row("yolo26n-depth.yaml", SCENES, 160, 20, DEPTHS),
    "bccd-rtdetr": Row("yolov8n-rtdetr.yaml", "bccd", 320, 60, BOXES),
}


def copy_data(name: str, out: Path) -> Path:
    """Copy a data set, because a side may write its cache beside the data; return its data file."""
    folder = (out / "data" / name).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder / "data.yaml"
    if not file.is_file():
        write_scenes(folder) if name == SCENES else shutil.copytree(SOURCES / name, folder, dirs_exist_ok=True)
        content = yaml.safe_load(file.read_text())
        # The peer reads a relative path as one relative to the working directory.
        file.write_text(yaml.safe_dump({**content, "path": str(folder)}, sort_keys=False))
    return file


def write_scenes(folder: Path) -> None:
    """Write the embedded scenes with their depth as the peer reads it: an NPY file for each picture, and one class."""
    from netbuild.data.shapes.files import ALL, DEPTH_SCALE, write_sets

    with tempfile.TemporaryDirectory(dir=folder.parent) as whole:
        write_sets(Path(whole))
        shutil.copytree(Path(whole) / ALL / "images", folder / "images")
        for file in sorted((Path(whole) / ALL / "depth").rglob("*.png")):
            target = (folder / file.relative_to(Path(whole) / ALL)).with_suffix(".npy")
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, np.asarray(Image.open(file), np.float32) / DEPTH_SCALE)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [depth]\nnc: 1\ndepth: depth\n")


def train_netbuild(row: Row, data: Path, folder: Path, seed: int) -> Path:
    run = ["--resume", str(folder)]
    if not (folder / "run.json").is_file():
        size = ["--imgsz", str(row.imgsz), "--epochs", str(row.epochs), "--batch", "16"]
        run = [row.network, "--data", str(data), "--out", str(folder), *size, "--seed", str(seed), "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "netbuild", "train", *run], check=True, env=ENV, stdout=sys.stderr)
    return folder / "best.safetensors"


def train_peer(row: Row, data: Path, folder: Path, seed: int) -> Path:
    if not PEER:
        raise SystemExit("NETBUILD_PEER must name a Python that has the peer")
    values = [row.network, data, row.imgsz, row.epochs, seed, folder.absolute()]
    subprocess.run([PEER, "-c", TRAIN_PEER, *map(str, values)], check=True, env=ENV, stdout=sys.stderr)
    return folder / "peer" / "weights" / "best.pt"


TRAINERS: dict[str, Callable[[Row, Path, Path, int], Path]] = {"netbuild": train_netbuild, "peer": train_peer}


def measure(row: Row, checkpoint: Path, data: Path, split: str = "val") -> dict[str, float]:
    command = [sys.executable, "-m", "netbuild", "val", str(checkpoint), "--data", str(data), "--split", split]
    options = ["--imgsz", str(row.imgsz), "--device", "cpu", "--json"]
    done = subprocess.run([*command, *options], check=True, env=ENV, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)["measures"]  # type: ignore[no-any-return]


def run(name: str, side: str, seed: int, out: Path) -> dict[str, float]:
    """Train and measure one seed of one side, or read what an earlier call measured."""
    row, folder = ROWS[name], out / name / f"{side}{seed}"
    result = folder / "measures.json"
    if not result.is_file():
        data = copy_data(row.data, out)
        measures = measure(row, TRAINERS[side](row, data, folder, seed), data)
        result.write_text(json.dumps(measures, indent=1))
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def print_row(name: str, side: str, values: list[dict[str, float]]) -> None:
    cells = [f"{key} {mean(v[key] for v in values):.3f} ({', '.join(f'{v[key]:.3f}' for v in values)})"
             for key in ROWS[name].measures]  # fmt: skip
    print(f"| {name} | {side} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of each head beside a peer; see benchmarks/README.md.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/heads"))
    parser.add_argument("--rows", default=",".join(ROWS), help="names of ROWS, separated by commas")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sides", default="netbuild,peer")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in options.rows.split(","):
        for side in options.sides.split(","):
            if side in ROWS[name].sides:
                print_row(name, side, [run(name, side, seed, options.out) for seed in seeds])


if __name__ == "__main__":
    main()
