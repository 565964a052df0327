"""What a target is to those who export: it writes a job into a file, and runs that file. It proves nothing itself."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from torch import Tensor, nn

from netbuild.errors import MissingExtraError, NetbuildError, Where
from netbuild.system.plugins import Registry

FLAGS = frozenset({"dynamic", "half", "opset", "simplify", "nms", "calibrate", "pictures"})  # not every target's
FLOAT, HALF = 1e-4, 2e-2  # |difference| <= tolerance * max(1, |reference|)
ANY = math.inf  # a tolerance of files that are not meant to be equal: differences are told, not judged
PIP_NAMES = {"PIL": "pillow"}  # packages whose modules have another name
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
T = TypeVar("T", bound="type[Target]")
TARGETS: "Registry[Target]" = Registry(
    "target",
    "netbuild.export.base:Target",
    {
        "coreml": "netbuild.export.coreml:CoremlTarget",
        "ncnn": "netbuild.export.ncnn:NcnnTarget",
        "executorch": "netbuild.export.executorch:ExecutorchTarget",
        "litert": "netbuild.export.litert:LitertTarget",
        "onnx": "netbuild.export.onnx:OnnxTarget",
        "onnx-int8": "netbuild.export.int8:Int8Target",
        "openvino": "netbuild.export.openvino:OpenvinoTarget",
        "torch-export": "netbuild.export.torch_export:TorchExportTarget",
        "torchscript": "netbuild.export.torchscript:TorchscriptTarget",
    },
)


@dataclass(frozen=True)
class Job:
    """What is to be written.

    Args:
        module: on the CPU, in eval and in float32: takes the network's inputs, gives a flat tuple of tensors.
        examples: an input each, of the sizes that are fixed; with a free batch of two at least.
        inputs: names of the inputs.
        outputs: names of the outputs.
        dynamic: of "batch", "height", "width": those that stay free.
        axes: for each input the names of its free axes, by number.
        metadata: what the file is to say of itself.
        options: flags by name, those of `FLAGS` that were given; for "nms" the `netbuild.tasks.nms.Filter`.
        rows: how messages call each row, and its place in its file, if it has one.
        multiple: what free heights and widths are multiples of, in pixels.
    """

    module: nn.Module
    examples: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: frozenset[str] = frozenset()
    axes: tuple[dict[int, str], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[tuple[str, Where | None], ...] = ()
    multiple: int = 1

    @property
    def half(self) -> bool:
        """Whether weights are to be float16; inputs and outputs stay float32."""
        return bool(self.options.get("half"))


class Target(ABC):
    """A form that networks are exported to. ``write`` raises `NetbuildError` for what the target cannot hold.

    Attributes:
        name: by which it is asked for.
        suffix: what the name of its file or folder ends in, such as ".onnx" or "_openvino".
        holds: of a target that writes a folder the suffixes of the files in it, and names of folders; empty where it
            writes a file.
        extra: of netbuild, that brings its packages.
        packages: that it imports, checked before any work.
        takes: those of `FLAGS` that it takes; others are refused by name.
        needs: those that it cannot do without.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    holds: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "export"
    packages: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def write(self, job: Job, path: Path) -> Sequence[str]:
        """Write the job; the caller renames the draft when it is proven.

        Args:
            job: what to write.
            path: a draft, file or folder, in the folder of the final one and with the target's suffix.

        Returns:
            Sentences on how it was done: exporter, its version, and what a flag came to.

        Raises:
            NetbuildError: if the network cannot be written so, with the row and the operator where they are known.
        """

    @abstractmethod
    def open(self, path: Path) -> Run:
        """A function that runs the file: inputs as numpy arrays in the file's order, to its outputs."""

    def quick(self, path: Path, threads: int) -> Run:
        """As ``open``, as fast as the target's runtime is with so many threads: what `netbuild benchmark` times."""
        return self.open(path)

    def barrier(self) -> str:
        """Why its files cannot be run on this machine, as a part of a sentence; empty where they can."""
        return ""

    def facts(self, path: Path) -> dict[str, str]:
        """The metadata that a file of this target has in it; empty if it has none."""
        return {}

    def loosened(self, path: Path, conf: float) -> Run:
        """As ``open``, of a file with suppression inside, but for another least score: proofs must see some boxes.

        Raises:
            NetbuildError: where a target that takes --nms has no such way.
        """
        raise NetbuildError(f"the target '{self.name}' cannot prove suppression where no box is found")

    def tolerance(self, options: Mapping[str, Any]) -> float:
        """How far outputs may be from torch's, in parts of max(1, |reference|); `ANY` where that is only told."""
        return HALF if options.get("half") else FLOAT


def target(cls: T) -> T:
    """Class decorator: register a `Target` under its ``name``."""
    TARGETS.register(cls.name, cls)
    return cls


def names() -> list[str]:
    """The names of all targets."""
    return TARGETS.names()


def find(name: str) -> "Target":
    """A target by name: registered, built in, or offered by an installed package (group ``netbuild.targets``).

    Raises:
        NetbuildError: if there is none of this name, or the package's does not load.
    """
    return TARGETS.get(name)()


def file_in(folder: Path, suffix: str) -> Path:
    """The one file of a suffix in a folder that a target has written.

    Raises:
        NetbuildError: if there is none, or several.
    """
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise NetbuildError(f"{folder}: one {suffix} is wanted in it, there are {len(found)}")
    return found[0]


def check_packages(chosen: Target) -> None:
    """Say at once which package a target lacks.

    Raises:
        MissingExtraError: with the extra that brings it.
    """
    missing = [PIP_NAMES.get(package, package) for package in chosen.packages if not _is_there(package)]
    if missing:
        said = f"the target '{chosen.name}' needs {', '.join(missing)}, which is not installed"
        raise MissingExtraError(said, hint=f"pip install 'netbuild[{chosen.extra}]'")


def check_flags(chosen: Target, options: Mapping[str, Any]) -> None:
    """Refuse flags that a target does not take, and a call without those that it needs.

    Raises:
        NetbuildError: that names the first.
    """
    for flag in chosen.needs:
        if not options.get(flag):
            raise NetbuildError(f"the target '{chosen.name}' needs --{flag}")
    for flag, value in options.items():
        if value and flag in FLAGS and flag not in chosen.takes:
            takes = ", ".join(f"--{name}" for name in sorted(chosen.takes)) or "none of these flags"
            raise NetbuildError(f"the target '{chosen.name}' does not take --{flag}", hint=f"it takes {takes}")


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
