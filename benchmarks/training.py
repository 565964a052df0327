"""Images per second in training, and in loading alone, and the memory for it, as ratios to a peer in the same run.

    NETBUILD_DATA=/path/with/sets NETBUILD_PEER=/path/to/python python benchmarks/training.py [detect segment ...]

The peer's Python has ultralytics installed and is run as a black box. Each task of `TASKS` is a network on pictures of
a data set, with default augmentation, batch 16, no worker processes, the same number of threads on both sides.
Training: whole epochs, with loading and without validation. Loading, of detection alone: one picture after the other
at 640 px, with a mosaic in each. Each side is a process that keeps running; the sides are timed in turn (A B A B ...),
so that a noisy machine disturbs both alike. Times are the CPU seconds of the process, because other processes change
them least. Prints medians of ratios, and the ratio of the largest resident memory of the two processes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

PAIRS = int(os.environ.get("NETBUILD_PAIRS", "7"))
PICTURES = int(os.environ.get("NETBUILD_PICTURES", "64"))
SOURCES = Path(os.environ.get("NETBUILD_DATA", "data")).absolute()
# Network, data set and side of the square input in pixels.
TASKS = {
    "detect": ("yolo11n.yaml", "bccd", 320),
    "segment": ("yolo11n-seg.yaml", "nuclei", 320),
    "pose": ("yolo11n-pose.yaml", "lsp", 256),
    "obb": ("yolo11n-obb.yaml", "ore-obb", 320),
    "semantic": ("yolo26n-sem.yaml", "camvid", 320),
    "queries": ("yolov8n-rtdetr.yaml", "bccd", 320),
}
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "YOLO_VERBOSE": "false"}
COMMON = """
import resource, sys, time
import torch
torch.set_num_threads({threads})
answers, sys.stdout = sys.stdout, sys.stderr  # a library may print to stdout
def timed(work):
    start = time.process_time()
    count = work()
    answer(count / (time.process_time() - start))
def answer(speed):
    print(speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=answers, flush=True)
"""
OURS = """
from pathlib import Path
from netbuild import settings, training
def trainer(size):
    chosen = settings.load(None, {{"imgsz": size, "epochs": 1000, "workers": 0, "plots": False, "device": "cpu"}})
    return training.start("{network}", "{data}", chosen, Path("{folder}") / f"run{{size}}")
learning, loading, epoch = trainer({imgsz}), None, 0
for line in sys.stdin:
    epoch += 1
    if line.strip() == "load":
        loading = loading or trainer(640)
        timed(lambda: sum(len(batch["images"]) for batch in loading.train.epoch(epoch)))
    else:
        timed(lambda: learning.train_epoch(epoch) and {count})
"""
# The training loop is the peer's own: its callbacks wait until an epoch is requested, and report its duration.
THEIRS = """
from ultralytics import RTDETR, YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
cv2_threads = __import__("cv2").setNumThreads({threads})
order = torch.Generator().manual_seed(0)
loading = None
def load():
    global loading
    if not loading:
        data = check_det_dataset("{data}")
        options = get_cfg(overrides={{"imgsz": 640}})
        loading = build_yolo_dataset(options, data["train"], 16, data, mode="train", stride=32)
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
    began = time.process_time()
def end(_):
    answer({count} / (time.process_time() - began))
model = RTDETR("{network}") if "rtdetr" in "{network}" else YOLO("{network}", verbose=False)
model.add_callback("on_train_epoch_start", start)
model.add_callback("on_train_epoch_end", end)
model.train(data="{data}", imgsz={imgsz}, epochs=1000, batch=16, workers=0, val=False, plots=False, save=False,
            device="cpu", project="{folder}", name="peer", amp=False, cos_lr=False, verbose=False)
"""


class Side:
    """A process that runs the work that is requested and reports images per second, and its memory in KiB."""

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

    def run(self, work: str) -> tuple[float, float]:
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"failed: {work}\n{self.log.read_text()[-2000:]}")
        speed, memory = map(float, answer.split())
        return speed, memory


def write_data(source: Path, folder: Path) -> Path:
    """Copy the first training pictures with their labels into a data set that both sides use; return its data file."""
    pictures = sorted((source / "images" / "train").iterdir())[:PICTURES]
    if len(pictures) < PICTURES:
        raise SystemExit(f"{source}: {len(pictures)} pictures are too few")
    # Copies, because a side may write its cache beside the data.
    for kind, suffix in (("images", None), ("labels", ".txt"), ("masks", ".png")):
        for picture in pictures:
            file = source / kind / "train" / picture.with_suffix(suffix or picture.suffix).name
            if file.is_file():
                (folder / kind / "train").mkdir(parents=True, exist_ok=True)
                (folder / kind / "train" / file.name).write_bytes(file.read_bytes())
    content = yaml.safe_load((source / "data.yaml").read_text())
    content |= {"path": str(folder), "train": "images/train", "val": "images/train"}
    (folder / "data.yaml").write_text(yaml.safe_dump({key: v for key, v in content.items() if key != "test"}))
    return folder / "data.yaml"


def compare(sides: list[Side], work: str, title: str) -> None:
    """Print the median ratio of images per second of two sides, and the ratio of their memory."""
    for side in sides:
        side.run(work)
    pairs = [[side.run(work) for side in sides] for _ in range(PAIRS)]
    ratio = statistics.median(a[0] / b[0] for a, b in pairs)
    (ours, memory), (theirs, their_memory) = (map(statistics.median, zip(*side)) for side in zip(*pairs))
    print(
        f"{title:<34} {ratio:5.2f}x   ({ours:.1f} / {theirs:.1f})   memory {memory / their_memory:.2f}x "
        f"({memory / 2**20:.2f} / {their_memory / 2**20:.2f} GiB)",
        flush=True,
    )


def measure(task: str, peer: str) -> None:
    network, data, imgsz = TASKS[task]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {
            "data": write_data(SOURCES / data, folder), "folder": folder, "count": PICTURES, "network": network,
            "threads": ENV["OMP_NUM_THREADS"], "imgsz": imgsz,
        }  # fmt: skip
        sides = [
            Side(python, (COMMON + code).format(**values), folder / f"{number}.log")
            for number, (python, code) in enumerate(((sys.executable, OURS), (peer, THEIRS)))
        ]
        compare(sides, "train", f"{task}: training at {imgsz} px")
        if task == "detect":
            compare(sides, "load", f"{task}: loading at 640 px, mosaic")
        for side in sides:
            side.process.kill()


def main() -> None:
    peer = os.environ.get("NETBUILD_PEER")
    if not peer:
        raise SystemExit("NETBUILD_PEER must name a Python that has the peer")
    print(f"{PAIRS} pairs, {PICTURES} pictures, {ENV['OMP_NUM_THREADS']} thread(s), netbuild / peer, images per second")
    for task in sys.argv[1:] or TASKS:
        measure(task, peer)


if __name__ == "__main__":
    main()
