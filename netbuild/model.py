"""`Model`: one network with all that can be done to it, as people of this field expect it from Python."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from netbuild.errors import NetbuildError, check_keywords
from netbuild.export import Exported, export
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions
from netbuild.prediction.predictor import predict
from netbuild.prediction.result import Result
from netbuild.report.summary import Summary, summarize
from netbuild.training.api import TrainingResult, ValidationResult, ValKeywords, train, val
from netbuild.weights.building import build
from netbuild.weights.checkpoint import save

if TYPE_CHECKING:
    from netbuild.export.benchmark import BenchmarkResult

BEST = "best.safetensors"


class Model:
    """A network by the name of its file: a YAML file, a packaged name, a checkpoint, a run's folder, an ONNX file.

    The network is built when it is first needed. After `train` the model is the best checkpoint of the run.

    Args:
        file: one of these.
        options: how a network's file is read, see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        KeywordError: for a keyword that there is not.
        NetbuildError: for a folder that is no run.
    """

    def __init__(self, file: str | Path, **options: Unpack[NetworkOptions]) -> None:
        check_keywords(options, NetworkOptions.__annotations__)
        self.file = _checkpoint_of(Path(file)) if Path(file).is_dir() else Path(file)
        self.options = options
        self._network: Network | None = None

    @property
    def is_exported(self) -> bool:
        """Whether the file is an ONNX file, which is run and measured, and neither trained nor exported."""
        return self.file.suffix.lower() == ".onnx"

    @property
    def network(self) -> Network:
        """The network itself, an ``nn.Module``: built once, with the checkpoint's weights or random ones.

        Raises:
            NetbuildError: with the place of every mistake in the file; for an ONNX file.
        """
        self._refuse_exported("built")
        if self._network is None:
            self._network = build(self.file, **self.options)
        return self._network

    def summary(self, **keywords: Any) -> Summary:
        """The table of layers, parameters and FLOPs; keywords as for `netbuild.summarize`."""
        self._refuse_exported("summarised: netbuild inspect looks into it")
        return summarize(self.file, **{**self.options, **keywords})

    def train(self, data: str | Path | None = None, **keywords: Any) -> TrainingResult:
        """Train on a data set; keywords as for `netbuild.train`. The model becomes the run's best checkpoint."""
        self._refuse_exported("trained")
        options = {k: v for k, v in self.options.items() if k not in ("nc", "ch")}  # the data set has its own
        result = train(self.file, data, **{**options, **keywords})
        self.file, self._network = result.best, None
        code = ("modules", "trusted")
        self.options = {k: v for k, v in self.options.items() if k in code}  # type: ignore[assignment]
        return result

    def val(self, data: str | Path, **keywords: Unpack[ValKeywords]) -> ValidationResult:
        """Measure on a data set; keywords as for `netbuild.val`."""
        opened, code = self._opened()
        return val(opened, data, **{**code, **keywords})  # type: ignore[misc]

    def predict(self, source: Any, **keywords: Any) -> Iterator[Result]:
        """Find things in pictures and videos, one `Result` after another; keywords as for `netbuild.predict`."""
        opened, code = self._opened()
        return predict(opened, source, **{**code, **keywords})

    def export(self, target: str = "onnx", out: str | Path | None = None, **keywords: Any) -> Exported:
        """Write the network for another runtime, proven equal; keywords as for `netbuild.export`."""
        self._refuse_exported("exported again")
        return export(self.file, out, target=target, **{**self.options, **keywords})

    def benchmark(self, **keywords: Any) -> "BenchmarkResult":
        """Time the network in all forms side by side; keywords as for `netbuild.benchmark`."""
        from netbuild.export.benchmark import benchmark

        self._refuse_exported("timed beside torch; give it as files=[...] of its network")
        return benchmark(self.file, **{**self.options, **keywords})

    def save(self, path: str | Path) -> Path:
        """Write the network with its weights as a checkpoint."""
        return save(self.network, path)

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Model({str(self.file)!r}{given})"

    def _repr_html_(self) -> str | None:
        return None if self.is_exported else self.summary()._repr_html_()

    def _opened(self) -> tuple[Path | Network, dict[str, Any]]:
        """What is measured or predicts: the file and its own modules, or the network that further options built."""
        code = {name: value for name, value in self.options.items() if name in ("modules", "trusted")}
        return (self.network, {}) if self.options.keys() - code.keys() else (self.file, code)

    def _refuse_exported(self, deed: str) -> None:
        if self.is_exported:
            raise NetbuildError(f"{self.file}: an ONNX file cannot be {deed}", hint="open its checkpoint or YAML file")


def _checkpoint_of(folder: Path) -> Path:
    """The best checkpoint of a run's folder."""
    for path in (folder / BEST, folder / "last.safetensors"):
        if path.is_file():
            return path
    raise NetbuildError(f"{folder}: is a folder without {BEST}", hint="name a network's file, or the folder of a run")
