"""The proof of a file: a process without netbuild imports it, loads the network's tensors and gives the same."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from netbuild.costs.outputs import tensors_of
from netbuild.errors import NetbuildError, shorten
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network

TOLERANCE = 1e-6  # of |difference| / max(1, |reference|)
BATCH = 2  # a batch norm in training needs more than one value a channel
SEED = 20_240_501

Outputs = dict[str, list[torch.Tensor]]


class DifferError(NetbuildError):
    """A file whose network is not the one that it was written from."""

    exit_code = 1


@dataclass(frozen=True)
class Case:
    """A file with the class in it, and what it must give: a path of `recorded` data."""

    file: Path
    name: str
    data: Path


@dataclass(frozen=True)
class Proof:
    """What was compared: runs, values, and the largest difference, relative to values above 1."""

    runs: tuple[str, ...]
    values: int
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {**vars(self), "equal": self.difference == 0}

    def text(self) -> str:
        """In a sentence."""
        said = "equal bit for bit" if self.difference == 0 else f"equal to {self.difference:.0e}"
        return f"{said} in {', '.join(self.runs)}: {self.values:,} values"


def record(network: Network, graph: Graph, path: Path) -> None:
    """Write down what a network has and gives on inputs of chance: its tensors and the outputs in every mode.

    The tensors are shaken, so that none that begins as zero or one hides a difference.
    """
    generator = torch.Generator().manual_seed(SEED)
    _shake(network, generator)
    inputs = [torch.rand((BATCH, *shape), generator=generator) for _, shape in graph.inputs]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    outputs: dict[str, Any] = {}
    with torch.no_grad(), suppress(Exception):  # a net that cannot train at this size is compared in eval alone
        outputs["training"] = _run(network.train(), inputs)
        outputs["after training"] = list(network.state_dict().values())
        outputs["after training"] = [value.clone() for value in outputs["after training"]]
    network.load_state_dict(state)
    with torch.no_grad():
        outputs["eval"] = _run(network.eval(), inputs)
        outputs["fused"] = _run(network.fuse(), inputs)
    torch.save({"state": state, "inputs": inputs, "outputs": outputs, "seed": SEED}, path)


def _run(network: Network, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.random.fork_rng(devices=[]):  # dropout follows the seed, and the caller's generator stays as it is
        torch.manual_seed(SEED)
        return [x.clone() for x in tensors_of(network(*inputs))]


@torch.no_grad()
def _shake(network: Network, generator: torch.Generator) -> None:
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.02 * torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))


def prove(cases: Sequence[Case]) -> list[Proof]:
    """Run files in one process of its own, in which netbuild cannot be imported.

    Raises:
        DifferError: with the first file that does not import, load or give the same.
    """
    proofs = []
    for case, found in zip(cases, _answers(cases), strict=True):
        if "error" in found:
            raise DifferError(f"class {case.name} does not do what the network does: {found['error']}")
        if not found["difference"] <= TOLERANCE:
            run, difference = found["worst"], found["difference"]
            raise DifferError(f"class {case.name} differs from the network by {difference:.1e} in {run}")
        proofs.append(Proof(tuple(found["runs"]), found["values"], found["difference"]))
    return proofs


def _answers(cases: Sequence[Case]) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="netbuild-") as folder:
        script = Path(folder) / "prove.py"
        script.write_text(_SCRIPT, encoding="utf-8")
        asked = [[str(case.file.resolve()), case.name, str(case.data)] for case in cases]
        command = [sys.executable, str(script), json.dumps(asked), str(torch.get_num_threads())]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    answers = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("answer ")]
    if len(answers) < len(cases):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        answers.append({"error": shorten(last, 300)})
        answers += [{"error": "it was not come to"}] * (len(cases) - len(answers))
    return answers


_SCRIPT = """
import importlib.machinery
import importlib.util
import json
import sys

sys.modules["netbuild"] = None  # any import of it fails

import torch


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def apart(found, wanted):
    if len(found) != len(wanted):
        raise ValueError(f"{len(found)} tensors, not {len(wanted)}")
    worst = 0.0
    for a, b in zip(found, wanted):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"{a.dtype} {tuple(a.shape)} where {b.dtype} {tuple(b.shape)} is due")
        if a.numel() and not torch.equal(a, b):
            a, b = a.double(), b.double()
            same = (a == b) | (a.isnan() & b.isnan())
            part = torch.where(same, 0.0, (a - b).abs() / b.abs().clamp(min=1))
            worst = max(worst, float(part.nan_to_num(nan=float("inf")).max()))
    return worst


def compare(path, name, data):
    loader = importlib.machinery.SourceFileLoader(f"ejected_{name}", path)  # a draft does not end in .py
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    known = torch.load(data, weights_only=True)
    model = getattr(module, name)()
    if list(model.state_dict()) != list(known["state"]):
        ours, theirs = set(model.state_dict()), set(known["state"])
        raise ValueError(f"other keys: {sorted(ours ^ theirs)[:4] or 'in another order'}")
    model.load_state_dict(known["state"], strict=True)

    def run():
        torch.manual_seed(known["seed"])
        return list(tensors(model(*known["inputs"])))

    worst, where, values = 0.0, "", 0
    with torch.no_grad():
        for mode, wanted in known["outputs"].items():
            if mode == "after training":
                found = [t.clone() for t in model.state_dict().values()]
                model.load_state_dict(known["state"], strict=True)
            elif mode == "fused" and not hasattr(model, "fuse"):
                found = run()
            else:
                if mode == "fused":
                    model.fuse()
                found = (model.train() if mode == "training" else model.eval()) and run()
            try:
                difference = apart(found, wanted)
            except ValueError as error:
                raise ValueError(f"{mode}: {error}") from None
            values += sum(t.numel() for t in wanted)
            if difference > worst:
                worst, where = difference, mode
    return {"runs": list(known["outputs"]), "values": values, "difference": worst, "worst": where}


torch.set_num_threads(int(sys.argv[2]))
for asked in json.loads(sys.argv[1]):
    try:
        answer = compare(*asked)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:600]}
    print("answer " + json.dumps(answer), flush=True)
"""
