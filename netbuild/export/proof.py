"""The proof: run the exported file and the network on the same inputs, and compare every output."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export.base import ANY, FLOAT, Job, Run
from netbuild.export.tracing import RowTracker, row_error

SAMPLE_IMAGES = ("digits.png", "strip.jpg")  # packaged, see pictures/README.md
BATCHES = (1, 3)  # batch sizes tried if the batch is free
Arrays = list[np.ndarray]
Reference = Callable[[Sequence[torch.Tensor]], Arrays]


class ProofError(NetbuildError):
    """The outputs of an exported file differ from the network's."""

    exit_code = 1


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison, with a short description."""

    title: str
    inputs: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Comparison:
    """The difference between the file's and torch's output in one case.

    Args:
        output: name of the output.
        case: description of the inputs.
        shape: of the output.
        difference: largest |difference|.
        part: largest |difference| / max(1, |reference|).
        tolerance: upper bound of ``part``.
        type: numpy name of its dtype.
        remark: what was not compared, or why nothing can be.
        failed: whether the outputs cannot be compared, whatever the tolerance.
    """

    output: str
    case: str
    shape: tuple[int, ...]
    difference: float
    part: float
    tolerance: float
    type: str = "float32"
    remark: str = ""
    failed: bool = field(default=False)

    @property
    def ok(self) -> bool:
        """Whether the difference is within the tolerance."""
        return not self.failed and self.part <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON data."""
        bound = None if self.tolerance == ANY else self.tolerance  # JSON has no infinity
        return {**vars(self), "shape": list(self.shape), "tolerance": bound, "ok": self.ok}


@cache
def sample_image(name: str, channels: int) -> torch.Tensor:
    """A packaged picture: float (channels, H, W), 0 to 1; beyond three the channels repeat."""
    from netbuild.data.images import read_image

    pixels = read_image(Path(__file__).with_name("pictures") / name, 1 if channels == 1 else 3)
    found = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    return found[torch.arange(channels) % found.shape[0]]


def cases(job: Job) -> Iterator[Case]:
    """Two cases: two pictures for a fixed job, two values of every free axis otherwise."""
    fixed = [tuple(x.shape) for x in job.examples]
    batches = BATCHES if "batch" in job.dynamic else (fixed[0][0],) * 2
    for number, batch in enumerate(batches):
        shapes = [
            _enlarge(shape, axes, job.multiple if number else 0) for shape, axes in zip(fixed, job.axes, strict=True)
        ]
        inputs = tuple(_make_input((batch, *shape[1:]), number, i) for i, shape in enumerate(shapes))
        yield Case(_title(inputs, number), inputs)


def _enlarge(shape: tuple[int, ...], axes: dict[int, str], step: int) -> tuple[int, ...]:
    """The shape one step taller and two steps wider."""
    steps = {"height": 1, "width": 2}
    return tuple(side + step * steps.get(axes.get(axis, ""), 0) for axis, side in enumerate(shape))


def _make_input(shape: tuple[int, ...], number: int, place: int) -> torch.Tensor:
    """Packaged pictures for an image input (B, C, H, W), else random numbers from a fixed seed."""
    if not _is_picture(shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(10 * number + place))
    chosen = [sample_image(SAMPLE_IMAGES[(number + i) % len(SAMPLE_IMAGES)], shape[1]) for i in range(shape[0])]
    return torch.cat(
        [torch.nn.functional.interpolate(p[None], shape[2:], mode="bilinear", antialias=True) for p in chosen]
    )


def sample_input(shape: tuple[int, ...]) -> torch.Tensor:
    """The packaged pictures as an input (B, C, H, W), from 0 to 1."""
    return _make_input(shape, 0, 0)


def _is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and min(shape[2:]) > 1


def _title(inputs: Sequence[torch.Tensor], number: int) -> str:
    first = inputs[0]
    if not _is_picture(first.shape):
        return f"{len(first)} random"
    names = [SAMPLE_IMAGES[(number + i) % len(SAMPLE_IMAGES)] for i in range(min(len(first), 2))]
    return f"{len(first)} x {first.shape[2]}x{first.shape[3]}: {', '.join(names)}"


def prove(job: Job, run: Run, reference: Reference, tolerance: float, match: str = "") -> list[Comparison]:
    """Compare the file with torch in every case.

    Args:
        job: the exported job.
        run: a function that runs the file.
        reference: a function that runs the network, with outputs in the file's form.
        tolerance: upper bound of |difference| / max(1, |reference|).
        match: "" for outputs in fixed places; "rows" where the rows of `Job.lists` are matched;
            "index" where four outputs are such a list.

    Raises:
        ProofError: if the file does not run.
    """
    found: list[Comparison] = []
    for case in cases(job):
        wanted = _run_reference(job, reference, case)
        given = _run_file(run, case)
        if not found and match != "index":  # detections after suppression may be none on every picture
            other = _other_pictures(case)
            effects = _effects(wanted, _run_reference(job, reference, other)), _effects(given, _run_file(run, other))
        shapes, remarks = [x.shape for x in wanted], dict[int, str]()
        if match == "index":
            given, wanted, remarks[0] = _match_detections(given, wanted, tolerance)
        elif match == "rows":
            for place in job.lists:
                given, wanted, remarks[place] = _match_rows(given, wanted, tolerance, place)
        for i, name in enumerate(job.outputs):
            one = given[i] if i < len(given) else None
            result = compare(name, case.title, one, wanted[i], tolerance, remarks.get(i, ""))
            found.append(replace(result, shape=shapes[i]))  # the shape before rows were matched
    return found if match == "index" else [_judge_effects(job, c, *effects) for c in found]


def check_outputs(job: Job, reference: Reference) -> None:
    """Refuse a network whose outputs cannot prove anything: not finite, or the same for different pictures.

    Raises:
        ProofError: with the output and the pictures.
    """
    case = next(cases(job))
    other = _other_pictures(case)
    outputs = [(pictures, _run_reference(job, reference, pictures)) for pictures in (case, other)]
    for pictures, arrays in outputs:
        for number, values in enumerate(arrays):
            if remark := _describe_non_finite(values):
                name = job.outputs[number] if len(arrays) == len(job.outputs) else f"output {number}"
                message = f"the network's {name} has {remark} on {pictures.title}: no file can be proven equal to it"
                raise ProofError(message, hint="weights that are not finite, or too large, are the usual cause")
    if not max(_effects(outputs[0][1], outputs[1][1])):
        message = f"the network's outputs are the same for {case.title} and {other.title}"
        raise ProofError(f"{message}: no file can be proven equal to it", hint="its weights may all be zero")


def _other_pictures(case: Case) -> Case:
    """Other inputs of the same shapes as a case's first."""
    inputs = tuple(_make_input(tuple(x.shape), 1, i) for i, x in enumerate(case.inputs))
    return Case(_title(inputs, 1), inputs)


def _effects(first: Arrays, second: Arrays) -> list[float]:
    """How far each output changes between two cases, as |difference| / max(1, |first|); 0 if it is the same."""
    return [_effect(a, b) for a, b in zip(first, second, strict=True)]


def _effect(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        changes = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(1, np.abs(a)))
    return float(np.nan_to_num(changes, nan=np.inf).max(initial=0))


def _judge_effects(job: Job, one: Comparison, torchs: list[float], files: list[float]) -> Comparison:
    """Refuse outputs that do not depend on the pictures, and a loose tolerance that would excuse that.

    Within the usual tolerances a small effect is only remarked on: of a deep network with random weights, a picture may
    change as little as rounding does, and nothing at all in float16.

    Args:
        job: the job of the file.
        one: the comparison of an output.
        torchs, files: how far torch's and the file's outputs change between two pictures.
    """
    effect = torchs[job.outputs.index(one.output)]
    if one.failed:
        return one
    if not max(torchs) or not (max(files) or job.half):
        side = "the file's" if max(torchs) else "torch's"
        return replace(one, failed=True, remark=f"{side} outputs do not depend on the pictures")
    if not effect:
        return replace(one, remark=one.remark or "the same for all pictures")
    if one.ok and one.tolerance != ANY and 4 * one.part >= effect:
        excused = one.part > FLOAT and not job.half
        return replace(one, failed=excused, remark=one.remark or f"two pictures differ by {effect:.1e} only")
    return one


def _run_file(run: Run, case: Case) -> Arrays:
    """Run the file on a case.

    Raises:
        ProofError: if it fails.
    """
    try:
        return run([x.numpy() for x in case.inputs])
    except Exception as error:  # runtimes raise classes of their own
        raise ProofError(f"the file does not run on {case.title}: {shorten(error, 300)}") from error


def _describe_non_finite(values: np.ndarray) -> str:
    """The number of values that are NaN or infinite, as text; "" if there is none."""
    if not np.issubdtype(values.dtype, np.inexact):
        return ""
    count = values.size - int(np.isfinite(values).sum())
    return f"{count:,} of {values.size:,} values that are not finite" if count else ""


def _run_reference(job: Job, reference: Reference, case: Case) -> Arrays:
    """Run the network on a case.

    Raises:
        NetbuildError: at the row that fails, for example at a size that it does not support.
    """
    tracker = RowTracker(job.module, ())
    with tracker.tracking():
        try:
            return reference(case.inputs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            message = f"its module fails on {case.title}: {shorten(error, 200)}"
            hint = "it supports one size only: leave --dynamic out, or use --dynamic batch" if job.dynamic else ""
            if tracker.row is None:
                raise NetbuildError(f"the network fails on {case.title}: {shorten(error, 200)}", hint=hint) from error
            raise row_error(message, tracker.row, job.rows, hint) from error


def compare(
    name: str, case: str, given: np.ndarray | None, wanted: np.ndarray, tolerance: float, remark: str = ""
) -> Comparison:
    """Compare one output; it fails if either side has NaN or infinity, which prove nothing."""
    if given is None or given.shape != wanted.shape:
        shape = "nothing" if given is None else str(list(given.shape))
        remark = f"{shape} instead of {list(wanted.shape)}"
        return Comparison(name, case, wanted.shape, np.inf, np.inf, tolerance, str(wanted.dtype), remark, True)
    for side, values in (("torch", wanted), ("the file", given)):
        if found := _describe_non_finite(values):
            remark = f"{side} has {found}"
            return Comparison(name, case, wanted.shape, np.inf, np.inf, tolerance, str(wanted.dtype), remark, True)
    a, b = given.astype(np.float64), wanted.astype(np.float64)
    apart = np.abs(a - b)
    parts = apart / np.maximum(1, np.abs(b))
    is_integer = np.issubdtype(wanted.dtype, np.integer)
    largest, part = float(apart.max(initial=0)), float(parts.max(initial=0))
    return Comparison(
        name, case, wanted.shape, largest, part, 0.0 if is_integer else tolerance, str(wanted.dtype), remark
    )


# -- lists of detections ----------------------------------------------------------------------------------------------


def _match_rows(given: Arrays, wanted: Arrays, tolerance: float, place: int) -> tuple[Arrays, Arrays, str]:
    """Sort the rows (B, K, 6+) of an output as the reference's; drop rows that only a tie in score exchanged."""
    if len(given) <= place or given[place].shape != wanted[place].shape:
        return given, wanted, ""
    parts = [pair_rows(a, b, tolerance) for a, b in zip(given[place], wanted[place], strict=True)]
    exchanged = sum(left for _, _, left in parts)
    a, b = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    rows = wanted[place].shape[0] * wanted[place].shape[1]
    remark = f"{exchanged} of {rows} rows of equal rank not compared" if exchanged else ""
    return _replace(given, place, a), _replace(wanted, place, b), remark


def _replace(arrays: Arrays, place: int, value: np.ndarray) -> Arrays:
    return [*arrays[:place], value, *arrays[place + 1 :]]


def _match_detections(given: Arrays, wanted: Arrays, tolerance: float) -> tuple[Arrays, Arrays, str]:
    """Sort the detections (boxes, scores, classes, index) of each picture as the reference's."""
    remark = "" if len(wanted[0]) else "no box on these pictures"
    if any(a.shape != b.shape for a, b in zip(given, wanted, strict=True)):
        return given, wanted, remark
    order = np.arange(len(wanted[0]))
    for number in np.unique(wanted[3]):
        given_rows, wanted_rows = np.flatnonzero(given[3] == number), np.flatnonzero(wanted[3] == number)
        if len(given_rows) != len(wanted_rows):
            return given, wanted, remark
        a, b = (_rows(x, at) for x, at in ((given, given_rows), (wanted, wanted_rows)))
        order[wanted_rows] = given_rows[nearest(a, b)]
    return [x[order] for x in given], wanted, remark


def _rows(arrays: Arrays, at: np.ndarray) -> np.ndarray:
    boxes, scores, classes = (x[at] for x in arrays[:3])
    return np.concatenate((boxes, scores[:, None], classes[:, None]), 1)


def pair_rows(given: np.ndarray, wanted: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Pair the detections (K, 6+) of a picture, and count those left out.

    Noise decides which of several equal scores end a list of fixed length, so such a row may be in one list only.
    Scores are equal if they differ by less than 0.1 %, or the tolerance if that is larger.
    """
    order = nearest(given, wanted)
    given = given[order]
    differs = _cost(given, wanted) > tolerance
    if not differs.any():
        return given, wanted, 0
    margin = max(1e-3, tolerance if tolerance > 1e-3 else 0.0)
    last = wanted[:, 4].min()
    close = (wanted[:, 4] - last <= margin * abs(last)) & (np.abs(given[:, 4] - last) <= margin * abs(last))
    compared = ~(differs & close)
    return given[compared], wanted[compared], int((~compared).sum())


def nearest(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted row the index of the nearest given row; each is used once."""
    order = np.arange(len(wanted))
    if not len(wanted) or not (_cost(given, wanted) > 1e-6).any():
        return order
    free = np.ones(len(given), bool)
    distances = [np.where(free, _cost(given, row[None]), np.inf) for row in wanted]
    for i in np.argsort([d.min() for d in distances], kind="stable"):
        j = int(np.where(free, distances[i], np.inf).argmin())
        order[i], free[j] = j, False
    return order


def _cost(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest |difference| / max(1, |reference|) of rows; infinite if the classes differ."""
    apart = np.abs(a.astype(np.float64) - b) / np.maximum(1, np.abs(b))
    return np.where(np.isclose(a[:, 5], b[:, 5]), apart.max(-1), np.inf) if a.shape[1] > 5 else apart.max(-1)
