"""Restoration against the papers: super-resolution of Set5 learnt from T91, and denoising of BSD68 from Train400.

    NETBUILD_DATA=/path/with/sets python benchmarks/restoration.py runs/restoration [--rows srcnn-x3,espcn-x3] [--list]

NETBUILD_DATA is a folder with `restoration/T91`, `Set5`, `Train400`, `Set12` and `BSD68`. Each row of `ROWS` is one
network, trained on the CPU; OMP_NUM_THREADS (1 unless it is set) says on how many cores. A finished run is not repeated
and an interrupted one is resumed. `--list` prints the commands alone. `benchmarks/README.md` has the results.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(os.environ.get("NETBUILD_DATA", "data"))
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@dataclass(frozen=True)
class Row:
    """A network, the folders that it learns from and is measured on, its settings, and the PSNR to reach."""

    network: str
    train: str
    val: str
    epochs: int
    published: float
    settings: tuple[str, ...]
    params: tuple[str, ...] = ()
    measured: str = ""  # the folder that is measured at the end, if that is not ``val``


# Patches are turned by quarters as in the papers; an epoch has several thousand of them.
COMMON = ("schedule=cosine", "rot90=0.75", "lr_end=0.005", "warmup=0.5", "workers=0", "plots=false", "patience=0")
LARGE = (*COMMON, "patch=48", "patches=64", "batch=16")
SRCNN = (*LARGE, "lr=0.001")
ROWS = {
    "srcnn-x2": Row("srcnn.yaml", "T91", "Set5", 60, 36.66, SRCNN, ("zoom=2", "kernel=5")),
    "srcnn-x3": Row("srcnn.yaml", "T91", "Set5", 60, 32.75, SRCNN, ("zoom=3", "kernel=5")),
    "srcnn-x4": Row("srcnn.yaml", "T91", "Set5", 60, 30.49, SRCNN, ("zoom=4", "kernel=5")),
    "espcn-x3": Row("espcn.yaml", "T91", "Set5", 150, 32.55, (*COMMON, "patch=51", "patches=64", "batch=16")),
    # About an hour on two cores. All of BSD68 would take two minutes after each epoch.
    "dncnn-25": Row(
        "dncnn.yaml", "Train400", "Set12", 12, 29.23,
        (*COMMON, "patch=40", "patches=12", "batch=16", "lr=0.001"), ("sigma=25",), "BSD68",
    ),
}  # fmt: skip


def train_command(row: Row, data: Path, folder: Path) -> list[str]:
    """Return the words of the command that trains a row, or resumes its run."""
    command = [sys.executable, "-m", "netbuild", "train"]
    if (folder / "state.safetensors").is_file():
        return [*command, "--resume", str(folder)]
    words = [row.network, "--data", str(data), "--epochs", str(row.epochs), "--device", "cpu", "-o", str(folder)]
    settings = [word for setting in row.settings for word in ("-O", setting)]
    return [*command, *words, *settings, *(word for param in row.params for word in ("--set", param))]


def write_data(row: Row, folder: Path, val: str) -> Path:
    """Write the data file of a row that is validated on a folder, and return its path."""
    file = folder / f"{row.train}-{val}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    root = (SOURCES / "restoration").resolve()
    file.write_text(f"format: pictures\npath: {root}\ntrain: {row.train}\nval: {val}\n", encoding="utf-8")
    return file


def measure(checkpoint: Path, data: Path) -> dict[str, float]:
    """Return the measures of a checkpoint."""
    command = [sys.executable, "-m", "netbuild", "val", str(checkpoint), "--data", str(data), "--json"]
    done = subprocess.run([*command, "-O", "workers=0", "--device", "cpu"], env=ENV, capture_output=True, check=True)
    return json.loads(done.stdout)["measures"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/restoration"))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--list", action="store_true", help="print the commands alone")
    a = parser.parse_args()
    if not a.list:
        print("| row | baseline | PSNR / SSIM | published PSNR | epochs | minutes of this call |\n" + "|---" * 6 + "|")
    for name in a.rows.split(","):
        row, folder = ROWS[name], a.out / name
        data = write_data(row, a.out, row.val)
        command = train_command(row, data, folder)
        if a.list:
            print(" ".join(["netbuild", *command[3:]]))
            continue
        started = time.monotonic()
        if count_epochs(folder) < row.epochs:
            subprocess.run(command, env=ENV, check=True)
        minutes = (time.monotonic() - started) / 60
        m = measure(folder / "best.safetensors", write_data(row, a.out, row.measured or row.val))
        figures = f"{m['baseline-PSNR']:.2f} | {m['PSNR']:.2f} / {m['SSIM']:.4f} | {row.published:.2f}"
        print(f"| {name} | {figures} | {count_epochs(folder)} | {minutes:.0f} |", flush=True)


def count_epochs(folder: Path) -> int:
    """Return how many epochs of a run are finished."""
    if not (folder / "results.csv").is_file():
        return 0
    with (folder / "results.csv").open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


if __name__ == "__main__":
    main()
