"""Names of settings in other trainers."""

# Names that other trainers have for these settings, where they are too different to be found as similar ones.
OTHER_NAMES = {
    "lr0": "lr", "learning_rate": "lr", "lrf": "lr_end", "cos_lr": "schedule", "scheduler": "schedule",
    "lr_scheduler": "schedule", "warmup_epochs": "warmup", "warmup_steps": "warmup", "fliplr": "flip_lr",
    "flipud": "flip_ud", "nbs": "accumulate", "auto_augment": "policy", "time": "minutes", "half": "amp",
    "fp16": "amp", "batch_size": "batch", "img_size": "imgsz", "image_size": "imgsz", "imgs": "imgsz", "img": "imgsz",
    "num_workers": "workers", "max_epochs": "epochs", "num_epochs": "epochs", "early_stopping": "patience",
    "random_seed": "seed", "grad_clip": "clip", "gradient_clip_val": "clip", "wd": "weight_decay",
    "conf_thres": "conf", "iou_thres": "iou", "cache": "memory", "project": "--out", "name": "--out",
    "save_dir": "--out", "resume": "--resume", "model": "the first argument", "data": "--data",
    "pretrained": "--weights", "weights": "--weights", "nproc": "--nproc",
}  # fmt: skip
