"""The options of `netbuild.export` and `netbuild.benchmark`: the flags of the two commands as keywords."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from netbuild.errors import NetbuildError, check_keywords
from netbuild.graph.opening import NetworkOptions, Size

T = TypeVar("T")


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported; None means the default.

    Args:
        target: "onnx", or another of `netbuild.export.base.names`.
        imgsz: side, or (height, width), in pixels; the network's own by default.
        batch: batch size, if it is fixed; 1 by default.
        dynamic: axes that stay free: "batch", "size" or "both".
        half: store float16 weights; inputs and outputs stay float32.
        opset: version of ONNX's operator set.
        simplify: rewrite the graph where that removes nodes.
        nms: include non-maximum suppression in the file; a mapping may hold conf, iou and max_det.
        conf, iou, max_det: thresholds of the suppression, as for `netbuild.predict`.
        fuse: merge batch norms into convolutions first; the caller's network stays as it is.
        input_names, output_names: in place of images, output0, output1, ...
        calibrate: for onnx-int8: the data set or folder of pictures for calibration.
        pictures: for onnx-int8: largest number of pictures used for calibration.
        tolerance: limit of |difference| / max(1, |torch|), in place of the target's own; stored in the file's metadata.
        unproven: accept a file that cannot run on this machine, and so is not compared with torch.
        seed: seed of the random weights of a network's file; by default they follow torch's global generator.
        more: further flags by name, which only a plug-in's target knows.
    """

    target: str = "onnx"
    imgsz: Size = None
    batch: int | None = None
    dynamic: str | None = None
    half: bool = False
    opset: int | None = None
    simplify: bool = False
    nms: bool | Mapping[str, Any] = False
    conf: float | None = None
    iou: float | None = None
    max_det: int | None = None
    fuse: bool = True
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    calibrate: str | None = None
    pictures: int | None = None
    tolerance: float | None = None
    unproven: bool = False
    seed: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance)

    def suppression(self) -> dict[str, Any] | None:
        """The given thresholds of the suppression; None if the file gets none.

        Raises:
            NetbuildError: for a threshold without suppression.
        """
        thresholds = {"conf": self.conf, "iou": self.iou, "max_det": self.max_det}
        given = {name: value for name, value in thresholds.items() if value is not None}
        if self.nms is False or self.nms is None:
            for name in given:
                flag = name.replace("_", "-")
                raise NetbuildError(f"--{flag} has no effect without --nms", hint="leave it out, or add --nms")
            return None
        named = {} if self.nms is True else {name: value for name, value in self.nms.items() if value is not None}
        return {**named, **given}

    def flags(self) -> dict[str, Any]:
        """The flags that only some targets take (`netbuild.export.base.FLAGS`) and that were given, by name."""
        named = {
            name: getattr(self, name)
            for name in ("half", "opset", "simplify", "dynamic", "calibrate", "pictures", "tolerance")
        }
        known = {**named, "nms": self.suppression(), **self.more}
        return {name: value for name, value in known.items() if value is not None and value is not False}


class ExportKeywords(NetworkOptions, total=False):
    """The keywords of `netbuild.export`, for type checkers; a test holds them equal to `ExportOptions`."""

    batch: int | None
    dynamic: str | None
    half: bool
    opset: int | None
    simplify: bool
    nms: bool | Mapping[str, Any]
    conf: float | None
    iou: float | None
    max_det: int | None
    fuse: bool
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    calibrate: str | None
    pictures: int | None
    tolerance: float | None
    unproven: bool
    seed: int | None
    more: Mapping[str, Any]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a benchmark measures, and how.

    Args:
        target: "all", or comma-separated names of targets.
        imgsz: side, or (height, width), in pixels; the network's own by default.
        batch: batch size.
        data: a data set for accuracy and for int8 calibration.
        threads: number of threads of every runtime.
        rounds: number of timed runs of each target.
        tolerance: as for `ExportOptions`.
    """

    target: str = "all"
    imgsz: Size = None
    batch: int = 1
    data: str | None = None
    threads: int = 1
    rounds: int = 50
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance)
        if self.batch < 1 or self.threads < 1 or self.rounds < 1:
            raise NetbuildError("batch, threads and rounds must be at least 1")


class BenchmarkKeywords(NetworkOptions, total=False):
    """The keywords of `netbuild.benchmark`, for type checkers; a test holds them equal to `BenchmarkOptions`."""

    target: str
    batch: int
    data: str | None
    threads: int
    rounds: int
    tolerance: float | None


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is no number above 0 and up to 1.

    Raises:
        NetbuildError: if so.
    """
    if tolerance is not None and not 0 < tolerance <= 1:  # false for NaN
        raise NetbuildError(f"--tolerance {tolerance}: must be above 0 and at most 1", hint="try --tolerance 1e-3")


def read_keywords(kind: type[T], keywords: Mapping[str, Any]) -> tuple[T, NetworkOptions]:
    """Split the keywords of a call into an options object and the options of the network's file; both have imgsz.

    Args:
        kind: `ExportOptions` or `BenchmarkOptions`.
        keywords: keywords of either.

    Raises:
        KeywordError: for a keyword that neither has.
    """
    own, opening = {f.name for f in fields(kind)}, NetworkOptions.__annotations__.keys()  # type: ignore[arg-type]
    check_keywords(keywords, own | opening)
    options = kind(**{name: value for name, value in keywords.items() if name in own})
    return options, cast(NetworkOptions, {name: value for name, value in keywords.items() if name in opening})
