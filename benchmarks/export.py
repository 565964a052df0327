"""Writing an ONNX file, and running it: ratios of interleaved pairs, medians.

    NETBUILD_PEER=/path/to/python python benchmarks/export.py [yolo11n yolov8n ...]

Writing: `netbuild.export` without its proof against a bare ``torch.onnx.export(dynamo=True)`` of the same network, in
one process, in turn (A B A B ...). Running: our file against the peer's file of the same network and size, both with
merged batch norms, in onnxruntime in this process, with one and with two threads. The peer's Python has ultralytics and
onnx installed and writes its file by its public call (NETBUILD_PEER_PATH is its PYTHONPATH, if onnx is elsewhere).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import netbuild
from netbuild.export import export

PAIRS = int(os.environ.get("NETBUILD_PAIRS", "7"))
SIZE = int(os.environ.get("NETBUILD_SIZE", "640"))
RUNS = 5  # runs of a session per measurement, of which the fastest counts
THEIRS = """
import os, sys, time
os.environ["YOLO_VERBOSE"] = "false"
from ultralytics import YOLO
model = YOLO(sys.argv[1] + ".yaml")
start = time.perf_counter()
print("FILE", model.export(format="onnx", imgsz={size}, simplify=False, device="cpu"), time.perf_counter() - start)
"""


class Prediction(torch.nn.Module):
    """A network that returns its prediction alone, without the raw outputs."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


def measure_time(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def format_spread(ratios):
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def compare_writing(name, folder):
    """Print the seconds of our call without its proof, those of the bare call, and their ratio; return our file."""
    from netbuild.export.tracing import quiet

    network = netbuild.build(f"{name}.yaml", imgsz=SIZE).eval().fuse()
    bare = Prediction(network).eval()
    image = torch.rand(1, 3, SIZE, SIZE)
    ours, theirs, proofs = [], [], []
    for pair in range(PAIRS + 1):

        def export_bare():
            with quiet():
                torch.onnx.export(bare, (image,), folder / "bare.onnx", dynamo=True, external_data=False, verbose=False)

        total, done = measure_time(lambda: export(network, folder / f"{name}.onnx", imgsz=SIZE))
        seconds, _ = measure_time(export_bare)
        if pair:  # the first pair imports modules and fills caches
            ours.append(total - done.seconds["proof"])
            theirs.append(seconds)
            proofs.append(done.seconds["proof"])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    medians = f"{statistics.median(ours):.2f} s, bare {statistics.median(theirs):.2f} s"
    print(f"{name} write: {medians}, ratio {format_spread(ratios)}")
    print(f"{name} proof: {statistics.median(proofs):.2f} s")
    return folder / f"{name}.onnx"


def write_peer_file(name, folder):
    command = [os.environ["NETBUILD_PEER"], "-c", THEIRS.format(size=SIZE), name]
    env = {**os.environ, "PYTHONPATH": os.environ.get("NETBUILD_PEER_PATH", "")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("FILE ")), None)
    if line is None:
        raise SystemExit(f"the peer writes no file of {name}")
    _, file, seconds = line.split()
    print(f"{name} peer's write (old exporter): {float(seconds):.2f} s")
    return folder / file


def open_session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare_running(name, ours, theirs):
    import onnx

    nodes = [len(onnx.load(path).graph.node) for path in (ours, theirs)]
    print(f"{name} nodes: {nodes[0]}, peer {nodes[1]}; bytes: {ours.stat().st_size:,}, peer {theirs.stat().st_size:,}")
    image = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    for threads in (1, 2):
        sessions = [open_session(path, threads) for path in (ours, theirs)]
        feeds = [{s.get_inputs()[0].name: image} for s in sessions]
        times = ([], [])
        for pair in range(PAIRS + 1):
            for side in (0, 1) if pair % 2 else (1, 0):
                work = partial(sessions[side].run, None, feeds[side])
                seconds = min(measure_time(work)[0] for _ in range(RUNS))
                if pair:
                    times[side].append(seconds)
        ratios = [a / b for a, b in zip(*times, strict=True)]
        ms = [1000 * statistics.median(t) for t in times]
        print(f"{name} run, {threads} threads: {ms[0]:.1f} ms, peer {ms[1]:.1f} ms, ratio {format_spread(ratios)}")


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ["yolo11n"]:
            ours = compare_writing(name, Path(folder))
            if os.environ.get("NETBUILD_PEER"):
                (Path(folder) / "peer").mkdir(exist_ok=True)
                compare_running(name, ours, write_peer_file(name, Path(folder) / "peer"))


if __name__ == "__main__":
    main()
