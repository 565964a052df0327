"""Images per second in training, and in loading alone, as ratios to a peer measured in the same run.

    NETBUILD_DATA=/path/with/bccd NETBUILD_PEER=/path/to/python python benchmarks/training.py

The peer's Python has ultralytics installed and is run as a black box. YOLO11n on pictures of BCCD, with default
augmentation and a mosaic in every picture, batch 16, no worker processes, the same number of threads on both sides.
Loading: one picture after the other at 640 px. Training: whole epochs at 320 px, with loading and without validation.
Each side is a process that keeps running; the sides are timed in turn (A B A B ...), so that a noisy machine disturbs
both alike. Prints medians of ratios.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PAIRS = int(os.environ.get("NETBUILD_PAIRS", "7"))
PICTURES = 64
DATA = (Path(os.environ.get("NETBUILD_DATA", "data")) / "bccd").absolute()
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "YOLO_VERBOSE": "false"}
COMMON = """
import sys, time
import torch
torch.set_num_threads({threads})
answers, sys.stdout = sys.stdout, sys.stderr  # a library may print to stdout
def timed(work):
    start = time.perf_counter()
    count = work()
    print(count / (time.perf_counter() - start), file=answers, flush=True)
"""
OURS = """
from pathlib import Path
from netbuild import settings, training
def trainer(size):
    chosen = settings.load(None, {{"imgsz": size, "epochs": 1000, "workers": 0, "plots": False, "device": "cpu"}})
    return training.start("yolo11n.yaml", "{data}", chosen, Path("{folder}") / f"run{{size}}")
loading, learning, epoch = trainer(640), trainer(320), 0
for line in sys.stdin:
    epoch += 1
    if line.strip() == "load":
        timed(lambda: sum(len(batch["images"]) for batch in loading.train.epoch(epoch)))
    else:
        timed(lambda: learning.one_epoch(epoch) and {count})
"""
# The training loop is the peer's own: its callbacks wait until an epoch is requested, and report its duration.
THEIRS = """
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
cv2_threads = __import__("cv2").setNumThreads({threads})
data = check_det_dataset("{data}")
loading = build_yolo_dataset(get_cfg(overrides={{"imgsz": 640}}), data["train"], 16, data, mode="train", stride=32)
order = torch.Generator().manual_seed(0)
def load():
    for start in range(0, {count}, 16):
        items = [loading[int(i)] for i in torch.randperm({count}, generator=order)[:16]]
        loading.collate_fn(items)
    return {count}
began = None
def start(_):
    global began
    for line in sys.stdin:
        if line.strip() != "load":
            break
        timed(load)
    else:
        __import__("os")._exit(0)
    began = time.perf_counter()
def end(_):
    print({count} / (time.perf_counter() - began), file=answers, flush=True)
model = YOLO("yolo11n.yaml", verbose=False)
model.add_callback("on_train_epoch_start", start)
model.add_callback("on_train_epoch_end", end)
model.train(data="{data}", imgsz=320, epochs=1000, batch=16, workers=0, val=False, plots=False, save=False,
            device="cpu", project="{folder}", name="peer", amp=False, cos_lr=False, verbose=False)
"""


class Side:
    """A process that runs the tasks that are requested and reports images per second."""

    def __init__(self, python: str, code: str, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [python, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            env=ENV,
            text=True,
        )

    def run(self, task: str) -> float:
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"failed: {task}\n{self.log.read_text()[-2000:]}")
        return float(answer)


def write_data(folder: Path) -> Path:
    """Copy the first pictures into a data set that both sides use; return its data file."""
    pictures = sorted((DATA / "images" / "train").iterdir())[:PICTURES]
    if len(pictures) < PICTURES:
        raise SystemExit(f"{DATA}: {len(pictures)} pictures are too few")
    # Copies, because a side may write its cache beside the data.
    for kind, suffix in (("images", None), ("labels", ".txt")):
        (folder / kind).mkdir()
        for picture in pictures:
            source = DATA / kind / "train" / picture.with_suffix(suffix or picture.suffix).name
            (folder / kind / source.name).write_bytes(source.read_bytes())
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [RBC, WBC, Platelets]\n")
    return file


def main() -> None:
    peer = os.environ.get("NETBUILD_PEER")
    if not peer:
        raise SystemExit("NETBUILD_PEER must name a Python that has the peer")
    print(f"{PAIRS} pairs, {PICTURES} pictures, {ENV['OMP_NUM_THREADS']} thread(s), netbuild / peer, images per second")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {"data": write_data(folder), "folder": folder, "count": PICTURES, "threads": ENV["OMP_NUM_THREADS"]}
        sides = [
            Side(python, (COMMON + code).format(**values), folder / f"{number}.log")
            for number, (python, code) in enumerate(((sys.executable, OURS), (peer, THEIRS)))
        ]
        for title, task in (("loading at 640 px, mosaic", "load"), ("training at 320 px", "train")):
            for side in sides:
                side.run(task)
            pairs = [[side.run(task) for side in sides] for _ in range(PAIRS)]
            ratio = statistics.median(a / b for a, b in pairs)
            ours, theirs = (statistics.median(figures) for figures in zip(*pairs))
            print(f"{title:<28} {ratio:5.2f}x   ({ours:.1f} / {theirs:.1f})", flush=True)
        for side in sides:
            side.process.kill()


if __name__ == "__main__":
    main()
