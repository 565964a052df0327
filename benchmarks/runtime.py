"""Time of a process from its start to the first boxes: netbuild.runtime against netbuild with torch.

    python benchmarks/runtime.py [a.yaml] [640]

All sides are new processes, started in turn (A B A B ...), so that a noisy machine disturbs them alike. Prints medians
of ratios. The second side loads the checkpoint with torch and predicts with netbuild; the third only imports torch; the
last calls onnxruntime directly on the same ONNX file, which is a lower bound.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import netbuild
from netbuild.export import export

PAIRS = int(os.environ.get("NETBUILD_PAIRS", "9"))
ENV = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
ENV["PYTHONPATH"] = os.pathsep.join([str(Path(netbuild.__file__).parents[1]), ENV.get("PYTHONPATH", "")])
SIDES = {
    "netbuild.runtime": "from netbuild.runtime import load; print(load('net.onnx', threads=1).predict('one.png'))",
    "torch": "import netbuild; print(next(netbuild.predict('net.safetensors', ['one.png'], device='cpu')).to_dict())",
    "import torch alone": "import torch",
    "onnxruntime by hand": (
        "import numpy as np, onnxruntime as ort; from PIL import Image\n"
        "o = ort.SessionOptions(); o.intra_op_num_threads = 1\n"
        "x = np.asarray(Image.open('one.png').resize({size}), np.float32).transpose(2, 0, 1)[None] / 255\n"
        "print(ort.InferenceSession('net.onnx', o).run(None, {{'images': x}})[0].shape)"
    ),
}


def measure_seconds(code: str, folder: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=ENV, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    name, side = (sys.argv[1:] + ["yolo11n.yaml", "640"][len(sys.argv) - 1 :])[:2]
    print(f"{PAIRS} rounds, {ENV['OMP_NUM_THREADS']} thread(s), {name} at {side}, from the start to the first result")
    with tempfile.TemporaryDirectory() as folder:
        network = netbuild.build(name, imgsz=int(side))
        netbuild.save(network, Path(folder) / "net.safetensors")
        export(network, Path(folder) / "net.onnx")
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((int(side), int(side))).save(Path(folder) / "one.png")
        codes = {title: code.format(size=(int(side), int(side))) for title, code in SIDES.items()}
        for code in codes.values():
            measure_seconds(code, folder)  # fills the disk's cache and writes byte code
        rounds = [{title: measure_seconds(code, folder) for title, code in codes.items()} for _ in range(PAIRS)]
    for title in codes:
        ratio = statistics.median(r["netbuild.runtime"] / r[title] for r in rounds)
        median = statistics.median(r[title] for r in rounds)
        print(f"{title:<24} {1e3 * median:6.0f} ms   netbuild.runtime takes {ratio:.2f}x of it", flush=True)


if __name__ == "__main__":
    main()
