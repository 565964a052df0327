"""Training and validation as Python functions, with the settings of the commands as keywords."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from netbuild import settings as settings_file
from netbuild.errors import NetbuildError, check_keywords
from netbuild.graph.opening import NetworkOptions
from netbuild.report.html import html_table
from netbuild.settings import FIELDS, SettingKeywords
from netbuild.system.files import new_folder
from netbuild.training.callbacks import Callback
from netbuild.training.run import resume as resume_run
from netbuild.training.run import start
from netbuild.training.validation import validate


@dataclass(frozen=True)
class TrainingResult:
    """What a training run left behind.

    Attributes:
        folder: the run's folder.
        epochs: how many were finished.
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
        """The table: all classes together, then each class. COCO's -1 (no object of the kind) is left out."""
        return [{"class": "all", **{name: value for name, value in self.measures.items() if value >= 0}}, *self.classes]

    def __str__(self) -> str:
        return "\n".join(", ".join(f"{name} {_cell(value)}" for name, value in row.items()) for row in self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows())


class TrainKeywords(SettingKeywords, NetworkOptions, total=False):  # type: ignore[misc]
    """The settings of a run, and the options of the network's file."""

    imgsz: int | None  # type: ignore[misc]
    download: bool
    networks: Mapping[str, str | Path] | None


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
        data: a data set, as for `netbuild.data.open_data`; without one, the embedded data of the network's task.
        out: the run's folder; runs/NAME unless given.
        resume: the folder of a run that is to go on.
        config: a YAML file of settings, which the keywords override.
        weights: a file whose tensors go to the rows of the same structure.
        callbacks: objects of `netbuild.training.callbacks.Callback`.
        keywords: any setting of `netbuild.settings.Settings`; scale, modules, trusted, set, download; and networks, the
            files by name of the further networks that the task trains.

    Raises:
        KeywordError: for a keyword that there is not.
        NetbuildError: for whatever is wrong with network, data or settings.
    """
    settings, options = split_keywords(
        keywords, {*NetworkOptions.__annotations__, "download", "networks"} - {"imgsz", "nc", "ch"}
    )
    if resume is not None:
        _refuse_with_resume(
            file=file, data=data, out=out, config=config, weights=weights, networks=options.get("networks")
        )
        trainer = resume_run(Path(resume), settings, callbacks=callbacks, **options)
    elif file is None:
        raise NetbuildError("train() needs the network's file, or resume", hint='netbuild.train("lenet5.yaml")')
    else:
        chosen = settings_file.load(config, settings)
        folder = Path(out) if out is not None else new_folder(Path(file).stem)
        trainer = start(file, data, chosen, folder, weights=weights, callbacks=callbacks, **options)
    progress = trainer.run()
    return TrainingResult(
        trainer.folder, progress.epoch, trainer.settings.best, progress.best or 0.0, progress.best_epoch,
        list(progress.history),
    )  # fmt: skip


class ValKeywords(SettingKeywords, total=False):
    """The settings of a validation, and the custom modules that a checkpoint carries or needs."""

    modules: Any
    trusted: Any


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
        split: of the data set: ``val``, else ``test``, unless given.
        out: a folder for curves, confusion matrix and pictures.
        keywords: settings such as ``imgsz``, ``batch``, ``conf``, and modules, trusted.

    Raises:
        KeywordError: for a keyword that there is not.
        NetbuildError: for whatever is wrong with network or data.
    """
    settings, options = split_keywords(keywords, {"modules", "trusted"})
    chosen = settings_file.load(None, settings)
    return ValidationResult(*validate(file, data, split, chosen, Path(out) if out else None, **options))


def split_keywords(keywords: Mapping[str, Any], others: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords apart: settings of a run, and the ``others``.

    Raises:
        KeywordError: for one that is neither.
    """
    check_keywords(keywords, {*FIELDS, *others})
    return {k: v for k, v in keywords.items() if k in FIELDS}, {k: v for k, v in keywords.items() if k not in FIELDS}


def _refuse_with_resume(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise NetbuildError(f"{name} has no effect with resume", hint="leave it out: the run's own is used")


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
