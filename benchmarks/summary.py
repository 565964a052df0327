"""Time of `netbuild summary`, as ratios measured in one run: to `import torch`, per row, and to a peer.

    make bench
    NETBUILD_PEER=/path/to/python make bench     # a Python with ultralytics installed, run as a black box

Runs whole processes in turn (A B A B ...) and reads CPU time (user + system) and peak memory from the operating system.
Prints medians of ratios.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PAIRS = int(os.environ.get("NETBUILD_PAIRS", "9"))
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
PEER_TOTALS = """
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import model_info
model = DetectionModel("{name}", verbose=False)
model_info(model, detailed=False, verbose=True)
"""


@dataclass
class Run:
    """A finished process: CPU and wall time in seconds, peak memory in MB."""

    cpu: float
    wall: float
    peak: float


def run(command: list[str]) -> Run:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return Run(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024 / 1e6)


def compare(title: str, a: list[str], b: list[str]) -> None:
    run(a), run(b)  # fill the disk's cache
    pairs = [(run(a), run(b)) for _ in range(PAIRS)]
    cpu = statistics.median(x.cpu / y.cpu for x, y in pairs)
    wall = statistics.median(x.wall / y.wall for x, y in pairs)
    memory = statistics.median(x.peak - y.peak for x, y in pairs)
    seconds = statistics.median(x.wall for x, _ in pairs)
    print(f"{title:<58} cpu {cpu:5.2f}x  wall {wall:5.2f}x  memory {memory:+7.1f} MB  ({seconds:.2f} s)", flush=True)


def measure_rows(ours: list[str]) -> None:
    base = statistics.median(run([*ours, "lenet5.yaml", "--json"]).cpu for _ in range(3))
    for rows in (1_000, 10_000):
        text = "nc: 2\nbackbone:\n" + "  - [-1, 1, Conv, [16, 3, 1]]\n" * rows
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.yaml"
            path.write_text(text)
            seconds = statistics.median(run([*ours, str(path), "--imgsz", "64", "--json"]).cpu for _ in range(3)) - base
        print(
            f"{rows:>6} rows of Conv: {1e6 * seconds / rows:6.0f} us of CPU time per row, without start-up",
            flush=True,
        )


def main() -> None:
    python = sys.executable
    bare = [python, "-c", "import torch"]
    ours = [str(Path(python).with_name("netbuild")), "summary"]
    print(f"{PAIRS} pairs, {ENV['OMP_NUM_THREADS']} thread(s)")
    for name in ("yolo11n.yaml", "yolo11x.yaml"):
        compare(f"netbuild summary {name} / import torch", [*ours, name], bare)
    measure_rows(ours)
    peer = os.environ.get("NETBUILD_PEER")
    if not peer:
        print("NETBUILD_PEER is not set: no comparison with a peer")
        return
    for name in ("yolo11n.yaml", "yolo11x.yaml"):
        theirs = [peer, "-c", PEER_TOTALS.format(name=name)]
        compare(f"peer's totals of {name} / its import torch", theirs, [peer, "-c", "import torch"])
        compare(f"netbuild summary {name} / peer's totals", [*ours, name], theirs)


if __name__ == "__main__":
    main()
