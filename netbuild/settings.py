"""Settings of a training run: defaults, overridden by a YAML file, overridden by flags. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.degrade import Degradation, check_degrade, read_degrade
from netbuild.grammar.foreign_settings import OTHER_NAMES
from netbuild.grammar.nodes import Node, parse, read_text


def setting(default: Any, doc: str, low: float | None = None, high: float | None = None, choices: str = "") -> Any:
    """Return a dataclass field: default, help text, and the range or the choices (separated by blanks) of its value."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": tuple(choices.split())})


# Defaults of the augmentation settings that are null. Digits are not mirrored (a mirrored 2 is no digit), and as single
# digits neither cropped nor recoloured, but rotated and sheared like handwriting.
PICTURE_DEFAULTS: dict[str, Any] = {"degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0, "flip_lr": 0.5}
PICTURE_DEFAULTS |= {"crop": True, "policy": "randaugment", "erasing": 0.4, "mosaic": 1.0}
DIGIT_DEFAULTS: dict[str, Any] = {"degrees": 15.0, "translate": 0.1, "scale": 0.2, "shear": 10.0, "flip_lr": 0.0}
DIGIT_DEFAULTS |= {"crop": False, "policy": "off", "erasing": 0.0, "mosaic": 1.0}

# Settings that only some tasks can have; a task names those without effect for it in `Task.unused_settings`.
BOX_SETTINGS = ("conf", "iou", "max_det")  # of boxes that are predicted
SCENE_SETTINGS = ("mosaic", "close_mosaic", "copy_paste")  # of pictures that are composed with their targets
LABEL_SETTINGS = ("crop", "policy", "erasing")  # of pictures that are classified
NUMBER_SETTINGS = ("regression_loss",)  # of numbers that are predicted
RESTORATION_SETTINGS = ("degrade", "space", "patch", "patches", "restoration_loss")  # of pictures that are restored
# Settings that only the tasks have that name them in `Task.own_settings`.
OWN_SETTINGS = (
    *("kl", "noise_steps", "noise_schedule", "predicts", "class_dropout"),
    *("adversarial_loss", "gradient_penalty", "critic_steps", *RESTORATION_SETTINGS),
)


@dataclass(frozen=True)
class Settings:
    """The settings of a training run, beside its network and its data."""

    epochs: int = setting(100, "passes over the training data", 1, 1_000_000)
    batch: int = setting(16, "images per batch, over all processes together", 1, 65_536)
    imgsz: int | None = setting(None, "side of the square images in pixels; null: the network's own", 1, 32_768)
    seed: int = setting(
        0, "seed of weights, order and augmentation: the same seed gives the same weights on the CPU", 0, 2**31
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, mps; auto takes the first accelerator found")
    workers: int = setting(2, "worker processes that load images; 0 loads them in the main process", 0, 256)
    memory: float = setting(2.0, "GB of decoded pictures cached in memory, in each process of the run", 0, 1e6)
    amp: str = setting(
        "auto",
        "mixed precision; auto is bf16 or fp16 on an accelerator and off on the CPU",
        choices="auto off bf16 fp16",
    )
    compile: bool = setting(False, "compile the network with torch.compile")
    parallel: str = setting(
        "ddp", "with several processes: ddp keeps a copy of the network in each, fsdp shards it", choices="ddp fsdp"
    )
    sync_bn: bool = setting(False, "synchronise batch norms over all processes; GPUs only")
    optimizer: str = setting("auto", "auto is AdamW for few steps, SGD for many", choices="auto sgd adamw adam musgd")
    lr: float | None = setting(None, "learning rate after warm-up; null: the optimiser's own", 0, 1e12)
    lr_end: float = setting(0.01, "learning rate of the last epoch, as a fraction of the first", 0, 1)
    schedule: str = setting("linear", "course of the learning rate from lr to lr_end", choices="linear cosine constant")
    momentum: float = setting(0.937, "momentum of SGD and MuSGD; the first beta of Adam and AdamW is 0.9", 0, 0.9999)
    weight_decay: float = setting(
        0.0005, "weight decay, on convolutions and linear layers, not on norms and biases", 0, 1
    )
    warmup: float = setting(3.0, "epochs of linear warm-up", 0, 1000)
    accumulate: int = setting(
        0, "batches per optimiser step; 0: enough for about 64 images (16 in short runs)", 0, 65_536
    )
    clip: float = setting(10.0, "largest norm of the gradient; 0 does not clip", 0, 1e9)
    ema: float = setting(
        0.9999, "decay of the averaged weights (EMA), which are validated and saved; 0: no EMA", 0, 0.999999
    )
    freeze: str = setting("", "rows that are not trained: numbers, ranges such as 0-9, or names, comma-separated")
    best: str = setting("fitness", "the measure that chooses the best epoch; larger is better")
    patience: int = setting(100, "epochs without improvement after which training stops; 0: never", 0, 1_000_000)
    minutes: float = setting(0.0, "minutes after which training stops; 0: no limit", 0, 1e6)
    save_period: int = setting(0, "save a checkpoint every so many epochs; 0: only last and best", 0, 1_000_000)
    class_embeddings: str | None = setting(
        None,
        "file (.npy, .safetensors) with a row of features for each class, for networks with a text input; "
        "null: random features",
    )
    label_smoothing: float = setting(0.0, "classification: share of the target that is spread over all classes", 0, 0.9)
    class_weights: float = setting(
        0.0,
        "power p of the class weights count^-p, which are 1 on average; of several labels a picture the weight "
        "(pictures without / with it)^p of those with it; 0: all equal",
        0,
        2,
    )
    regression_loss: str = setting(
        "huber",
        "regression: error of the numbers in standard deviations; huber: squared below 1, absolute above",
        choices="huber l1 l2",
    )
    degrade: list[Degradation] | None = setting(  # noqa: RUF009  the default is None
        None, "restoration: what is done to pictures, in order, such as [{downscale: 3}]; null: what the network states"
    )
    space: str | None = setting(
        None,
        "restoration: the colours; y: luminance; null: what the network states, else by its channels",
        choices="y rgb grey",
    )
    patch: int | None = setting(
        None, "restoration: side of patches in pixels of the truth; null: imgsz times the scale", 1, 32_768
    )
    patches: int | None = setting(
        None, "restoration: patches of each picture in an epoch; null: enough for about 1,000", 1, 100_000
    )
    restoration_loss: str = setting(
        "l1", "restoration: l1, l2, charbonnier, ssim, or a sum with weights such as 0.8*l1 + 0.2*ssim"
    )
    multi_scale: float = setting(0.0, "detection: resize each batch randomly by up to this fraction", 0, 0.9)
    close_mosaic: int = setting(
        10, "detection: epochs at the end without mosaic, mixup, cutmix and copy-paste", 0, 1_000_000
    )
    mosaic: float | None = setting(
        None, "boxes and class maps: probability of a mosaic of four images; null: 1, for depth 0", 0, 1
    )
    mixup: float = setting(0.0, "probability of blending two images", 0, 1)
    cutmix: float = setting(0.0, "probability of pasting a rectangle of another image", 0, 1)
    copy_paste: float = setting(
        0.0, "detection: share of the objects with outlines that are pasted again, mirrored", 0, 1
    )
    degrees: float | None = setting(None, "largest rotation in degrees; null: 0, for single digits 15", 0, 180)
    translate: float | None = setting(None, "largest shift, as a fraction of the image; null: 0.1", 0, 1)
    scale: float | None = setting(
        None, "largest change of size, as a fraction; null: 0.5, for single digits 0.2", 0, 0.95
    )
    shear: float | None = setting(None, "largest shear in degrees; null: 0, for single digits 10", 0, 90)
    perspective: float = setting(
        0.0,
        "largest perspective: how much smaller or larger things get from the middle to an edge, as a fraction",
        0,
        0.4,
    )
    hsv_h: float = setting(0.015, "largest change of hue, as a fraction of the circle", 0, 0.5)
    hsv_s: float = setting(0.7, "largest change of saturation, as a factor", 0, 1)
    hsv_v: float = setting(0.4, "largest change of brightness, as a factor", 0, 1)
    flip_lr: float | None = setting(None, "probability of a horizontal flip; null: 0.5, for digits 0", 0, 1)
    flip_ud: float = setting(0.0, "probability of a vertical flip", 0, 1)
    rot90: float = setting(0.0, "probability of a turn by 90, 180 or 270 degrees", 0, 1)
    crop: bool | None = setting(
        None, "classification: random crops instead of whole images rotated and shifted; null: yes, except for digits"
    )
    policy: str | None = setting(
        None,
        "classification: torchvision's augmentation policy; null: randaugment, off for digits",
        choices="off randaugment autoaugment trivialaugment augmix",
    )
    erasing: float | None = setting(
        None, "classification: probability of erasing a rectangle; null: 0.4, for digits 0", 0, 1
    )
    kl: float = setting(1.0, "vae: weight of the Kullback-Leibler divergence; 1 is the bound of the paper", 0, 1e6)
    noise_steps: int = setting(1000, "diffuse: steps from picture to noise", 2, 100_000)
    noise_schedule: str = setting(
        "cosine", "diffuse: how the noise grows, arXiv 2006.11239 and 2102.09672", choices="linear cosine"
    )
    predicts: str = setting(
        "v", "diffuse: what the network predicts, the noise or v of arXiv 2202.00512", choices="noise v"
    )
    class_dropout: float = setting(
        0.1, "diffuse: share of pictures whose class is withheld, for guidance (arXiv 2207.12598)", 0, 1
    )
    adversarial_loss: str = setting(
        "non-saturating",
        "generate: the loss; wasserstein has a gradient penalty (arXiv 1704.00028)",
        choices="non-saturating hinge wasserstein",
    )
    gradient_penalty: float | None = setting(
        None, "generate: weight of the gradient penalty; null: 10 for wasserstein, else 0", 0, 1e6
    )
    critic_steps: int | None = setting(
        None, "generate: steps of the discriminator for one of the generator; null: 5 for wasserstein, else 1", 1, 1000
    )
    rect: bool | None = setting(
        None,
        "validate on rectangles of the pictures' aspect ratio, not on squares; null: yes, unless the size is fixed",
    )
    conf: float = setting(0.001, "confidence threshold of boxes in validation; 0.01 for oriented boxes", 0, 1)
    iou: float = setting(0.7, "IoU threshold of non-maximum suppression", 0, 1)
    max_det: int = setting(300, "largest number of boxes per image", 1, 100_000)
    anchors: str = setting(
        "auto",
        "detection with anchor boxes: auto replaces anchors that fit the training data badly, keep does not",
        choices="auto keep",
    )
    plots: bool = setting(
        True, "draw losses, measures, curves, confusion, labels and some batches into the run's folder"
    )
    tensorboard: bool = setting(
        False, "write logs for TensorBoard into the run's folder; needs the package tensorboard"
    )
    wandb: bool = setting(
        False, "log to Weights & Biases, offline unless WANDB_MODE says otherwise; needs the package wandb"
    )
    mlflow: bool = setting(
        False, "log to MLflow at MLFLOW_TRACKING_URI, else into the run's folder; needs netbuild[mlflow]"
    )
    lenient: bool = setting(False, "drop wrong labels instead of stopping")
    strict: bool = setting(False, "stop at unreadable pictures instead of dropping them")
    allow_background: bool = setting(False, "detection: train even if no training picture has an object")

    def with_augmentation_defaults(self, augmentation: str, task: str) -> "Settings":
        """Return a copy whose augmentation settings are no longer null.

        Args:
            augmentation: which changes leave the labels true, see `netbuild.data.dataset.Dataset.augmentation`.
            task: what the labels are for, see `Dataset.task`.
        """
        defaults = PICTURE_DEFAULTS
        if augmentation == "digits":
            # Boxes stay upright and no longer fit objects that are rotated or sheared.
            defaults = DIGIT_DEFAULTS if task != "detect" else PICTURE_DEFAULTS | {"flip_lr": 0.0}
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def with_network_defaults(self, values: Mapping[str, Any]) -> "Settings":
        """Return a copy with values that suit a network, for the settings that are still ``auto`` or null.

        A learning rate belongs to its optimiser: with another one that is set it remains null.
        """
        missing = {name: value for name, value in values.items() if getattr(self, name) in ("auto", None)}
        if self.optimizer not in ("auto", values.get("optimizer")):
            missing.pop("lr", None)
        return replace(self, **missing)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, in their order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_yaml(self, comments: bool = False) -> str:
        """Return the settings as the text of a YAML file, optionally with the help text of each as a comment."""
        return format_settings(self, comments)


def format_settings(settings: Any, comments: bool = False) -> str:
    """Return an object of a class with `setting` fields as the text of a YAML file; see `Settings.to_yaml`."""
    lines = []
    for f in fields(settings):
        line = f"{f.name}: {_to_yaml(getattr(settings, f.name))}"
        choices = f.metadata["choices"]
        help_text = f.metadata["doc"] + (f": {', '.join(choices)}" if choices else "")
        lines.append(f"{line}  # {help_text}" if comments else line)
    return "\n".join(lines)


def _to_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, list) else str(value) or "''"


FIELDS = {f.name: f for f in fields(Settings)}


def load(path: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of a run.

    Args:
        path: a YAML file of settings.
        flags: values that override the file's; None is ignored.

    Raises:
        NetbuildError: at the line of a setting that is unknown or wrong.
    """
    values = _from_file(Path(path)) if path is not None else {}
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _check_value(name, value, None)
    return Settings(**values)


def from_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Parse texts such as ``lr=0.01``, whose values are YAML.

    Raises:
        NetbuildError: for a text of another form, or an unknown setting.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name.strip() not in FIELDS:
            raise NetbuildError(f"--option {text}: there is no setting '{name.strip()}'", hint=suggest(name.strip()))
        if not equals:
            raise NetbuildError(f"--option {text}: the value is missing", hint=f"write -O {name.strip()}=VALUE")
        values[name.strip()] = parse(value or "''", f"--option {name.strip()}").plain()
    return values


def suggest(name: str) -> str:
    """Return a hint for the name of a setting that does not exist: its name here, or the most similar one."""
    if other := OTHER_NAMES.get(name.lower()):
        return f"did you mean '{other}'?" if other in FIELDS else f"use {other}"
    return did_you_mean(name, FIELDS) or "netbuild train --print-config lists all"


def list_unstated(path: Path) -> list[str]:
    """List the settings that a file does not state."""
    stated = _from_file(path)
    return [name for name in FIELDS if name not in stated]


def _from_file(path: Path) -> dict[str, Any]:
    root = parse(read_text(path), str(path))
    if root.value is None:
        return {}
    if not isinstance(root.value, dict):
        raise root.error(f"settings must be a mapping such as epochs: 100, not {root.describe()}")
    for name in root.value:
        if name not in FIELDS:
            raise root.keys[name].error(f"unknown setting '{name}'", suggest(name))
    return {name: _check_value(name, node.plain(), node) for name, node in root.value.items()}


def _check_value(name: str, value: Any, node: Node | None) -> Any:
    return check_setting(Settings, name, value, node)


def check_setting(cls: Any, name: str, value: Any, node: Node | None = None) -> Any:
    """Check the type and the range of a setting's value and return it, an integer as float if the setting is a float.

    Args:
        cls: a dataclass whose fields are made by `setting`.
        name: the name of the field.
        value: its value.
        node: where it stands, if it is from a file.

    Raises:
        NetbuildError: for a wrong value, at ``node`` if it is from a file.
    """
    if name == "degrade" and value is not None:
        return read_degrade(node, {}, Path(node.source.name).parent) if node else check_degrade(value)
    field = cls.__dataclass_fields__[name]
    hinted = get_type_hints(cls)[name]
    types = get_args(hinted) or (hinted,)
    if type(value) is int and float in types and int not in types:
        value = float(value)

    def refuse(expected: str, hint: str = "") -> NetbuildError:
        where = node.where if node else None
        return NetbuildError(f"{name}: {value!r} {expected}", where, hint or field.metadata["doc"])

    if type(value) not in types and not (value is None and type(None) in types):
        raise refuse(f"must be {_describe_types(types)}")
    low, high, choices = field.metadata["low"], field.metadata["high"], field.metadata["choices"]
    if choices and value not in choices and value != field.default:
        raise refuse(f"must be one of {', '.join(choices)}", did_you_mean(str(value), choices))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not (low or 0) <= value <= high:
        raise refuse(f"must be from {low or 0} to {high}")
    return value


def _describe_types(types: tuple[type, ...]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return " or ".join(names[t] for t in types)
