"""Proves a file: a process without netbuild imports it, loads the network's tensors and compares the outputs."""

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

TOLERANCE = 1e-6  # largest |difference| / max(1, |reference|)
BATCH = 2  # a batch norm in training needs more than one value per channel
SEED = 20_240_501
NOISE = 0.02  # of the size of a tensor

Outputs = dict[str, list[torch.Tensor]]


class DifferError(NetbuildError):
    """The outputs of an ejected file differ from the network's."""

    exit_code = 1


@dataclass(frozen=True)
class Case:
    """A file to prove, the name of its class, and the data written by `record`."""

    file: Path
    name: str
    data: Path


@dataclass(frozen=True)
class Proof:
    """The result of a comparison.

    Args:
        runs: the modes that were compared.
        values: the number of values.
        difference: the largest difference; relative for values above 1.
    """

    runs: tuple[str, ...]
    values: int
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {**vars(self), "equal": self.difference == 0}

    def text(self) -> str:
        """Return the result as text."""
        agreement = "bit-equal" if self.difference == 0 else f"equal within {self.difference:.0e}"
        return f"{agreement} in {', '.join(self.runs)}: {self.values:,} values"


def record(network: Network, graph: Graph, path: Path) -> None:
    """Save a network's tensors, random inputs, and its outputs for them in every mode.

    The tensors are perturbed at random first: initial values such as zeros and ones would hide differences.

    Raises:
        DifferError: if the outputs are not finite, so that comparing them would prove nothing.
    """
    generator = torch.Generator().manual_seed(SEED)
    _perturb(network, generator)
    inputs = [torch.rand((BATCH, *shape), generator=generator) for _, shape in graph.inputs]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    outputs: dict[str, Any] = {}
    with torch.no_grad(), suppress(Exception):  # a network that cannot train at this size is compared in eval mode only
        # A step in training mode changes the statistics of batch norms, so these are compared after it, too.
        outputs["training"] = _run(network.train(), inputs)
        outputs["after training"] = list(network.state_dict().values())
        outputs["after training"] = [value.clone() for value in outputs["after training"]]
    network.load_state_dict(state)
    with torch.no_grad():
        outputs["eval"] = _run(network.eval(), inputs)
        outputs["fused"] = _run(network.fuse(), inputs)
    if not all(x.isfinite().all() for x in outputs["eval"]):
        raise DifferError("the network's outputs have NaN or infinity, so that no file can be proven equal to it")
    torch.save({"state": state, "inputs": inputs, "outputs": outputs, "seed": SEED}, path)


def _run(network: Network, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.random.fork_rng(devices=[]):  # dropout follows the seed, and the caller's generator is not changed
        torch.manual_seed(SEED)
        return [x.clone() for x in tensors_of(network(*inputs))]


@torch.no_grad()
def _perturb(network: Network, generator: torch.Generator) -> None:
    """Add noise of mean 0 to all tensors, in proportion to their own size, so that deep networks stay finite."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            size = tensor.abs().mean().item() or 1.0
            tensor.add_(NOISE * size * (2 * torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) - 1))


def prove(cases: Sequence[Case]) -> list[Proof]:
    """Run all files in a separate process in which netbuild cannot be imported.

    Raises:
        DifferError: for the first file that cannot be imported or loaded, or whose outputs differ.
    """
    proofs = []
    for case, found in zip(cases, _run_cases(cases), strict=True):
        if "error" in found:
            raise DifferError(f"class {case.name} cannot be compared with the network: {found['error']}")
        if not found["difference"] <= TOLERANCE:  # not ">", which is false for NaN
            run, difference = found["worst"], found["difference"]
            raise DifferError(f"class {case.name} differs from the network by {difference:.1e} in {run}")
        proofs.append(Proof(tuple(found["runs"]), found["values"], found["difference"]))
    return proofs


def _run_cases(cases: Sequence[Case]) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="netbuild-") as folder:
        script = Path(folder) / "prove.py"
        script.write_text(_SCRIPT, encoding="utf-8")
        arguments = [[str(case.file.resolve()), case.name, str(case.data)] for case in cases]
        command = [sys.executable, str(script), json.dumps(arguments), str(torch.get_num_threads())]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    answers = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("answer ")]
    if len(answers) < len(cases):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        answers.append({"error": shorten(last, 300)})
        answers += [{"error": "an earlier file ended the process"}] * (len(cases) - len(answers))
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


def max_difference(found, expected):
    if len(found) != len(expected):
        raise ValueError(f"found {len(found)} tensors, expected {len(expected)}")
    worst = 0.0
    for a, b in zip(found, expected):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"found {a.dtype} {tuple(a.shape)}, expected {b.dtype} {tuple(b.shape)}")
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
        keys = set(model.state_dict()) ^ set(known["state"])
        raise ValueError(f"the state-dict keys differ: {sorted(keys)[:4] or 'they have another order'}")
    model.load_state_dict(known["state"], strict=True)

    def run():
        torch.manual_seed(known["seed"])
        return list(tensors(model(*known["inputs"])))

    worst, where, values = 0.0, "", 0
    with torch.no_grad():
        for mode, expected in known["outputs"].items():
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
                difference = max_difference(found, expected)
            except ValueError as error:
                raise ValueError(f"{mode}: {error}") from None
            values += sum(t.numel() for t in expected)
            if difference > worst:
                worst, where = difference, mode
    return {"runs": list(known["outputs"]), "values": values, "difference": worst, "worst": where}


torch.set_num_threads(int(sys.argv[2]))
for arguments in json.loads(sys.argv[1]):
    try:
        answer = compare(*arguments)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:600]}
    print("answer " + json.dumps(answer), flush=True)
"""
