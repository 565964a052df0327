"""Export every packaged architecture to every target and compare it with torch; the table of docs/targets.md.

`python benchmarks/targets.py [--targets onnx,openvino] [NAME ...]` fills targets.json and continues where it stopped;
`--write` writes its table into docs/targets.md. Every network has its smallest scale and a small size, with random
weights that make the outputs depend on the picture.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("targets.json")
TARGETS = ("onnx", "openvino", "torch-export", "torchscript", "executorch", "litert", "ncnn")
SIZES = {"inception-v3": 128, "siamfc": None, "unet": None, "lenet5": 32, "dcgan-generator": None}
SIZES |= {"dcgan-digits-generator": None, "dcgan-digits-discriminator": None}
BEGIN, END = "<!-- targets: benchmarks/targets.py --write -->", "<!-- end of targets -->"


def export_one(name: str, target: str) -> dict[str, object]:
    """Export one architecture to one target: the difference from torch, or the error."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.filled_weights import fill

    import netbuild
    from netbuild.errors import NetbuildError
    from netbuild.export import base, export

    size = SIZES.get(name, 64)
    suffix = base.find(target).suffix
    with tempfile.TemporaryDirectory() as folder:
        try:
            network = fill(netbuild.build(f"{name}.yaml", imgsz=size), gain=1.0)
            done = export(network, Path(folder) / f"x{suffix}", target=target, imgsz=size)
        except NetbuildError as error:
            return {"error": error.message.splitlines()[0].replace(f"{folder}/x{suffix}: ", "")[:200]}
    return {"difference": done.difference, "bytes": done.size}


def measure(names: list[str], targets: list[str]) -> None:
    """Measure the missing pairs, with a process per architecture and a new one after a runtime has crashed."""
    for name in names:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found = results.setdefault(name, {})
        while left := [target for target in targets if target not in found]:
            command = [sys.executable, __file__, "--one", name, *left]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
                for line in process.stdout or ():
                    if line.startswith('{"target"'):  # runtimes may print, too
                        pair = json.loads(line)
                        found[pair.pop("target")] = pair
            if missing := next((target for target in left if target not in found), None):
                found[missing] = {"error": f"its process ended with {process.returncode}"}
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(name, {target: found[target].get("difference", found[target]) for target in targets}, flush=True)


def format_table(results: dict[str, dict[str, dict[str, object]]]) -> str:
    """Format the table of architectures by targets; a number refers to the reason of a failure below it."""
    reasons: list[str] = []

    def cell(found: dict[str, object] | None) -> str:
        if found is None:
            return ""
        if "error" not in found:
            return f"{found['difference']:.0e}" if found["difference"] else "0"
        if found["error"] not in reasons:
            reasons.append(str(found["error"]))
        return f"({reasons.index(str(found['error'])) + 1})"

    rows = [[f"`{name}`", *(cell(results[name].get(target)) for target in TARGETS)] for name in sorted(results)]
    lines = ["| " + " | ".join(row) + " |" for row in [["architecture", *TARGETS], ["---"] * (1 + len(TARGETS)), *rows]]
    return "\n".join([*lines, "", *(f"({i}) {reason}" + "  " for i, reason in enumerate(reasons, 1))])


def write_table(text: str) -> None:
    """Write the table between its markers into docs/targets.md."""
    path = ROOT / "docs" / "targets.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--targets", default="onnx,openvino,torch-export,torchscript")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        for target in args.names[1:]:
            print(json.dumps({"target": target, **export_one(args.names[0], target)}), flush=True)
    elif args.write:
        write_table(format_table(json.loads(RESULTS.read_text())))
    else:
        from netbuild.grammar.locate import packaged_architectures

        measure(
            args.names or sorted(name.removesuffix(".yaml") for name in packaged_architectures()),
            args.targets.split(","),
        )


if __name__ == "__main__":
    main()
