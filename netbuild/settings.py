"""Settings of a training run: defaults, over them a YAML file, over that flags; each with a line on it. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict, get_args, get_type_hints

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.nodes import Node, parse, read_text


def _of(default: Any, doc: str, low: float | None = None, high: float | None = None, choices: str = "") -> Any:
    """A setting: its default, a line on it, and what it may be."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": tuple(choices.split())})


# What settings are where none was said, by what is learnt from.
PICTURES: dict[str, Any] = {"degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0, "flip_lr": 0.5}
PICTURES |= {"crop": True, "policy": "randaugment", "erasing": 0.4}
DIGITS: dict[str, Any] = {"degrees": 15.0, "translate": 0.1, "scale": 0.2, "shear": 10.0, "flip_lr": 0.0}
DIGITS |= {"crop": False, "policy": "off", "erasing": 0.0}


@dataclass(frozen=True)
class Settings:
    """What a training run does beside its network and its data."""

    epochs: int = _of(100, "passes over the training data", 1, 1_000_000)
    batch: int = _of(16, "images per batch, over all processes together", 1, 65_536)
    imgsz: int | None = _of(None, "side of the square images in pixels; null: the network's own", 1, 32_768)
    seed: int = _of(
        0, "seed of weights, order and augmentation: the same seed gives the same weights on the CPU", 0, 2**31
    )
    device: str = _of("auto", "cpu, cuda, cuda:1, mps; auto takes the first accelerator found")
    workers: int = _of(2, "worker processes that load images; 0 loads them in the main process", 0, 256)
    memory: float = _of(2.0, "GB of decoded pictures cached in memory, in each process of the run", 0, 1e6)
    amp: str = _of(
        "auto",
        "mixed precision; auto is bf16 or fp16 on an accelerator and off on the CPU",
        choices="auto off bf16 fp16",
    )
    compile: bool = _of(False, "whether torch.compile prepares the network")
    parallel: str = _of(
        "ddp", "several processes: ddp has a copy of the network in each, fsdp shards it", choices="ddp fsdp"
    )
    sync_bn: bool = _of(False, "synchronise batch norms over all processes; on GPUs")
    optimizer: str = _of("auto", "auto is AdamW for few steps, SGD for many", choices="auto sgd adamw adam musgd")
    lr: float | None = _of(None, "learning rate after warm-up; null: the optimiser's own", 0, 1e12)
    lr_end: float = _of(0.01, "learning rate of the last epoch, as a fraction of the first", 0, 1)
    schedule: str = _of("linear", "the schedule of the learning rate", choices="linear cosine constant")
    momentum: float = _of(0.937, "of SGD and MuSGD; the first beta of Adam is 0.9", 0, 0.9999)
    weight_decay: float = _of(0.0005, "weight decay, on convolutions and linear layers, not on norms and biases", 0, 1)
    warmup: float = _of(3.0, "epochs of linear warm-up", 0, 1000)
    accumulate: int = _of(0, "batches per optimiser step; 0: enough for about 64 images (16 in short runs)", 0, 65_536)
    clip: float = _of(10.0, "largest norm of the gradient; 0 does not clip", 0, 1e9)
    ema: float = _of(
        0.9999, "decay of the averaged weights (EMA), which are validated and saved; 0: no EMA", 0, 0.999999
    )
    freeze: str = _of("", "rows that are not trained: numbers, ranges such as 0-9, or names, comma-separated")
    best: str = _of("fitness", "the measure that chooses the best epoch; larger is better")
    patience: int = _of(100, "epochs without improvement after which training stops; 0: never", 0, 1_000_000)
    minutes: float = _of(0.0, "minutes after which training stops; 0: no limit", 0, 1e6)
    save_period: int = _of(0, "save a checkpoint every so many epochs; 0: only last and best", 0, 1_000_000)
    class_embeddings: str | None = _of(
        None,
        "file (.npy, .safetensors) with a row of features for each class, for networks with a text input; "
        "null: random features",
    )
    label_smoothing: float = _of(0.0, "classification: share of the target that is spread over all classes", 0, 0.9)
    class_weights: float = _of(0.0, "weight of a class is count^-this, 1 on average; 0: all equal", 0, 2)
    multi_scale: float = _of(0.0, "detection: resize each batch randomly by up to this fraction", 0, 0.9)
    close_mosaic: int = _of(
        10, "epochs at the end without mosaic, mixup, cutmix and copy-paste of detection", 0, 1_000_000
    )
    mosaic: float = _of(1.0, "detection: probability of a mosaic of four images", 0, 1)
    mixup: float = _of(0.0, "probability of blending two images", 0, 1)
    cutmix: float = _of(0.0, "probability of pasting a rectangle of another image", 0, 1)
    copy_paste: float = _of(0.0, "share of the objects with outlines that are pasted again, mirrored", 0, 1)
    degrees: float | None = _of(None, "largest rotation in degrees; null: 0, for single digits 15", 0, 180)
    translate: float | None = _of(None, "largest shift, as a fraction of the image; null: 0.1", 0, 1)
    scale: float | None = _of(None, "largest change of size, as a fraction; null: 0.5, for single digits 0.2", 0, 0.95)
    shear: float | None = _of(None, "largest shear in degrees; null: 0, for single digits 10", 0, 90)
    hsv_h: float = _of(0.015, "largest change of hue, as a fraction of the circle", 0, 0.5)
    hsv_s: float = _of(0.7, "largest change of saturation, as a factor", 0, 1)
    hsv_v: float = _of(0.4, "largest change of brightness, as a factor", 0, 1)
    flip_lr: float | None = _of(None, "probability of a horizontal flip; null: 0.5, for digits 0", 0, 1)
    flip_ud: float = _of(0.0, "probability of a vertical flip", 0, 1)
    crop: bool | None = _of(
        None, "classification: random crops instead of whole images rotated and shifted; null: yes, except for digits"
    )
    policy: str | None = _of(
        None,
        "classification: torchvision's augmentation policy; null: randaugment, off for digits",
        choices="off randaugment autoaugment trivialaugment augmix",
    )
    erasing: float | None = _of(
        None, "classification: probability of erasing a rectangle; null: 0.4, for digits 0", 0, 1
    )
    rect: bool | None = _of(
        None,
        "validate on rectangles of the pictures' aspect ratio, not on squares; null: yes, unless the size is fixed",
    )
    conf: float = _of(0.001, "confidence threshold of boxes in validation", 0, 1)
    iou: float = _of(0.7, "IoU threshold of non-maximum suppression", 0, 1)
    max_det: int = _of(300, "largest number of boxes per image", 1, 100_000)
    plots: bool = _of(True, "draw losses, measures, curves, confusion, labels and some batches into the run's folder")
    tensorboard: bool = _of(False, "write logs for TensorBoard into the run's folder; needs the package tensorboard")
    wandb: bool = _of(
        False, "log to Weights & Biases, offline unless WANDB_MODE says otherwise; needs the package wandb"
    )
    mlflow: bool = _of(
        False, "log to MLflow at MLFLOW_TRACKING_URI, else into the run's folder; needs netbuild[mlflow]"
    )
    lenient: bool = _of(False, "drop wrong labels instead of stopping")
    strict: bool = _of(False, "stop at unreadable pictures instead of dropping them")
    allow_background: bool = _of(False, "detection: train even if no training picture has an object")

    def completed(self, digits: bool, task: str) -> "Settings":
        """With a value wherever none was said: digits are not mirrored, and alone not cropped or painted over."""
        # Boxes are hulls: turned and sheared they would no longer fit.
        own = PICTURES if not digits else DIGITS if task != "detect" else PICTURES | {"flip_lr": 0.0}
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data, in their order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_yaml(self, explained: bool = False) -> str:
        """The settings as a file that gives them; with a comment each if they are to be explained."""
        lines = []
        for f in fields(self):
            value = getattr(self, f.name)
            text = (
                {None: "null", True: "true", False: "false", "": "''"}.get(value, str(value))
                if _is_word(value)
                else str(value)
            )
            lines.append(f"{f.name}: {text}" + (f"  # {f.metadata['doc']}{_range(f.metadata)}" if explained else ""))
        return "\n".join(lines)


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, (bool, str))


def _range(metadata: Mapping[str, Any]) -> str:
    return f": {', '.join(metadata['choices'])}" if metadata["choices"] else ""


class SettingKeywords(TypedDict, total=False):
    """The settings as keywords of functions, for type checkers; a test holds it equal to `Settings`."""

    epochs: int
    batch: int
    imgsz: int | None
    seed: int
    device: str
    workers: int
    memory: float
    amp: str
    compile: bool
    parallel: str
    sync_bn: bool
    optimizer: str
    lr: float | None
    lr_end: float
    schedule: str
    momentum: float
    weight_decay: float
    warmup: float
    accumulate: int
    clip: float
    ema: float
    freeze: str
    best: str
    patience: int
    minutes: float
    save_period: int
    class_embeddings: str | None
    label_smoothing: float
    class_weights: float
    multi_scale: float
    close_mosaic: int
    mosaic: float
    mixup: float
    cutmix: float
    copy_paste: float
    degrees: float | None
    translate: float | None
    scale: float | None
    shear: float | None
    hsv_h: float
    hsv_s: float
    hsv_v: float
    flip_lr: float | None
    flip_ud: float
    crop: bool | None
    policy: str | None
    erasing: float | None
    rect: bool | None
    conf: float
    iou: float
    max_det: int
    plots: bool
    tensorboard: bool
    wandb: bool
    mlflow: bool
    lenient: bool
    strict: bool
    allow_background: bool


FIELDS = {f.name: f for f in fields(Settings)}
TYPES = get_type_hints(Settings)


def load(path: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a run.

    Args:
        path: a YAML file of settings.
        flags: values that go over the file's; None is passed over.

    Raises:
        NetbuildError: at the line of a setting that is unknown or wrong.
    """
    values = _from_file(Path(path)) if path is not None else {}
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _checked(name, value, None)
    return Settings(**values)


def from_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Settings from texts such as ``lr=0.01``, their values as YAML has them.

    Raises:
        NetbuildError: for a text of another form, or an unknown setting.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name.strip() not in FIELDS:
            hint = did_you_mean(name.strip(), FIELDS) or "netbuild train --print-config lists all"
            raise NetbuildError(f"--option {text}: must be NAME=VALUE of a setting", hint=hint)
        found[name.strip()] = parse(value or "''", f"--option {name.strip()}").plain()
    return found


def _from_file(path: Path) -> dict[str, Any]:
    root = parse(read_text(path), str(path))
    if root.value is None:
        return {}
    if not isinstance(root.value, dict):
        raise root.error(f"settings are a mapping such as epochs: 100, this is {root.describe()}")
    for name in root.value:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS) or "netbuild train --print-config lists all"
            raise root.keys[name].error(f"unknown setting '{name}'", hint)
    return {name: _checked(name, node.plain(), node) for name, node in root.value.items()}


def _checked(name: str, value: Any, node: Node | None) -> Any:
    """A setting's value in its type.

    Raises:
        NetbuildError: at its place, if there is one.
    """
    metadata, wanted = FIELDS[name].metadata, get_args(TYPES[name]) or (TYPES[name],)
    if type(value) is int and float in wanted and int not in wanted:
        value = float(value)
    if type(value) not in wanted and not (value is None and type(None) in wanted):
        raise _wrong(name, value, f"must be {_kind(wanted)}", node)
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    if choices and value not in choices and value != FIELDS[name].default:
        raise _wrong(name, value, f"must be one of {', '.join(choices)}", node, did_you_mean(str(value), choices))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not (low or 0) <= value <= high:
        raise _wrong(name, value, f"must be from {low or 0} to {high}", node)
    return value


def _wrong(name: str, value: Any, what: str, node: Node | None, hint: str = "") -> NetbuildError:
    hint = hint or FIELDS[name].metadata["doc"]
    return NetbuildError(f"{name}: {value!r} {what}", node.where if node else None, hint)


def _kind(wanted: tuple[type, ...]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return " or ".join(names[t] for t in wanted)
