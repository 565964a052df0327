"""Time to build a network and to run it, as ratios to a peer measured in the same run.

    NETBUILD_PEER=/path/to/python python benchmarks/network.py     # a Python with ultralytics, run as a black box

Each side is a process that keeps running; the sides are timed in turn (A B A B ...), so that a noisy machine disturbs
both alike. Prints medians of ratios. Peak memory is measured in a new process for each task.
"""

import os
import statistics
import subprocess
import sys

PAIRS = int(os.environ.get("NETBUILD_PAIRS", "9"))
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "YOLO_VERBOSE": "false"}
TASKS = {
    "build yolo11x": "build('yolo11x.yaml')",
    "run yolo11n at 640, batch norms not merged": "run('plain')",
    "run yolo11n at 640, batch norms merged": "run('fused')",
}
COMMON = """
import resource, sys, time
import torch
torch.manual_seed(0)
nets = {{}}
def run(kind):
    if kind not in nets:
        net = build("yolo11n.yaml").eval()
        nets[kind] = net.fuse() if kind == "fused" else net
        with torch.no_grad():
            [nets[kind](x) for _ in range(3)]
    with torch.no_grad():
        nets[kind](x)
x = torch.rand(1, 3, 640, 640)
{build}
for line in sys.stdin:
    start = time.perf_counter()
    eval(line)
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, flush=True)
"""
OURS = COMMON.format(build="from netbuild import build")
THEIRS = COMMON.format(
    build="from ultralytics.nn.tasks import DetectionModel\ndef build(name): return DetectionModel(name, verbose=False)"
)


class Side:
    """A process that runs one task after the other and reports the duration of each."""

    def __init__(self, python: str, code: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENV,
            text=True,
        )

    def run(self, task: str) -> tuple[float, float]:
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if len(answer) != 2:
            raise SystemExit(f"failed: {task}")
        return float(answer[0]), float(answer[1])

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare_times(title: str, task: str, sides: tuple[Side, Side]) -> None:
    for side in sides:
        side.run(task)
    pairs = [[side.run(task)[0] for side in sides] for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    ours, theirs = (statistics.median(times) for times in zip(*pairs))
    print(f"{title:<46} {ratio:5.2f}x   ({1e3 * ours:.0f} ms / {1e3 * theirs:.0f} ms)", flush=True)


def compare_memory(title: str, task: str, pythons: tuple[str, str]) -> None:
    peaks = []
    for python, code in zip(pythons, (OURS, THEIRS)):
        side = Side(python, code)
        peaks.append(side.run(task)[1])
        side.stop()
    print(f"{title:<46} peak memory {peaks[0]:.0f} MB / {peaks[1]:.0f} MB", flush=True)


def main() -> None:
    peer = os.environ.get("NETBUILD_PEER")
    if not peer:
        raise SystemExit("NETBUILD_PEER must name a Python that has the peer")
    print(f"{PAIRS} pairs, {ENV['OMP_NUM_THREADS']} thread(s), netbuild / peer")
    sides = Side(sys.executable, OURS), Side(peer, THEIRS)
    for title, task in TASKS.items():
        compare_times(title, task, sides)
    for side in sides:
        side.stop()
    for title, task in TASKS.items():
        compare_memory(title, task, (sys.executable, peer))


if __name__ == "__main__":
    main()
