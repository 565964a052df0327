"""Training and validation as Python functions, with the settings of the commands as keywords."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from netbuild import settings as settings_file
from netbuild.errors import NetbuildError, check_keywords
from netbuild.graph.opening import NetworkOptions
from netbuild.report.html import html_table
from netbuild.settings import FIELDS
from netbuild.system.files import new_folder
from netbuild.tasks.metric import UNDEFINED
from netbuild.training.callbacks import Callback
from netbuild.training.progress import terminal_progress
from netbuild.training.run import resume as resume_run
from netbuild.training.run import start
from netbuild.training.setting_keywords import SettingKeywords
from netbuild.training.validation import validate


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: the run's folder.
        epochs: number of finished epochs.
        measure: the name of the measure that chose the best epoch.
        best_value: its largest value.
        best_epoch: the epoch of that value, from 1.
        history: losses and measures of every epoch, by name.
    """

    folder: Path
    epochs: int
    measure: str
    best_value: float
    best_epoch: int
    history: list[dict[str, float]]

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.folder / "last.safetensors"

    @property
    def measures(self) -> dict[str, float]:
        """The measures of the best epoch."""
        return dict(self.history[self.best_epoch - 1]) if self.history else {}

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {**vars(self), "folder": str(self.folder), "best": str(self.best), "last": str(self.last)}

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.epochs} epochs, best {self.measure} {self.best_value:.4f} in epoch {self.best_epoch}"
        )


@dataclass(frozen=True)
class ValidationResult:
    """The measures of a network on a data set.

    Attributes:
        measures: name to value, over all classes.
        classes: a row of values for each class.
    """

    measures: dict[str, float]
    classes: list[dict[str, Any]]

    def __getitem__(self, name: str) -> float:
        return self.measures[name]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {"measures": self.measures, "classes": self.classes}

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table: all classes together, then each class.

        Measures of -1 are left out: COCO gives them where there is no object of the kind.
        """
        known = {name: value for name, value in self.measures.items() if value != UNDEFINED}
        return [{"class": "all", **known}, *self.classes]

    def __str__(self) -> str:
        return "\n".join(
            ", ".join(f"{name} {format_value(value)}" for name, value in row.items()) for row in self.rows()
        )

    def _repr_html_(self) -> str:
        return html_table(self.rows())


class TrainKeywords(SettingKeywords, NetworkOptions, total=False):  # type: ignore[misc]
    """The keywords of `train`: the settings of a run, the options of the network's file, and those below.

    Attributes:
        imgsz: the side of the square images, in pixels.
        download: whether rows may download published weights.
        networks: files by name of the further networks that the task trains.
        progress: whether to show a progress bar, if stderr is a terminal; True by default.
    """

    imgsz: int | None  # type: ignore[misc]
    download: bool
    networks: Mapping[str, str | Path] | None
    progress: bool


def train(
    file: str | Path | None = None,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    config: str | Path | None = None,
    weights: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **keywords: Unpack[TrainKeywords],
) -> TrainingResult:
    """Train a network on a data set, as ``netbuild train`` does.

    Args:
        file: the network's file, a packaged name, or a checkpoint; left out with ``resume``.
        data: a data set, as for `netbuild.data.open_data`; None for the embedded data of the network's task. With
            ``resume`` where the run's data lies now, if it was moved.
        out: the run's folder; by default runs/NAME.
        resume: the folder of a run to resume.
        config: a YAML file of settings, which the keywords override.
        weights: a checkpoint whose tensors are copied into rows of the same structure.
        callbacks: objects of `netbuild.training.callbacks.Callback`.
        keywords: any setting of `netbuild.settings.Settings`, the options of the network's file, and those of
            `TrainKeywords`.

    Raises:
        KeywordError: for an unknown keyword.
        NetbuildError: if network, data or settings have an error or do not fit together.
    """
    from_data = {"imgsz", "nc", "ch", "kpt_shape"}
    options_of_network = {*NetworkOptions.__annotations__} - from_data
    settings, options = split_keywords(keywords, options_of_network | {"download", "networks", "progress"})
    enabled = options.pop("progress", True)
    if resume is not None:
        _refuse_with_resume(file=file, out=out, config=config, weights=weights, networks=options.get("networks"))
    elif file is None:
        raise NetbuildError("train() needs the network's file, or resume", hint='netbuild.train("lenet5.yaml")')
    with terminal_progress(enabled, brief=resume is not None) as shown:
        hooks = [*shown, *callbacks]
        if file is None:
            trainer = resume_run(Path(str(resume)), settings, data=data, callbacks=hooks, **options)
        else:
            chosen = settings_file.load(config, settings)
            folder = Path(out) if out is not None else new_folder(Path(file).stem)
            trainer = start(file, data, chosen, folder, weights=weights, callbacks=hooks, **options)
    progress = trainer.run()
    return TrainingResult(
        trainer.folder, progress.epoch, trainer.settings.best, progress.best or 0.0, progress.best_epoch,
        list(progress.history),
    )  # fmt: skip


class ValKeywords(SettingKeywords, total=False):
    """The keywords of `val`: the settings of a validation, and those below.

    Attributes:
        modules, trusted: custom modules that the checkpoint needs or carries, as for `netbuild.build`.
        overlap: of oriented boxes, ``probiou`` or ``polygon``: by which the measures without a prefix are.
        progress: whether to show a progress bar, if stderr is a terminal; True by default.
    """

    modules: Sequence[str | Path]
    trusted: bool | Callable[[Path], bool]
    overlap: str
    progress: bool


def val(
    file: Any,
    data: str | Path,
    *,
    split: str | None = None,
    out: str | Path | None = None,
    **keywords: Unpack[ValKeywords],
) -> ValidationResult:
    """Measure a checkpoint, an ONNX file or a built network on a data set, as ``netbuild val`` does.

    Args:
        file: the checkpoint or ONNX file, or a network as `netbuild.build` gives it.
        data: a data set, as for `netbuild.data.open_data`.
        split: the split of the data set; by default ``val``, or ``test`` if there is no ``val``.
        out: a folder for curves, confusion matrix and pictures; by default nothing is drawn.
        keywords: settings such as ``imgsz``, ``batch``, ``conf``, and those of `ValKeywords`.

    Raises:
        KeywordError: for an unknown keyword.
        NetbuildError: if network, data or settings have an error or do not fit together.
    """
    settings, options = split_keywords(keywords, {"modules", "trusted", "overlap", "progress"})
    chosen, folder = settings_file.load(None, settings), Path(out) if out else None
    with terminal_progress(options.pop("progress", True)) as callbacks:
        return ValidationResult(*validate(file, data, split, chosen, folder, callbacks=callbacks, **options))


def split_keywords(keywords: Mapping[str, Any], others: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keywords into settings of a run and others.

    Args:
        keywords: the keywords of a call.
        others: the names of all keywords that are no settings.

    Raises:
        KeywordError: for a keyword that is neither.
    """
    check_keywords(keywords, {*FIELDS, *others})
    return {k: v for k, v in keywords.items() if k in FIELDS}, {k: v for k, v in keywords.items() if k not in FIELDS}


def _refuse_with_resume(**arguments: Any) -> None:
    """Refuse arguments that have no effect in a resumed run."""
    for name, value in arguments.items():
        if value is not None:
            raise NetbuildError(f"{name} has no effect with resume", hint="leave it out: the run keeps its own")


def format_value(value: Any) -> str:
    """Return a value of a table as text: floats with four decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
