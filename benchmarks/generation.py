"""Digits made by a DCGAN and by a diffusion model, judged by a LeNet-5 that has not seen them.

    NETBUILD_DATA=/path/with/mnist5k python benchmarks/generation.py runs/generation [judge|dcgan|ddpm ...]

Trains on mnist5k (4,000 digits of MNIST), at most 30 minutes each on the CPU, then makes 1,000 digits with each.
Wanted: a judge of at least 98.5 % on the test digits; at least 90 % of the made digits of which it is more than 0.9
sure, no class below 4 % or above 20 %; and for one of both a Fréchet distance to half of the test digits of at most 3
times that between the halves. Finished runs are not repeated, and interrupted runs are resumed.
"""

import json
import subprocess
import sys
from pathlib import Path

from heads import SOURCES

DATA = SOURCES / "mnist5k"
# Rotations, shifts and changes of size suit digits; a mirrored 2 is none.
LIKE_DIGITS = "-O flip_lr=0 -O crop=false -O policy=off -O erasing=0 -O degrees=10 -O translate=0.08 -O scale=0.1"
COMMON = "--device cpu -O minutes=30 -O patience=0"
RUNS = {
    "judge": f"lenet5-modern.yaml --epochs 150 --batch 64 --lr 0.003 {LIKE_DIGITS} {COMMON}",
    "dcgan": "dcgan-digits-generator.yaml --with discriminator=dcgan-digits-discriminator.yaml --epochs 120 --batch 32 "
    f"--lr 0.0004 -O schedule=constant {COMMON}",
    "ddpm": f"ddpm-digits.yaml --set w=32 --epochs 70 --batch 64 {COMMON}",
}
SAMPLED = {"dcgan": "", "ddpm": "--steps 50 --guidance 0.5"}


def run(*words: str) -> str:
    """Run netbuild and return what it prints on stdout."""
    command = [sys.executable, "-m", "netbuild", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(name: str, folder: Path) -> Path:
    """Train a network, or go on with it; return its best checkpoint."""
    finished = folder.with_suffix(".finished")
    if not finished.is_file():
        new = [*RUNS[name].split(), "--data", str(DATA), "-o", str(folder)]
        run("train", *(["--resume", str(folder)] if (folder / "state.safetensors").is_file() else new))
        finished.touch()
    return folder / "best.safetensors"


def main(out: Path, names: list[str]) -> None:
    """Train, make digits, judge them, and print a table."""
    judge = train("judge", out / "judge")
    found = json.loads(run("val", str(judge), "--data", str(DATA), "--split", "test", "--json"))
    print(f"judge: {found['measures']['top1']:.4f} of the test digits are right\n")
    print("| network | sure | as asked | least and most of a class | Fréchet distance | of the halves | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        best = train(name, out / name)
        words = f"-n 1000 --judge {judge} --data {DATA} -o {out / name}.png --json {SAMPLED[name]}".split()
        seen = json.loads(run("sample", str(best), *words))["judge"]
        shares = [one["share"] for one in seen["classes"]]
        print(
            f"| {name} | {seen['sure']:.1%} | {seen['as_asked']:.1%} | {min(shares):.1%}, {max(shares):.1%} | "
            f"{seen['frechet']:.3f} | {seen['frechet_real']:.3f} | {seen['frechet'] / seen['frechet_real']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/generation"), sys.argv[2:] or list(SAMPLED))
