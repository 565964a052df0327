"""`Model`: a network with its operations as methods: summary, train, val, predict, sample, track, export, benchmark."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from netbuild.errors import NetbuildError, check_keywords
from netbuild.export import Exported, export
from netbuild.export.options import BenchmarkKeywords, ExportKeywords
from netbuild.grammar.locate import resolve_run_folder
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions
from netbuild.prediction.predictor import PredictKeywords, Unreadable, predict
from netbuild.prediction.result import Result
from netbuild.prediction.sampling import SampleKeywords, Samples, sample
from netbuild.report.summary import Summary, summarize
from netbuild.tracking.api import track
from netbuild.tracking.result import TrackedResult
from netbuild.training.api import TrainingResult, TrainKeywords, ValidationResult, ValKeywords, train, val
from netbuild.training.callbacks import Callback
from netbuild.weights.building import build
from netbuild.weights.checkpoint import save

if TYPE_CHECKING:
    from netbuild.export.benchmark import BenchmarkResult


class Model:
    """A network, opened by the name of its file.

    The network is built when it is first needed. After `train` the model is the best checkpoint of the run.

    Args:
        file: a YAML file, the name of a packaged architecture, a checkpoint, the folder of a run, or an ONNX file.
        options: how a network's file is read, see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        KeywordError: for an unknown keyword.
        NetbuildError: for a folder without checkpoints.
    """

    def __init__(self, file: str | Path, **options: Unpack[NetworkOptions]) -> None:
        check_keywords(options, NetworkOptions.__annotations__)
        self.file = resolve_run_folder(Path(file))
        self.options = options
        self._network: Network | None = None

    @property
    def is_exported(self) -> bool:
        """Whether the file is an ONNX file, which can predict and be validated, but neither trained nor exported."""
        return self.file.suffix.lower() == ".onnx"

    @property
    def network(self) -> Network:
        """The network, an ``nn.Module``: built once, with the checkpoint's weights or random ones.

        Raises:
            NetbuildError: for a mistake in the file, with its place, and for an ONNX file.
        """
        self._refuse_exported("built")
        if self._network is None:
            self._network = build(self.file, **self.options)
        return self._network

    def summary(
        self,
        *,
        flops: str = "torch",
        fused: bool = False,
        batch: int = 1,
        depth: int = 1,
        **options: Unpack[NetworkOptions],
    ) -> Summary:
        """Return the table of layers, parameters and FLOPs; keywords as for `netbuild.summarize`."""
        self._refuse_exported("summarised; netbuild inspect lists its contents")
        merged = self._with_options(options)
        return summarize(self.file, flops=flops, fused=fused, batch=batch, depth=depth, **merged)

    def train(
        self,
        data: str | Path | None = None,
        *,
        out: str | Path | None = None,
        config: str | Path | None = None,
        weights: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        **keywords: Unpack[TrainKeywords],
    ) -> TrainingResult:
        """Train on a data set; keywords as for `netbuild.train`. The model becomes the run's best checkpoint."""
        self._refuse_exported("trained")
        # The data set decides on the numbers of classes and channels.
        options = {k: v for k, v in self.options.items() if k not in ("nc", "ch")}
        merged: Any = {**options, **keywords}
        result = train(self.file, data, out=out, config=config, weights=weights, callbacks=callbacks, **merged)
        self.file, self._network = result.best, None
        code = ("modules", "trusted")
        self.options = {k: v for k, v in self.options.items() if k in code}  # type: ignore[assignment]
        return result

    def val(
        self,
        data: str | Path,
        *,
        split: str | None = None,
        out: str | Path | None = None,
        **keywords: Unpack[ValKeywords],
    ) -> ValidationResult:
        """Validate on a data set; keywords as for `netbuild.val`."""
        network, code = self._network_and_options()
        merged: Any = {**code, **keywords}
        return val(network, data, split=split, out=out, **merged)

    def predict(
        self, source: Any, *, unreadable: Unreadable | None = None, **keywords: Unpack[PredictKeywords]
    ) -> Iterator[Result]:
        """Yield a `Result` for each picture or video frame; keywords as for `netbuild.predict`."""
        network, code = self._network_and_options()
        merged: Any = {**code, **keywords}
        return predict(network, source, unreadable=unreadable, **merged)

    def sample(self, count: int = 16, **options: Unpack[SampleKeywords]) -> Samples:
        """Make new pictures with a network that was trained to; keywords as for `netbuild.sample`."""
        self._refuse_exported("sampled here")
        network, code = self._network_and_options()
        merged: Any = {**code, **options}
        return sample(network, count, **merged)

    def track(self, source: Any, **keywords: Any) -> Iterator[TrackedResult]:
        """Yield a `TrackedResult` for each frame of videos; keywords as for `netbuild.track`."""
        network, code = self._network_and_options()
        return track(network, source, **{**code, **keywords})

    def export(
        self, target: str = "onnx", out: str | Path | None = None, **keywords: Unpack[ExportKeywords]
    ) -> Exported:
        """Export to another runtime's format and compare with torch; keywords as for `netbuild.export`."""
        self._refuse_exported("exported again")
        return export(self.file, out, target=target, **self._with_options(keywords))

    def benchmark(
        self,
        files: Sequence[str | Path] = (),
        *,
        step: Callable[[], None] = lambda: None,
        **keywords: Unpack[BenchmarkKeywords],
    ) -> "BenchmarkResult":
        """Time the network in several formats side by side; keywords as for `netbuild.benchmark`."""
        from netbuild.export.benchmark import benchmark

        self._refuse_exported("benchmarked alone; pass it in files=[...] of its network's benchmark")
        return benchmark(self.file, files, step=step, **self._with_options(keywords))

    def save(self, path: str | Path) -> Path:
        """Save the network with its weights as a checkpoint."""
        return save(self.network, path)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Model({str(self.file)!r}{options})"

    def _repr_html_(self) -> str | None:
        return None if self.is_exported else self.summary()._repr_html_()

    def _network_and_options(self) -> tuple[Path | Network, dict[str, Any]]:
        """Return the network for `val` and `predict`, and the keywords that go with it.

        These functions know the options of custom code alone; with others the network must be built here.
        """
        code = {name: value for name, value in self.options.items() if name in ("modules", "trusted")}
        return (self.network, {}) if self.options.keys() - code.keys() else (self.file, code)

    def _with_options(self, keywords: Mapping[str, Any]) -> Any:
        """Return the model's options and a call's keywords, which override them; their types differ by function."""
        return {**self.options, **keywords}

    def _refuse_exported(self, action: str) -> None:
        if self.is_exported:
            raise NetbuildError(
                f"{self.file}: an ONNX file cannot be {action}", hint="open its checkpoint or YAML file"
            )
