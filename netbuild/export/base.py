"""The base class of export targets: a target writes a job to a file and runs that file; the proof is made elsewhere."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from netbuild.data.fitting import Fitting
from netbuild.errors import MissingExtraError, NetbuildError, Where
from netbuild.system.packages import find_older_version, install_hint, least_versions
from netbuild.system.plugins import Registry

# Flags that only some targets take; `Target.takes` names them.
FLAGS = frozenset({"dynamic", "half", "opset", "simplify", "nms", "calibrate", "pictures"})
FLOAT, HALF = 1e-4, 2e-2  # tolerances: |difference| <= tolerance * max(1, |reference|)
ANY = math.inf  # tolerance of quantised files: differences are reported, not judged
PIP_NAMES = {"PIL": "pillow"}  # module name to package name, where they differ
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
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
    """A network prepared for export.

    Args:
        module: on the CPU, in eval mode and float32; takes the network's inputs, returns a flat tuple of tensors.
        examples: one tensor an input, of the fixed sizes; a free batch is at least 2 in them.
        inputs: names of the inputs.
        outputs: names of the outputs.
        dynamic: those of "batch", "height", "width" that stay free.
        axes: for each input, axis number to name of its free axes.
        metadata: to be stored in the file.
        options: those of `FLAGS` that were given, by name; for "nms" the `netbuild.tasks.nms.Filter`.
        rows: label of each row in messages, and its place in the network's file, if known.
        multiple: free heights and widths are multiples of this many pixels.
        lists: places of the outputs that are lists of detections, best first, in which a tie may exchange rows.
        fitting: how pictures become the network's images; None for a network without a picture as input.
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
    lists: tuple[int, ...] = ()
    fitting: Fitting | None = None

    @property
    def half(self) -> bool:
        """Whether weights become float16; inputs and outputs stay float32."""
        return bool(self.options.get("half"))


class Target(ABC):
    """A format that networks are exported to.

    Attributes:
        name: the value of ``--target``.
        suffix: ending of its file or folder, such as ".onnx" or "_openvino".
        holds: for a target that writes a folder, the suffixes of the files and the names of the folders in it; empty
            for a target that writes one file.
        extra: extra of netbuild that installs its packages.
        packages: modules that it imports; they are checked before any work.
        least_torch: the least version of torch that it works with; by default that of netbuild.
        takes: those of `FLAGS` that it supports; others are refused by name.
        needs: those that it requires.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    holds: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "export"
    packages: ClassVar[tuple[str, ...]] = ()
    least_torch: ClassVar[str] = ""
    takes: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def write(self, job: Job, path: Path) -> Sequence[str]:
        """Write the job to a draft, which the caller renames once it is proven.

        Args:
            job: the network to write.
            path: file or folder to write, with the target's suffix.

        Returns:
            Notes for the user: exporter, its version, the effect of flags.

        Raises:
            NetbuildError: if the format cannot express the network, with row and operator if known.
        """

    @abstractmethod
    def open(self, path: Path) -> Run:
        """Open the file; return a function from input arrays to output arrays, both in the file's order."""

    def open_fast(self, path: Path, threads: int) -> Run:
        """As ``open``, in the runtime's fastest mode with this many threads; `netbuild benchmark` times it."""
        return self.open(path)

    def barrier(self) -> str:
        """Why files of this target cannot run on this machine, as a clause; empty if they can."""
        return ""

    def read_metadata(self, path: Path) -> dict[str, str]:
        """The metadata stored in a file of this target; empty if there is none."""
        return {}

    def open_with_conf(self, path: Path, conf: float) -> Run:
        """As ``open``, with another confidence threshold in the file's suppression, so that a proof finds boxes.

        Raises:
            NetbuildError: if a target that takes --nms does not implement this.
        """
        raise NetbuildError(f"the target '{self.name}' cannot prove suppression where no box is found")

    def tolerance(self, options: Mapping[str, Any]) -> float:
        """Upper bound of |difference| / max(1, |reference|); `ANY` if differences are only reported."""
        return HALF if options.get("half") else FLOAT


target = TARGETS.decorate  # class decorator


def names() -> list[str]:
    """The names of all targets."""
    return TARGETS.names()


def find(name: str) -> "Target":
    """Return a target by name: registered, built in, or from an installed package (group ``netbuild.targets``).

    Raises:
        NetbuildError: if no target has this name, or its package fails to load.
    """
    return TARGETS.get(name)()


def file_in(folder: Path, suffix: str) -> Path:
    """Return the only file with a suffix in an exported folder.

    Raises:
        NetbuildError: if there is not exactly one.
    """
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise NetbuildError(f"{folder}: must contain one {suffix} file, and contains {len(found)}")
    return found[0]


def check_packages(chosen: Target) -> None:
    """Refuse a target whose packages are not installed, or too old.

    Raises:
        MissingExtraError: with the command that installs them.
    """
    missing = [PIP_NAMES.get(package, package) for package in chosen.packages if not is_installed(package)]
    if missing:
        message = f"the target '{chosen.name}' needs {', '.join(missing)}, which is not installed"
        raise MissingExtraError(message, hint=install_hint(chosen.extra, missing))
    known = {"torch": chosen.least_torch, **least_versions(chosen.extra)}
    used = ["torch", *(PIP_NAMES.get(package, package).replace("_", "-") for package in chosen.packages)]
    older = {name: version for name in used if (version := find_older_version(name, known.get(name, "")))}
    if older:
        found = ", ".join(f"{name} {known[name]} (here is {version})" for name, version in older.items())
        hint = "pip install " + " ".join(f"'{name}>={known[name]}'" for name in older)
        raise MissingExtraError(f"the target '{chosen.name}' needs {found}", hint=hint)


def check_flags(chosen: Target, options: Mapping[str, Any]) -> None:
    """Refuse flags that a target does not take, and the lack of a flag that it needs.

    Raises:
        NetbuildError: with the first such flag.
    """
    for flag in chosen.needs:
        if not options.get(flag):
            raise NetbuildError(f"the target '{chosen.name}' needs --{flag}")
    for flag, value in options.items():
        if value not in (None, False) and flag in FLAGS and flag not in chosen.takes:
            takes = ", ".join(f"--{name}" for name in sorted(chosen.takes)) or "none of these flags"
            raise NetbuildError(f"the target '{chosen.name}' does not take --{flag}", hint=f"it takes {takes}")


def is_installed(package: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
