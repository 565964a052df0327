"""The settings of a run as keywords of `netbuild.train` and `val`, for type checkers."""

from typing import Any, TypedDict


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
    regression_loss: str
    degrade: list[dict[str, dict[str, Any]]] | None
    space: str | None
    patch: int | None
    patches: int | None
    restoration_loss: str
    multi_scale: float
    close_mosaic: int
    mosaic: float | None
    mixup: float
    cutmix: float
    copy_paste: float
    degrees: float | None
    translate: float | None
    scale: float | None
    shear: float | None
    perspective: float
    hsv_h: float
    hsv_s: float
    hsv_v: float
    flip_lr: float | None
    flip_ud: float
    rot90: float
    crop: bool | None
    policy: str | None
    erasing: float | None
    kl: float
    noise_steps: int
    noise_schedule: str
    predicts: str
    class_dropout: float
    adversarial_loss: str
    gradient_penalty: float | None
    critic_steps: int | None
    rect: bool | None
    conf: float
    iou: float
    max_det: int
    anchors: str
    plots: bool
    tensorboard: bool
    wandb: bool
    mlflow: bool
    lenient: bool
    strict: bool
    allow_background: bool
