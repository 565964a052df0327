"""Run exported ONNX files with numpy, Pillow and onnxruntime only: no torch, no OpenCV, no netbuild.

This file may be copied and used alone: ``python runtime.py model.onnx picture.jpg --json``. It returns the same results
as ``netbuild predict`` on the same file.
"""

import argparse
import ast
import copy
import json
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray

GREY = 114  # value of the padding around a picture
MAX_CANDIDATES = 30_000  # boxes of an image before suppression, whose time and memory grow with their square
MAX_GUESSES = 5  # classes in the records of a classified picture
NMS_OPTIONS = ("iou", "agnostic", "multi_label")  # fields of `Filter` that only suppression uses
MIN_STRIDE = 32  # both sides of a letterboxed picture are multiples of it
MAX_PIXELS = 178_956_970  # of a picture, half a GiB as RGB: protects from decompression bombs
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm"))
FITTINGS = ("letterbox", "middle", "stretch", "whole")
SPACES = {"y": 1, "grey": 1, "rgb": 3}  # channels of the colours that a network restores
RESIZINGS = ("area", "linear")
SCORE_MARGIN = 0.01  # by which rounding, as in float16 and int8, may take a score out of 0 to 1
BOX_FORMS = ("corners", "centres", "parts")
MAX_BYTES = 2**31  # of an ONNX file: protobuf reads no larger one
MAX_SIDE = 2**16  # of a picture or an input
MAX_STRIDE = 2**12
MAX_TEXT = 2**20  # characters of a value in the metadata
MAX_NAME = 300  # characters of a class's name
BOX_TASKS = ("detect", "segment", "pose", "obb")  # tasks whose records have boxes
PIXEL_TASKS = ("semantic", "depth")  # tasks that predict a value for every pixel
PICTURE_TASKS = ("classify", "multilabel", "regress")  # tasks that predict numbers for the whole picture
SEVERAL = "several"  # the task of a file with several heads, each of which has a task of its own
RESTORE = "restore"  # the task of a network that makes pictures better
# The autoencoders have no records.
TASKS = (*BOX_TASKS, *PIXEL_TASKS, *PICTURE_TASKS, "autoencode", "vae", RESTORE, SEVERAL)
LABEL_CONFIDENCE = 0.5  # least probability of a label that is given, where several may hold
# Shape of the values after a box's classes, for files whose metadata lacks it.
DEFAULT_EXTRA = {"segment": (32,), "pose": (17, 3), "obb": (1,)}
MAX_WHOLE = 2**20  # pixels of an input that is restored in one piece; larger ones are divided into tiles
TILE, TILE_MARGIN = 512, 32  # sides of these tiles, and by how much they overlap at each side
BAND_ROWS = 64  # rows of a picture that are classified at once, to bound the memory
FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class RunError(Exception):
    """A mistake in a file, a flag or a picture.

    Args:
        message: what was found and what was expected.
        hint: how to repair it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        text = f"error: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")
        # Text from a file must not send control sequences to the terminal.
        return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class PictureError(RunError):
    """A picture that cannot be read; other pictures are not affected."""


class PackageError(RunError):
    """A package that is not installed."""

    exit_code = 3


# -- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo:
    """How to prepare the input of a file and decode its outputs, from its metadata or given by the user.

    Args:
        task: one of `TASKS`; with another task only `Model.run` works.
        names: names of the classes; None if they are not known.
        stride: both sides of a letterboxed picture are multiples of it.
        size: default height and width that pictures are fitted into.
        channels: channels of the input: 1, 3 or 4.
        fitting: how pictures are brought to the size: ``letterbox``, ``middle`` for a centre crop, or ``stretch``,
            which does not keep their aspect ratio.
        resizing: how pictures are resized, as in the training of the network: ``area`` for area means where they become
            smaller, ``linear`` for bilinear interpolation in any case, as Ultralytics does.
        one2one: whether the outputs are detections, best first, that need no suppression: box, score, class.
        nms: options of the suppression inside the file; None if there is none.
        boxes: form of these boxes: ``corners``, ``centres`` (and sizes), or ``parts``: centres and sizes as fractions
            of the image.
        extra: shape of the values after a box's classes: (32,) mask coefficients, (17, 3) keypoints, (1,) angle.
        queries: whether the file has an entry (B, k, 4+classes) for each query of a decoder, which `Model.run` ranks.
        objectness: whether the file has rows (B, N, 5+classes) with an objectness, by which the class probabilities are
            multiplied; they need suppression.
        numbers: whether the file has the number of each pixel's class (B, h, w), which `Model.run` converts to scores.
        skeleton: pairs of keypoints, by number, that drawings join with a line.
        map_step: pixels per cell of a map that covers only the middle of the image: pictures are fitted into it, and
            mirrored in the margin around it. 0 for a map that covers the whole image.
        heads: the heads of a file with several, in the order of their outputs; empty for a file with one.
        degrade: what was done to the pictures that the network restores, each a kind with its values.
        space: the colours that it restores: ``y`` (luminance), ``rgb`` or ``grey``; None for another task.
        output: channels, height and width of the restored picture for an input of the metadata's size.
    """

    task: str
    names: tuple[str, ...] | None
    stride: int
    size: tuple[int, int]
    channels: int
    fitting: str
    resizing: str = "area"
    one2one: bool = False
    nms: Mapping[str, Any] | None = None
    boxes: str = "corners"
    extra: tuple[int, ...] = ()
    queries: bool = False
    objectness: bool = False
    numbers: bool = False
    skeleton: tuple[tuple[int, int], ...] = ()
    map_step: int = 0
    heads: "tuple[HeadInfo, ...]" = ()
    degrade: tuple[dict[str, Any], ...] = ()
    space: str | None = None
    output: tuple[int, int, int] | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the output has an entry for every cell, so that suppression must be done here."""
        return self.task in BOX_TASKS and not self.one2one and self.nms is None

    def plan_restoration(self, canvas: tuple[int, int] | None) -> "tuple[int, TilePlan]":
        """Return by how many times pictures are enlarged, and how they are divided for the network.

        Args:
            canvas: the only height and width that the file takes; None for any.

        Raises:
            ValueError: if the size of the output does not fit that of the input.
        """
        factor = prod(step["downscale"]["factor"] for step in self.degrade if "downscale" in step)
        scale, border = find_scale(self.size, (self.output or (0, *self.size))[1:], factor)
        return max(factor, scale), TilePlan(scale, border, self.stride, canvas)

    @property
    def extra_count(self) -> int:
        """Number of values after a box's classes."""
        return prod(self.extra) if self.extra else 0


@dataclass(frozen=True)
class HeadInfo:
    """One of several heads of a file.

    Args:
        name: its name.
        info: how its outputs are decoded.
        outputs: number of its outputs.
        weight: its share in a fitness.
        data: name of the data that it was trained on, among several; None for the data set itself.
    """

    name: str
    info: ModelInfo
    outputs: int = 1
    weight: float = 1.0
    data: str | None = None


class Model:
    """An open ONNX file; `load` opens one.

    Attributes:
        info: how its input is prepared and its outputs are decoded.
        fixed_shape: batch, height and width of its input, None where they are free.
        heads: for each of several heads, by its name, the file as if it had this head alone; empty for one head.
    """

    first = 0  # place of its first output among those of the file
    heads: "dict[str, Model]"

    def __init__(self, session: Any, path: Path, given: Mapping[str, Any]) -> None:
        self.session, self.path = session, path
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape or ()) != 4:
            shapes = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise RunError(f"{path}: prediction needs a file with one input (B, C, H, W), this one has {shapes}")
        self.input, self.outputs = inputs[0].name, [o.name for o in session.get_outputs()]
        self.type = inputs[0].type
        if self.type not in (*FLOAT_TYPES, "tensor(uint8)"):
            raise RunError(
                f"{path}: its input has the type {self.type}; supported are float, float16, double and uint8"
            )
        sides = [side if isinstance(side, int) else None for side in inputs[0].shape]
        if any(side is not None and not 1 <= side <= MAX_SIDE for side in sides):
            raise RunError(f"{path}: its input has the shape {inputs[0].shape}; sides must be from 1 to {MAX_SIDE}")
        batch, channels, height, width = sides
        self.fixed_shape = batch, height, width
        self.info = read_info(self, channels, session.get_modelmeta().custom_metadata_map, given)
        self.heads = self._open_heads()
        self.check_outputs(
            [
                [side if isinstance(side, int) else None for side in output.shape] if output.shape else None
                for output in session.get_outputs()
            ]
        )
        for model in self.heads.values() or [self]:
            if model.classes is not None:
                model.check_classes(model.classes)

    def _open_heads(self) -> "dict[str, Model]":
        """Return for each of several heads the file as if it had this head alone.

        Raises:
            RunError: if the heads have not as many outputs as the file.
        """
        heads, found, first = self.info.heads, {}, 0
        if heads and sum(head.outputs for head in heads) != len(self.outputs):
            counts = ", ".join(f"{head.name} {head.outputs}" for head in heads)
            raise RunError(f"{self.path}: its metadata gives its heads {counts} outputs, it has {len(self.outputs)}")
        for head in heads:
            part = copy.copy(self)
            part.info, part.first, part.heads = head.info, first, {}
            part.outputs = self.outputs[first : first + head.outputs]
            found[head.name], first = part, first + head.outputs
        return found

    def split_outputs(self, outputs: Sequence[Any]) -> "Iterator[tuple[str, Model, Sequence[Any]]]":
        """Yield the name of each of several heads, the file with this head alone, and its part of the outputs."""
        for name, head in self.heads.items():
            yield name, head, outputs[head.first : head.first + len(head.outputs)]

    def check_outputs(self, shapes: Sequence[Sequence[int | None] | None]) -> None:
        """Check that the outputs' shapes are those that the metadata promises.

        Args:
            shapes: of the outputs; None for an unknown shape or side.

        Raises:
            RunError: with the metadata and the shape that does not fit it.
        """
        for _, head, of_head in self.split_outputs(shapes):
            head.check_outputs(of_head)
        info = self.info
        if info.nms is not None and len(shapes) != 4:
            message = f"its metadata says that it suppresses boxes, so it must have 4 outputs, not {self.outputs}"
            raise RunError(f"{self.path}: {message}")
        if info.task == "segment" and (len(shapes) < 2 or (shapes[1] is not None and len(shapes[1]) != 4)):
            raise RunError(
                f"{self.path}: masks need a second output, prototypes (B, k, h, w), which the file does not have"
            )
        for name, shape, wanted in zip(self.outputs, shapes, output_shapes(info)):
            if shape is None:
                continue
            fits = len(shape) == len(wanted) and all(
                not isinstance(number, int) or side in (None, number) for side, number in zip(shape, wanted)
            )
            if not fits:
                promised = f"task '{info.task}'" + (f", {len(info.names)} classes" if info.names else "")
                has = ", ".join("?" if side is None else str(side) for side in shape)
                raise RunError(
                    f"{self.path}: its metadata ({promised}) needs the output '{name}' of shape "
                    f"({', '.join(map(str, wanted))}), the file has ({has})"
                )

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the input if both are fixed, else None."""
        _, height, width = self.fixed_shape
        return None if height is None or width is None else (height, width)

    @property
    def classes(self) -> int | None:
        """Number of classes by the output's shape, else by the names; None if neither is known."""
        info, shape = self.info, self.session.get_outputs()[self.first].shape
        if len(shape) == 3 and info.is_dense:
            side, more = (shape[2], 5) if info.objectness else (shape[1], 4)
            if isinstance(side, int):
                return side - more - info.extra_count
        axes = {"semantic": 4, **dict.fromkeys(PICTURE_TASKS, 2)}.get(info.task)
        if len(shape) == axes and isinstance(shape[1], int):
            return shape[1]
        return None if info.names is None else len(info.names)

    def run(self, images: Array) -> list[Array]:
        """Return the file's outputs for images (B, C, H, W), uint8 or floats from 0 to 1.

        A file with a fixed batch size runs as often as needed.

        Raises:
            RunError: if the file cannot run on these images.
        """
        if self.type == "tensor(uint8)":
            values = images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)
        else:
            values = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
            values = values.astype(FLOAT_TYPES[self.type], copy=False)
        step = self.fixed_shape[0] or len(values)
        parts = [self._run(values[i : i + step], step, i) for i in range(0, len(values), step)]
        return parts[0] if len(parts) == 1 else [np.concatenate(several) for several in zip(*parts)]

    def _run(self, values: Array, step: int, start: int) -> list[Array]:
        missing = step - len(values)
        if missing:  # the batch size is fixed: fill up with zeros
            values = np.concatenate((values, np.zeros((missing, *values.shape[1:]), values.dtype)))
        try:
            found = self.session.run(self.outputs, {self.input: np.ascontiguousarray(values)})
        except Exception as error:  # onnxruntime's exceptions have no common base class
            message = f"{self.path}: the file fails on images of shape {list(values.shape)}: {_shorten(error)}"
            raise RunError(message, hint="try another --imgsz") from None
        self._check_arrays(found, step)
        if self.info.queries:
            found = [rank_queries(found[0])]
        if self.info.numbers:
            found = [score_classes(found[0], len(self.info.names or ()))]
        if self.info.nms is None:
            return [output[: step - missing] for output in found]
        return [*found[:3], found[3] + start]

    def _check_arrays(self, found: Sequence[Any], count: int) -> None:
        """Check types, shapes and values of the outputs for ``count`` images."""
        for output, name in zip(found, self.outputs):
            if not isinstance(output, np.ndarray) or output.ndim == 0 or output.dtype.kind not in "fiub":
                raise RunError(f"{self.path}: its output '{name}' is not a tensor of numbers with a batch axis")
            if self.info.task in TASKS and output.dtype.kind == "f" and not np.isfinite(output).all():
                hint = "the network has diverged, or its values are too large for the type of the file"
                raise RunError(f"{self.path}: its output '{name}' has values that are NaN or infinite", hint)
            if self.info.nms is None and len(output) != count:
                raise RunError(f"{self.path}: its output '{name}' has {len(output)} rows for a batch of {count} images")
        for _, head, of_head in self.split_outputs(found):
            head._check_arrays(of_head, count)
        if self.info.task not in TASKS or self.heads:
            return
        self.check_outputs([output.shape for output in found])
        if self.info.nms is not None:
            if len({len(output) for output in found}) > 1:
                sizes = ", ".join(str(len(output)) for output in found)
                raise RunError(f"{self.path}: boxes, scores, classes and index differ in length: {sizes}")
            self._check_numbers(found[1], found[2])
        elif self.info.one2one and not self.info.queries:
            self._check_numbers(found[0][..., 4], found[0][..., 5])
        elif self.info.numbers:
            self._check_numbers(np.ones_like(found[0]), found[0])
        elif self.info.is_dense:
            # Rows are (B, cells, 5+classes) with objectness, else (B, 4+classes+extra, cells).
            last = found[0].shape[1] - self.info.extra_count
            self._check_scores(found[0][..., 4:] if self.info.objectness else found[0][:, 4:last])

    def _check_scores(self, scores: Array) -> None:
        """Check that scores are probabilities."""
        if scores.size and not (scores.min() >= -SCORE_MARGIN and scores.max() <= 1 + SCORE_MARGIN):
            message = f"its scores are from {scores.min():.4g} to {scores.max():.4g}, and not probabilities from 0 to 1"
            raise RunError(f"{self.path}: {message}", hint="are they logits, or in another order?")

    def _check_numbers(self, scores: Array, classes: Array) -> None:
        """Check that detections have scores from 0 to 1, and those with a score the number of a class."""
        self._check_scores(scores)
        most = len(self.info.names) if self.info.names else MAX_SIDE
        seen = classes[scores > 0]
        wrong = seen[~((seen >= 0) & (seen < most))]  # NaN is neither
        if len(wrong):
            raise RunError(f"{self.path}: its outputs have the class {wrong[0]}, its metadata has {most} classes")

    # -- prediction ---------------------------------------------------------------------------------------------------

    def predict(self, picture: str | Path | Array, **options: Any) -> dict[str, Any]:
        """Predict a picture; return its width, height and records, and its path if it is a file.

        The records of several heads are a dict by their names.

        Args:
            picture: a file, or uint8 (H, W), (H, W, 3) RGB, or (H, W, 4).
            options: ``imgsz`` and ``rect`` as for `choose_size`; for tasks with boxes also fields of `Filter`.

        Raises:
            RunError: for a mistake in picture or options.
        """
        if self.info.task == RESTORE:
            self._check_restore_options(options)
            image, path = self._read_rgb(picture)
            (height, width), records = image.shape[:2], self.restoration_records(self._restore(image))
        else:
            path, outputs, placement, limits = self._run_on_picture(picture, options)
            height, width = placement.size
            records = self.make_records(outputs, placement, limits)
        return {**({} if path is None else {"path": path}), "width": width, "height": height, "records": records}

    def map(self, picture: str | Path | Array, **options: Any) -> Array:
        """Predict a picture; return for every pixel (H, W) the number of its class (-1 for none), or its distance.

        Of the task ``restore`` it is the restored picture, RGB (H, W, 3).

        Raises:
            RunError: as `predict`, and for a task that is neither ``restore`` nor one of `PIXEL_TASKS`.
        """
        if self.info.task == RESTORE:
            self._check_restore_options(options)
            return self._restore(self._read_rgb(picture)[0])
        if self.info.task not in PIXEL_TASKS:
            hint = "predict returns its records"
            pixels = [name for name, head in self.heads.items() if head.info.task in PIXEL_TASKS]
            if pixels:
                hint = f"one of its heads has: Model.heads['{pixels[0]}'].map(picture)"
            raise RunError(f"the task '{self.info.task}' has no value for every pixel", hint=hint)
        _, outputs, placement, _ = self._run_on_picture(picture, options)
        return PIXEL_MAPS[self.info.task](outputs[0][0], placement)

    def _check_restore_options(self, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            if value is not None:
                raise RunError(f"{name} has no effect for the task '{RESTORE}'", hint="leave it out")

    def _read_rgb(self, picture: str | Path | Array) -> tuple[Array, str | None]:
        """Return a picture (H, W, 3), RGB, and its path if it is a file."""
        part = copy.copy(self)
        part.info = replace(self.info, channels=3)
        return part.read_pixels(picture)

    def _restore(self, image: Array) -> Array:
        """Return a restored picture (H, W, 3), RGB, of a picture (h, w, 3)."""
        factor, plan = self.info.plan_restoration(self.fixed_size)
        values = convert_space(image, self.info.space or "")
        if factor > plan.scale:  # the network takes pictures that are enlarged already
            factor //= plan.scale
            values = resize_bicubic(values, values.shape[0] * factor, values.shape[1] * factor)
        images = values.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
        plan = plan.for_size(*images.shape[2:])
        found = restore_in_tiles(lambda tile: self.run(tile)[0].astype(np.float32), images, plan, np.concatenate)
        return join_colours(image, found[0].transpose(1, 2, 0).clip(0, 1) * 255, self.info.space or "")

    def restoration_records(self, restored: Array) -> list[dict[str, Any]]:
        """Return one record with the size of a restored picture, and by how many times it is larger."""
        factor, _ = self.info.plan_restoration(self.fixed_size)
        return [{"width": restored.shape[1], "height": restored.shape[0], "scale": factor}]

    def _run_on_picture(
        self, picture: str | Path | Array, options: dict[str, Any]
    ) -> tuple[str | None, list[Array], "Placement", "Filters"]:
        """Return the path of a picture, the outputs for it, its placement in the input, and the filter."""
        if self.info.task not in TASKS:
            hint = "Model.run returns the raw outputs"
            raise RunError(f"outputs of the task '{self.info.task}' cannot be decoded here", hint)
        size, rect = self.choose_size(options.pop("imgsz", None), options.pop("rect", None))
        limits = self.make_filter({name: value for name, value in options.items() if value is not None})
        pixels, path = self.read_pixels(picture)
        fitted, placement = self.fit(pixels, size, rect)
        return path, self.run(np.ascontiguousarray(fitted.transpose(2, 0, 1))[None]), placement, limits

    def document(self, pictures: Iterable[str | Path], **options: Any) -> dict[str, Any]:
        """Return all results as ``netbuild predict --json`` prints them; unreadable pictures are in "failed"."""
        found: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for picture in pictures:
            try:
                found.append(self.predict(picture, **options))
            except PictureError as error:
                failed.append({"path": str(picture), "reason": error.message})
        heads = {name: head._describe() for name, head in self.heads.items()}
        return {**self._describe(), **({"heads": heads} if heads else {}), "pictures": found, "failed": failed}

    def _describe(self) -> dict[str, Any]:
        return {"task": self.info.task, "names": None if self.info.names is None else list(self.info.names)}

    def choose_size(
        self, imgsz: int | tuple[int, int] | None = None, rect: bool | None = None
    ) -> tuple[tuple[int, int], bool]:
        """Return the height and width that pictures are fitted into, and whether padding is kept small (rect).

        Args:
            imgsz: one side, or height and width; the file's own size by default.
            rect: whether to pad only up to the next multiple of the stride, not to the whole size.

        Raises:
            RunError: for a size that the file does not accept, or a ``rect`` without effect.
        """
        size = self.info.size if imgsz is None else (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        if min(size) < 1:
            raise RunError(f"imgsz {size[0]}x{size[1]}: sides must be at least 1")
        if self.fixed_size and size != self.fixed_size:
            height, width = self.fixed_size
            hint = f"leave it out, or export with --dynamic size; the file was made for {height}x{width}"
            raise RunError(f"{self.path}: imgsz {size[0]}x{size[1]}: the file takes {height}x{width} only", hint)
        if rect is not None and (self.fixed_size or self.info.fitting != "letterbox"):
            takes = "stretched pictures" if self.info.fitting == "stretch" else "the middle of pictures"
            kind = "whose size is fixed" if self.fixed_size else f"that takes {takes}"
            raise RunError(f"rect has no effect on a file {kind}", hint="leave it out")
        return size, self.fixed_size is None and rect is not False

    @property
    def option_names(self) -> set[str]:
        """The names of the options of `make_filter` that have an effect on this file."""
        if self.heads:
            return set().union(*(head.option_names for head in self.heads.values()))
        if self.info.task == "multilabel":
            return {"conf"}
        needless = set(NMS_OPTIONS) if self.info.one2one or self.info.nms is not None else set()
        return set(Filter.__dataclass_fields__) - needless if self.info.task in BOX_TASKS else set()

    def make_filter(self, given: Mapping[str, Any]) -> "Filters":
        """Make a filter from options by name; ``classes`` are numbers or names. For several heads one each, by name.

        Raises:
            RunError: for an option without effect on this file, or a wrong value.
        """
        known = self.option_names
        if self.info.task == "multilabel":
            given = {"conf": LABEL_CONFIDENCE, **given}
        for name in given:
            if name not in known:
                is_box = self.info.task in BOX_TASKS and name in NMS_OPTIONS
                where = "without suppression" if is_box else f"for the task '{self.info.task}'"
                raise RunError(f"{name} has no effect {where}", hint="leave it out")
        if self.heads:
            return {
                name: head.make_filter({key: value for key, value in given.items() if key in head.option_names})
                for name, head in self.heads.items()
            }
        wanted = given.get("classes")
        limits = Filter(**{**given, **({} if wanted is None else {"classes": self.class_numbers(wanted)})})
        return self.restrict_filter(limits, given)

    def restrict_filter(self, limits: "Filter", given: Mapping[str, Any]) -> "Filter":
        """Limit a filter to what the suppression inside the file lets through.

        Raises:
            RunError: for a given option that asks for more.
        """
        inside = self.info.nms or {}
        conf, max_det = inside.get("conf", 0), inside.get("max_det")
        if "conf" not in given and conf:
            limits = replace(limits, conf=conf)
        if limits.conf < conf:
            raise RunError(f"conf {limits.conf}: the file itself drops what is below {conf}", hint=_EXPORT_AGAIN)
        if max_det and "max_det" in given and limits.max_det > max_det:
            raise RunError(f"max_det {limits.max_det}: the file itself returns at most {max_det}", hint=_EXPORT_AGAIN)
        return limits

    def class_numbers(self, wanted: str | Sequence[str | int]) -> tuple[int, ...]:
        """Return the numbers of classes that are given by number or name.

        Raises:
            RunError: for a class that does not exist.
        """
        names = self.info.names or ()
        numbers = []
        for text, number in find_classes(wanted, names):
            if number is None:
                raise RunError(f"classes: there is no class '{text}'", hint=f"there is {', '.join(names[:20])}")
            numbers.append(number)
        return tuple(numbers)

    def read_pixels(self, picture: str | Path | Array) -> tuple[Array, str | None]:
        """Return a picture (H, W, C) with the input's channels, and its path if it is a file."""
        if isinstance(picture, (str, Path)):
            return read_image(picture, self.info.channels), str(picture)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise RunError(f"pictures must be uint8 (H, W, C), this is {picture.dtype} {list(picture.shape)}")
        image = picture if picture.ndim == 3 else picture[..., None]
        if image.shape[2] not in PILLOW_MODES:
            raise RunError(f"pictures must have 1, 3 or 4 channels, this one has {image.shape[2]}")
        return _convert_channels(image, self.info.channels), None

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map in the first output.

        Raises:
            RunError: if they are not fixed.
        """
        shape = self.session.get_outputs()[self.first].shape
        if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]):
            raise RunError(f"{self.path}: its metadata 'map_step' needs an output of a fixed size, not {list(shape)}")
        return shape[2], shape[3]

    def fit(self, pixels: Array, size: tuple[int, int], rect: bool) -> tuple[Array, "Placement"]:
        """Fit a picture (H, W, C) to the input size; return it and its placement.

        Of a file whose map covers the middle of the input, it is the placement in this middle.
        """
        if not self.info.map_step:
            return self._fit(pixels, size, rect, 1 if self.fixed_size else self.info.stride)
        h, w = self.map_size
        fitted, placement = self._fit(pixels, (h * self.info.map_step, w * self.info.map_step), False, 1)
        return mirror_margin(fitted, size), placement

    def _fit(self, pixels: Array, size: tuple[int, int], rect: bool, stride: int) -> tuple[Array, "Placement"]:
        """Fit a picture to a size whose sides are multiples of a stride; return it and its placement."""
        resizing = self.info.resizing
        if self.info.fitting == "middle":
            return center_crop(pixels, size, resizing)
        if self.info.fitting == "stretch":
            return stretch(pixels, size, stride, resizing)
        return letterbox(pixels, size, stride, rect, resizing)

    def make_records(self, outputs: Sequence[Array], placement: "Placement", limits: "Filters") -> Any:
        """Decode the outputs for one picture to records: JSON data, in pixels of the original picture."""
        if self.heads:
            found = self.split_outputs(outputs)
            return {name: head.make_records(of_head, placement, limits[name]) for name, head, of_head in found}
        task = self.info.task
        if task in BOX_TASKS:
            rows = self.decode_rows(outputs, 1, limits, placement.input_size)[0]
            records, make_fields = self.box_records(rows, placement), EXTRA_FIELDS.get(task)
            if make_fields is None:
                return records
            fields = make_fields(rows, self.info, outputs, placement)
            return [{**record, **more} for record, more in zip(records, fields)]
        if task == "classify":
            return self.class_records(self.compute_probabilities(outputs)[0])
        if task in PICTURE_TASKS:
            values = self.read_numbers(outputs)[0]
            return self.label_records(values, limits.conf) if task == "multilabel" else self.number_records(values)
        if task == "semantic":
            labels = classify_pixels(self.check_logits(outputs), placement)
            return [{**self.class_fields(number), **area} for number, area in list_areas(labels)]
        return [summarize_depth(resample_depth(outputs[0][0], placement))] if task == "depth" else []

    def decode_rows(self, outputs: Sequence[Array], count: int, limits: "Filter", size: tuple[int, int]) -> list[Array]:
        """Return the detections (n, 6+extra) of ``count`` images, best first: corners in pixels, score, class, extra.

        For a box with an angle the corners are those before rotation. ``size`` is the input's height and width.
        """
        info = self.info
        if info.nms is not None:
            return [filter_rows(rows, limits) for rows in split_detections(outputs, count)]
        y, extra = outputs[0].astype(np.float32, copy=False), info.extra_count
        if info.one2one:
            if y.ndim != 3 or y.shape[2] != 6 + extra:
                raise RunError(f"{self.path}: its output has the shape {list(y.shape)}, not (B, k, {6 + extra})")
            return [filter_rows(rows, limits) for rows in convert_boxes(y, info.boxes, size)]
        if info.objectness:
            y = join_objectness(y)
        nc = y.shape[1] - 4 - extra if y.ndim == 3 else -1
        self.check_classes(nc)
        return [suppress(image, limits, nc, info.task == "obb") for image in y]

    def check_logits(self, outputs: Sequence[Array]) -> Array:
        """Check the number of classes and return the logits (nc, h, w) of one picture."""
        self.check_classes(outputs[0].shape[1] if outputs[0].ndim == 4 else -1)
        return outputs[0][0]

    def compute_probabilities(self, outputs: Sequence[Array]) -> Array:
        """Return class probabilities (B, nc) from the first output, which may be logits."""
        y = self.read_numbers(outputs)
        return y if is_probability(y) else softmax(y)

    def read_numbers(self, outputs: Sequence[Array]) -> Array:
        """Return the first output, (B, classes)."""
        y: Array = outputs[0].astype(np.float32, copy=False)
        if y.ndim != 2:
            raise RunError(f"{self.path}: its output has the shape {list(y.shape)}, not (B, classes)")
        self.check_classes(y.shape[1])
        if not np.isfinite(y).all():
            raise RunError(f"{self.path}: its output has values that are not finite")
        return y

    def check_classes(self, count: int) -> None:
        """Check that the outputs have as many classes as there are names.

        Raises:
            RunError: if the numbers differ.
        """
        names = self.info.names
        if count < 1 or (names is not None and count != len(names)):
            known = "unknown" if names is None else len(names)
            raise RunError(f"{self.path}: its output has {count} classes, names are given for {known}")

    def box_records(self, rows: Array, placement: "Placement") -> list[dict[str, Any]]:
        """Return class, name, confidence and box of each detection: [x1, y1, x2, y2] in pixels of the picture."""
        corners = placement.undo(rows[:, :4]).tolist()
        return [
            {**self.class_fields(int(number)), "confidence": round(score, 5), "box": [round(x, 3) for x in box]}
            for box, (score, number) in zip(corners, rows[:, 4:6].tolist())
        ]

    def class_records(self, p: Array) -> list[dict[str, Any]]:
        """Return the likeliest classes of probabilities (nc,), best first."""
        if np.isnan(p).any():
            raise RunError(f"{self.path}: its probabilities are NaN")
        return [
            {**self.class_fields(int(i)), "confidence": round(float(p[i]), 5)}
            for i in _argsort_descending(p)[:MAX_GUESSES]
        ]

    def label_records(self, p: Array, conf: float) -> list[dict[str, Any]]:
        """Return the labels with at least this probability, of probabilities (nc,), likeliest first."""
        return [
            {**self.class_fields(int(i)), "confidence": round(float(p[i]), 5)}
            for i in _argsort_descending(p)
            if p[i] >= conf and p[i] > 0
        ]

    def number_records(self, values: Array) -> list[dict[str, Any]]:
        """Return name and value of each number (n,)."""
        return [{**self.class_fields(i), "value": round_digits(float(value))} for i, value in enumerate(values)]

    def class_fields(self, number: int) -> dict[str, Any]:
        """Return number and name of a class, as records contain them."""
        names = self.info.names
        return {"class": number, "name": names[number] if names and 0 <= number < len(names) else str(number)}


_EXPORT_AGAIN = "use the file's limits, or export it again with others or without --nms"


def load(
    file: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0, **given: Any
) -> Model:
    """Open an ONNX file.

    Args:
        file: a file of ``netbuild export``, or another, whose fields of `ModelInfo` are given.
        providers: execution providers of onnxruntime, in order of preference.
        threads: threads of each operator; 0 leaves the number to onnxruntime.
        given: fields of `ModelInfo` that complete or override the file's metadata: ``task``, ``names``, ``stride``, ...

    Raises:
        PackageError: without onnxruntime.
        RunError: if the file cannot be read, or its metadata is incomplete.
    """
    path = Path(file)
    session = _open_session(path, providers, threads)
    try:
        return Model(session, path, given)
    except RunError:
        raise
    except Exception as error:  # texts that are no UTF-8, types without a shape
        raise RunError(f"{path}: its description cannot be read: {_shorten(error) or type(error).__name__}") from None


def _open_session(path: Path, providers: Sequence[str], threads: int) -> Any:
    """Open a file in onnxruntime; arguments and errors as for `load`."""
    try:
        import onnxruntime
    except ImportError:
        raise PackageError("running ONNX files needs onnxruntime", hint="pip install onnxruntime") from None
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a FIFO would wait for ever
            raise RunError(f"{path}: cannot be read: {'a folder' if path.is_dir() else 'not a regular file'}")
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not facts.st_size:
        raise RunError(f"{path}: the file is empty")
    if facts.st_size > MAX_BYTES:
        raise RunError(
            f"{path}: {facts.st_size:,} bytes, more than an ONNX file can have", hint="it may be no ONNX file"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base class
        message = f"{path}: onnxruntime cannot open the file: {_shorten(error)}"
        hint = "it may be no ONNX file, or truncated: compare its size with the original"
        if re.search(r"opset \d|IR version", str(error)):
            message = f"{path}: onnxruntime {onnxruntime.__version__} is too old for the file's opset"
            hint = "pip install -U onnxruntime, or export it with --opset 18"
        raise RunError(message, hint=hint) from None
    return session


def output_shapes(info: ModelInfo) -> tuple[tuple[int | str, ...], ...]:
    """The shapes of outputs that an info promises; a side that is not known has a letter."""
    nc: int | str = len(info.names) if info.names else "classes"
    if info.nms is not None:
        return ("n", 4), ("n",), ("n",), ("n",)
    if info.task in BOX_TASKS:
        if info.queries:
            return (("B", "k", f"4 + {nc}"),)
        # The number of classes of a dense output has a message of its own.
        dense = ("B", "boxes", "5 + classes") if info.objectness else ("B", "4 + classes + extra", "cells")
        first = ("B", "k", 6 + info.extra_count) if info.one2one else dense
        return (first, ("B", info.extra[0], "h", "w")) if info.task == "segment" else (first,)
    if info.task in PICTURE_TASKS:
        return (("B", nc),)
    if info.task == RESTORE:
        return (("B", info.channels, "h", "w"),)
    if info.task in PIXEL_TASKS:
        return (("B", "h", "w") if info.numbers else ("B", 1 if info.task == "depth" else "classes", "h", "w"),)
    return ()


def read_info(model: Model, channels: int | None, metadata: Mapping[str, str], given: Mapping[str, Any]) -> ModelInfo:
    """Collect the info of a file: given by the user, else from its metadata, else from its input's shape.

    Raises:
        RunError: if something is missing or contradictory.
    """
    stored = _read_metadata(metadata, model.path)
    values = {**stored, **{k: v for k, v in given.items() if v is not None}}
    if "task" not in values:
        hint = "give netbuild.runtime what it lacks: --task detect --names cat,dog --stride 32"
        message = f"{model.path}: the file has no metadata of netbuild or Ultralytics: no task, names and stride"
        raise RunError(message, hint)
    if channels and stored.get("channels", channels) != channels:
        raise RunError(
            f"{model.path}: its metadata 'channels' is {stored['channels']}, its input has {channels} channels"
        )
    if model.fixed_size and stored.get("size", model.fixed_size) != model.fixed_size:
        (height, width), (h, w) = stored["size"], model.fixed_size
        raise RunError(f"{model.path}: its metadata 'imgsz' is {height}x{width}, its input takes {h}x{w}")
    task = values["task"]
    usual = "whole" if task == RESTORE else "letterbox" if task in (*BOX_TASKS, *PIXEL_TASKS) else "middle"
    fitting = values.get("fitting") or usual
    if fitting not in FITTINGS or (fitting == "whole") != (task == RESTORE):
        raise RunError(f"{model.path}: its metadata 'fitting' is '{fitting}'; known are {', '.join(FITTINGS)}", _WHOLE)
    size = model.fixed_size or (stored if task == RESTORE else values).get("size")
    if size is None:
        hint = "give it: --imgsz 640"
        raise RunError(f"{model.path}: it takes any size and its metadata has no default", hint=hint)
    if fitting == "letterbox" and not model.fixed_size:
        size = (max(size),) * 2
    channels = channels or values.get("channels", 3)
    if channels not in PILLOW_MODES:
        raise RunError(f"{model.path}: pictures have 1, 3 or 4 channels, its input has {channels}")
    stride = int(values.get("stride", 1)) if task == RESTORE else max(MIN_STRIDE, values.get("stride", MIN_STRIDE))
    names = values.get("names")
    names = None if names is None else tuple(map(str, names))
    extra = tuple(values.get("extra", DEFAULT_EXTRA.get(task, ())))
    _check_task(model.path, task, extra, values)
    known = {name: values[name] for name in _OPTIONAL_FIELDS if name in values}
    info = ModelInfo(task, names, stride, tuple(size), channels, fitting, extra=extra, **known)
    if info.resizing not in RESIZINGS:
        raise RunError(f"{model.path}: its metadata 'resizing' is '{info.resizing}'; known are {', '.join(RESIZINGS)}")
    if task == RESTORE:
        _check_restoration(model.path, info, model.fixed_size)
    if task == SEVERAL:
        return replace(info, heads=tuple(_make_head(info, fields) for fields in values["heads"]))
    if "netbuild" in metadata or stored == {}:
        return info
    return _complete_ultralytics(info, model, metadata.get("head", ""))


_OPTIONAL_FIELDS = (
    *("resizing", "one2one", "nms", "boxes", "objectness", "skeleton", "map_step"),
    *("degrade", "space", "output"),
)
_WHOLE = f"whole is for the task '{RESTORE}', and that takes no other"


def _check_task(path: Path, task: str, extra: tuple[int, ...], values: Mapping[str, Any]) -> None:
    """Check that the metadata of a file fits its task.

    Raises:
        RunError: if it does not.
    """
    heads = values.get("heads", ())
    if (task == SEVERAL) != bool(heads):
        raise RunError(f"{path}: its metadata has the task '{task}' and describes {len(heads)} heads")
    if len(extra) != len(DEFAULT_EXTRA.get(task, ())) or (task == "pose" and extra[1] not in (2, 3)):
        raise RunError(f"{path}: the task '{task}' cannot have {list(extra)} values after a box's classes")
    if values.get("objectness") and task != "detect":
        raise RunError(f"{path}: its metadata says that boxes have an objectness, but its task is '{task}'")
    if values.get("nms") is not None and task not in BOX_TASKS:
        raise RunError(f"{path}: its metadata says that it suppresses boxes, but its task is '{task}'")


def _check_restoration(path: Path, info: ModelInfo, canvas: tuple[int, int] | None) -> None:
    """Check that the metadata of a file that restores pictures is there, and fits its sizes.

    Raises:
        RunError: if it does not.
    """
    if info.space is None or info.output is None:
        missing = "space" if info.space is None else "output"
        raise RunError(f"{path}: its metadata has no '{missing}', which the task '{RESTORE}' needs")
    if SPACES[info.space] != info.channels:
        raise RunError(f"{path}: its metadata 'space' is '{info.space}', its input has {info.channels} channels")
    try:
        info.plan_restoration(canvas)
    except ValueError as error:
        raise RunError(f"{path}: its metadata 'output' or 'degrade' is wrong: {error}") from None


def _make_head(info: ModelInfo, fields: Mapping[str, Any]) -> HeadInfo:
    """Make the info of one of several heads, whose input is that of the file."""
    read = {name: fields[name] for name in ("one2one", "boxes", "extra", "objectness")}
    head = replace(info, task=fields["task"], names=fields["names"], **read)
    return HeadInfo(fields["name"], head, fields["outputs"], fields["weight"], fields["data"])


def _complete_ultralytics(info: ModelInfo, model: Model, head: str) -> ModelInfo:
    """Complete the info of a file of Ultralytics by the shape of its output.

    It tells a list of detections (B, k, 6+extra) from dense outputs (B, 4+classes+extra, cells), and numbers of classes
    (B, h, w) from their scores (B, classes, h, w). ``head`` is the name of the head's class, which newer files have.
    """
    shape = model.session.get_outputs()[0].shape
    if info.task != "classify":  # classifiers are trained with a filter that is nearer to area means
        info = replace(info, resizing="linear")
    if info.task == "depth":
        return replace(info, fitting="stretch")
    if info.task not in BOX_TASKS:
        return replace(info, numbers=info.task == "semantic" and len(shape) == 3 and info.names is not None)
    if head == "RTDETRDecoder" and len(shape) == 3 and shape[2] == 6:
        return replace(info, one2one=True, boxes="parts", fitting="stretch")
    row, dense = 6 + info.extra_count, None if info.names is None else 4 + len(info.names) + info.extra_count
    is_list = info.one2one
    if len(shape) == 3 and all(isinstance(side, int) for side in shape[1:]):
        # RT-DETR; with two classes its entries cannot be told from a list of detections, which is the likelier.
        if info.task == "detect" and shape[2] == dense != shape[1] and shape[2] != row:
            return replace(info, one2one=True, queries=True, boxes="parts", fitting="stretch")
        is_list = shape[2] == row and (shape[1] != dense or info.one2one)
    return replace(info, one2one=is_list, boxes="centres" if info.task == "obb" else "corners")


def _read_metadata(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Read the metadata of netbuild or Ultralytics as fields of `ModelInfo`; that of other programs is ignored."""
    found: dict[str, Any] = {}
    readers = _READERS
    if "netbuild" not in metadata:
        is_known = {"task", "names", "stride"} <= metadata.keys()
        readers = _ULTRALYTICS_READERS if is_known else {}
    for key, (name, read) in readers.items():
        if metadata.get(key):
            try:
                if len(metadata[key]) > MAX_TEXT:
                    raise ValueError
                found[name] = read(metadata[key])
            except (
                ValueError,
                TypeError,
                IndexError,
                KeyError,
                SyntaxError,
                OverflowError,
                RecursionError,
                MemoryError,
            ):
                raise RunError(f"{path}: its metadata '{key}' cannot be read: {metadata[key][:60]}") from None
    return found


def _number(value: Any, least: float, most: float, kind: Any = int) -> Any:
    """Return a number of the metadata.

    Raises:
        ValueError: if it is no number of the kind, or outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= most:
        raise ValueError
    return value


def _parse_integer(most: int) -> Callable[[str], int]:
    return lambda text: int(_number(int(text), 1, most))


def _parse_pair(text: str) -> tuple[int, int]:
    value = json.loads(text)
    height, width = [value, value] if isinstance(value, int) else value
    pair = _number(height, 1, MAX_SIDE), _number(width, 1, MAX_SIDE)
    if prod(pair) > MAX_PIXELS:
        raise ValueError
    return pair


def _check_names(names: Sequence[Any]) -> list[str] | None:
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise ValueError
        name.encode()  # raises for half of a surrogate pair
    return list(names) or None


def _parse_pairs(text: str) -> tuple[tuple[int, int], ...]:
    """Read pairs of keypoints.

    Raises:
        ValueError: for anything else.
    """
    return tuple((_number(first, 0, MAX_SIDE), _number(second, 0, MAX_SIDE)) for first, second in json.loads(text))


def _parse_names(text: str) -> list[str] | None:
    names = json.loads(text)
    if not isinstance(names, list):
        raise ValueError
    return _check_names(names)


def _parse_literal(text: str) -> Any:
    """Read a literal of Python, as Ultralytics writes names and lists.

    Raises:
        ValueError: for one that nests more deeply than they do.
    """
    if re.search(r"[-+~(\[{]{8}", re.sub(r"\s", "", text)):
        raise ValueError
    return ast.literal_eval(text)


def _parse_ultralytics_names(text: str) -> list[str] | None:
    names = _parse_literal(text)
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, (list, tuple)):
        raise ValueError
    return _check_names([str(name) if isinstance(name, (int, float)) else name for name in names])


def _parse_choice(*choices: str) -> Callable[[str], str]:
    return lambda text: choices[choices.index(text)]


def _parse_extra(text: str) -> tuple[int, ...]:
    return tuple(_number(value, 1, MAX_STRIDE) for value in json.loads(text))


def _parse_nms(text: str) -> dict[str, Any]:
    known = {"conf": (0, 1, float), "iou": (0, 1, float), "max_det": (1, 2**31, int)}
    return {name: _number(value, *known[name]) for name, value in dict(json.loads(text)).items()}


def _parse_output(text: str) -> tuple[int, int, int]:
    channels, height, width = json.loads(text)
    return _number(channels, 1, 4), *_parse_pair(json.dumps([height, width]))


def _parse_degrade(text: str) -> tuple[dict[str, Any], ...]:
    """Read what was done to pictures: entries with one key, of which the factors of downscale are checked."""
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and len(entry) == 1 for entry in entries):
        raise ValueError
    for entry in entries:
        if "downscale" in entry:
            _number(entry["downscale"]["factor"], 1, 64)
    return tuple(entries)


def _parse_heads(text: str) -> list[dict[str, Any]]:
    """Read the heads of a file.

    Raises:
        ValueError, TypeError, KeyError: for anything else.
    """
    found = [_parse_head(fields) for fields in json.loads(text)]
    if len({fields["name"] for fields in found}) != len(found):
        raise ValueError
    return found


def _parse_head(fields: Mapping[str, Any]) -> dict[str, Any]:
    task, extra, data = fields["task"], tuple(fields.get("extra", ())), fields.get("data")
    flags = {name: fields.get(name, False) for name in ("one2one", "objectness")}
    if task not in TASKS or task == SEVERAL or any(type(value) is not bool for value in flags.values()):
        raise ValueError
    if flags["objectness"] and task != "detect":
        raise ValueError
    if len(extra) != len(DEFAULT_EXTRA.get(task, ())) or (task == "pose" and extra[1] not in (2, 3)):
        raise ValueError
    if any(not isinstance(text, str) for text in (fields["name"], data) if text is not None):
        raise ValueError
    if data is not None:
        _parse_task(data)
    names = _check_names(fields.get("names") or ())
    return {
        "name": _parse_task(fields["name"]),
        "task": task,
        "names": None if names is None else tuple(names),
        **flags,
        "boxes": _parse_choice(*BOX_FORMS)(fields.get("boxes") or "corners"),
        "extra": tuple(_number(value, 1, MAX_STRIDE) for value in extra),
        "outputs": _number(fields.get("outputs", 1), 1, 100),
        "weight": _number(fields.get("weight", 1.0), 0, 1e6, float),
        "data": data,
    }


def _parse_task(text: str) -> str:
    if not text.isprintable() or len(text) > MAX_NAME:
        raise ValueError
    return text


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {  # key -> field of `ModelInfo`, function that reads the value
    "task": ("task", _parse_task),
    "names": ("names", _parse_names),
    "stride": ("stride", _parse_integer(MAX_STRIDE)),
    "imgsz": ("size", _parse_pair),
    "channels": ("channels", _parse_integer(MAX_SIDE)),
    "fitting": ("fitting", str),
    "resizing": ("resizing", str),
    "one2one": ("one2one", lambda text: _parse_choice("true", "false")(text) == "true"),
    "boxes": ("boxes", _parse_choice(*BOX_FORMS)),
    "objectness": ("objectness", lambda text: _parse_choice("true", "false")(text) == "true"),
    "extra": ("extra", _parse_extra),
    "nms": ("nms", _parse_nms),
    "skeleton": ("skeleton", _parse_pairs),
    "map_step": ("map_step", _parse_integer(MAX_STRIDE)),
    "heads": ("heads", _parse_heads),
    "degrade": ("degrade", _parse_degrade),
    "space": ("space", _parse_choice(*SPACES)),
    "output": ("output", _parse_output),
}
_ULTRALYTICS_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "task": ("task", _parse_task),
    "names": ("names", _parse_ultralytics_names),
    "stride": ("stride", _parse_integer(MAX_STRIDE)),
    "imgsz": ("size", _parse_pair),
    "channels": ("channels", _parse_integer(MAX_SIDE)),
    "kpt_shape": ("extra", _parse_extra),
    "end2end": ("one2one", lambda text: _parse_choice("true", "false")(text.lower()) == "true"),
}


def _shorten(error: object, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# -- pictures ---------------------------------------------------------------------------------------------------------


def read_image(path: str | Path, channels: int = 3) -> Array:
    """Read a picture as uint8 (H, W, channels): EXIF orientation applied, 16 bits scaled to 8, palettes resolved.

    Raises:
        PictureError: if the file is no picture, truncated, too large, or cannot be converted to 8 bits.
    """
    if Path(path).suffix.lower() in VIDEOS:
        hint = "use netbuild predict (with opencv-python-headless), or pass its frames to Model.predict as arrays"
        raise PictureError(f"{path}: a video, not a picture; {hint}")
    try:
        from PIL import Image
    except ImportError:
        raise PackageError("reading pictures needs Pillow", hint="pip install pillow") from None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise PictureError(f"{path}: not a regular file")
        with Path(path).open("rb") as file:
            image = Image.open(file)
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(f"{path}: too large: {image.width} x {image.height}")
            image.load()
    except PictureError:
        raise
    except Exception as error:  # whatever a decoder raises, the bytes of the file are the cause
        raise PictureError(f"{path}: cannot be read as a picture: {_shorten(error) or type(error).__name__}") from None
    return _to_8_bits(_apply_orientation(image), str(path), channels)


def _apply_orientation(image: Any) -> Any:
    """Rotate and mirror a picture as its EXIF orientation states."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF is ignored
        return image
    turns = (0, 3, 1, 5, 4, 6, 2)  # Pillow's transpositions for the orientations 2 to 8
    return image.transpose(turns[orientation - 2]) if orientation in range(2, 9) else image


def _to_8_bits(image: Any, name: str, channels: int) -> Array:
    """Convert a picture to 8 bits per channel in the mode for ``channels``."""
    from PIL import Image

    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):  # Pillow's own conversion would clip
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise PictureError(f"{name}: values outside 0..65535 cannot be converted to 8 bits")
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        # Through RGBA, because converting to grey directly may take palette indices for grey values.
        image = image.convert("RGBA")
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        raise PictureError(f"{name}: pictures of Pillow's mode {image.mode} are not supported")
    # Grey is computed from RGB, as in netbuild predict, which reads every picture as RGB first.
    if channels == 1:
        image = image.convert("RGB")
    array = np.asarray(image if image.mode == PILLOW_MODES[channels] else image.convert(PILLOW_MODES[channels]))
    return array.reshape(*array.shape[:2], channels)


def _convert_channels(image: Array, channels: int) -> Array:
    if image.shape[2] == channels:
        return image
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.convert(PILLOW_MODES[channels])).reshape(*image.shape[:2], channels)


def resize(image: Array, h: int, w: int, resizing: str = "area") -> Array:
    """Resize a picture (H, W, C) to (h, w, C): area means if it becomes smaller, else bilinear interpolation.

    With ``resizing="linear"`` pixels are interpolated in any case.
    Bilinear interpolation equals OpenCV's INTER_LINEAR; area means differ by at most 1 of 255 from its INTER_AREA.
    """
    height, width = image.shape[:2]
    if (h, w) == (height, width):
        return image
    if resizing == "linear" or h > height or w > width:
        return _interpolate(image, h, w, resizing)
    rows = _average(image, h)
    means = _average(rows.swapaxes(0, 1), w).swapaxes(0, 1)
    return (means + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def _average(values: Array, count: int) -> Array:
    """Average the first axis over ``count`` equal parts, whose ends may lie inside pixels."""
    length = len(values)
    if count == length:
        return values
    ends = np.linspace(0, length, count + 1)  # the last end is exactly the length
    whole = ends.astype(np.int64)
    part = (ends - whole).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    kind = np.uint32 if values.dtype == np.uint8 else np.float32
    sums = np.add.reduceat(values, whole[:-1], axis=0, dtype=kind).astype(np.float32)
    sums -= part[:-1] * values[whole[:-1]]  # the share of the first pixel before the part
    sums += part[1:] * values[np.minimum(whole[1:], length - 1)]  # the share of the last pixel inside the part
    return sums * np.float32(count / length)


def _interpolate(image: Array, h: int, w: int, resizing: str) -> Array:
    """Interpolate each pixel from the four nearest, in OpenCV's integer arithmetic for bytes: weights of 11 bits."""
    height, width = image.shape[:2]
    smaller = resizing == "area" and (h < height or w < width)
    (top, below, down), (left, right, across) = (
        _find_neighbours(height, h, smaller),
        _find_neighbours(width, w, smaller),
    )
    near, far = (_to_weights(part)[:, None] for part in (1 - across, across))
    values = image.astype(np.int32)
    rows = (values[:, left] * near + values[:, right] * far) >> 4
    near, far = (_to_weights(part)[:, None, None] for part in (1 - down, down))
    return ((((near * rows[top]) >> 16) + ((far * rows[below]) >> 16) + 2) >> 2).astype(np.uint8)


def _to_weights(parts: Array) -> Array:
    return np.rint(parts * np.float32(2048)).astype(np.int32)


def _find_neighbours(length: int, count: int, smaller: bool) -> tuple[Array, Array, Array]:
    """Return for each output pixel along an axis the input pixels before and after it, and the weight of the second.

    ``smaller`` selects the positions of OpenCV's INTER_AREA, for a picture that becomes smaller along one axis only.
    """
    scale, numbers = 1 / (count / length), np.arange(count)  # rounded as OpenCV rounds it
    if smaller:
        first = np.floor(numbers * scale)
        part = ((numbers + 1) - (first + 1) * (count / length)).astype(np.float32)
        part = np.where(part <= 0, np.float32(0), part - np.floor(part))
    else:
        position = ((numbers + 0.5) * scale - 0.5).astype(np.float32)
        first = np.floor(position)
        part = position - first
    low = first.astype(np.int64)
    return low.clip(0, length - 1), (low + 1).clip(0, length - 1), part


@dataclass(frozen=True)
class Placement:
    """The placement of a picture in the network's input, in pixels; sizes are (height, width).

    Args:
        size: size of the original picture.
        inner: size of the resized picture in the input.
        corner: top and left of the resized picture in the input.
        input_size: size of the input.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    corner: tuple[int, int]
    input_size: tuple[int, int]

    def undo(self, boxes: Array) -> Array:
        """Map corner boxes (n, 4) from the input to pixels of the picture, clipped at its edges."""
        h, w = self.size
        return map_to_picture(boxes.reshape(-1, 2), self).reshape(-1, 4).clip(0, np.array([w, h, w, h], np.float32))


def map_to_picture(points: Array, placement: Any) -> Array:
    """Map points (..., 2), x and y, from the input to pixels of the picture, without clipping."""
    ratio = np.array([inner / size for inner, size in zip(placement.inner, placement.size)][::-1], np.float32)
    return (points - np.array(placement.corner[::-1], np.float32)) / ratio


def letterbox(
    image: Array, size: tuple[int, int], stride: int, rect: bool, resizing: str = "area"
) -> tuple[Array, Placement]:
    """Resize a picture (H, W, C) to fit into a size, keep its aspect ratio and pad it with grey; return its placement.

    Args:
        image: the picture; a small one is enlarged.
        size: height and width that it is fitted into.
        stride: both sides of the padded picture are multiples of it.
        rect: whether to pad only up to the next multiple of the stride, not to the whole size.
        resizing: as for `resize`.
    """
    original = image.shape[0], image.shape[1]
    ratio = min(size[0] / original[0], size[1] / original[1])
    inner = max(round(original[0] * ratio), 1), max(round(original[1] * ratio), 1)
    height, width = (ceil(side / stride) * stride for side in (inner if rect else size))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    padded = np.full((height, width, image.shape[2]), GREY, np.uint8)
    padded[top : top + inner[0], left : left + inner[1]] = resize(image, *inner, resizing)
    return padded, Placement(original, inner, (top, left), (height, width))


def center_crop(image: Array, size: tuple[int, int], resizing: str = "area") -> tuple[Array, Placement]:
    """Crop the middle of a picture (H, W, C) and resize it to a size; the placement is exact to a pixel."""
    h, w = image.shape[:2]
    ratio = min(h / size[0], w / size[1])
    part = max(min(round(size[0] * ratio), h), 1), max(min(round(size[1] * ratio), w), 1)
    top, left = (h - part[0]) // 2, (w - part[1]) // 2
    cut = image[top : top + part[0], left : left + part[1]]
    larger = max(size[0] / h, size[1] / w)
    inner = round(h * larger), round(w * larger)
    placement = Placement((h, w), inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2), size)
    return resize(cut, *size, resizing), placement


def stretch(image: Array, size: tuple[int, int], stride: int, resizing: str = "area") -> tuple[Array, Placement]:
    """Resize a picture (H, W, C) to a (height, width), rounded up to the stride, whatever its aspect ratio is."""
    original = image.shape[0], image.shape[1]
    inner = ceil(size[0] / stride) * stride, ceil(size[1] / stride) * stride
    return resize(image, *inner, resizing), Placement(original, inner, (0, 0), inner)


def mirror_margin(image: Array, size: tuple[int, int]) -> Array:
    """Put a picture (H, W, C) into the middle of an image of a size and fill the margin by mirroring it at its edges.

    It is mirrored as often as needed. Of an odd margin the larger half is at the right or bottom.
    """
    rows, columns = (mirror_indices(count, length) for count, length in zip(image.shape, size))
    return image[rows[:, None], columns]


def mirror_indices(count: int, length: int) -> Array:
    """Return which of ``count`` pixels each of ``length`` pixels is, if they are mirrored at both ends: (length,)."""
    position = (np.arange(length) - (length - count) // 2) % (2 * count)
    return np.minimum(position, 2 * count - 1 - position)


# -- detections -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Options of the selection of detections.

    Args:
        conf: detections must have a score above it.
        iou: of two boxes that overlap by more, the one of lower score is dropped.
        max_det: largest number of detections of an image.
        agnostic: whether boxes of different classes suppress each other, too.
        multi_label: whether a box may have several classes, not only its best.
        classes: numbers of the classes to keep; None for all.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    agnostic: bool = False
    multi_label: bool = False
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise RunError(f"{name} {getattr(self, name)}: must be from 0 to 1")
        if self.max_det < 1:
            raise RunError(f"max_det {self.max_det}: must be at least 1")


def join_objectness(y: Array) -> Array:
    """Multiply class probabilities by objectness: rows (B, N, 5+nc) to columns (B, 4+nc, N)."""
    return np.concatenate((y[..., :4], y[..., 4:5] * y[..., 5:]), -1).transpose(0, 2, 1) if y.ndim == 3 else y


Filters = Any  # a Filter, or for several heads one each by name


def suppress(image: Array, limits: Filter, nc: int | None = None, rotated: bool = False) -> Array:
    """Apply non-maximum suppression to the predictions (4+nc+extra, A) of an image: rows (n, 6+extra), best first.

    Args:
        image: centre, size, class probabilities, extra values.
        limits: the options.
        nc: number of classes; by default all channels after the box.
        rotated: whether the first extra value is the box's angle, so that rotated boxes are compared.
    """
    rows = find_candidates(image, limits, len(image) - 4 if nc is None else nc)
    if rotated:
        return rows[suppress_rotated(rows, limits)]
    boxes = rows[:, :4]
    if not limits.agnostic and len(rows):
        # Shift the boxes of each class so far that they overlap no box of another class.
        boxes = boxes + rows[:, 5:6] * (boxes.max() - boxes.min() + 1)
    return rows[suppress_greedily(boxes, limits.iou, limits.max_det, box_iou)]


def find_candidates(image: Array, limits: Filter, nc: int) -> Array:
    """List the detections above the threshold before suppression: (4+nc+extra, A) -> (n, 6+extra), best first.

    A row is corners, score, class, extra values.
    """
    boxes, scores, extra, least = image[:4].T, image[4 : 4 + nc].T, image[4 + nc :].T, np.float32(limits.conf)
    if limits.multi_label:
        cells, classes = (scores > least).nonzero()
    else:
        classes = scores.argmax(1)
        cells = (scores[np.arange(len(scores)), classes] > least).nonzero()[0]
        classes = classes[cells]
    if limits.classes is not None:
        has_wanted_class = np.isin(classes, limits.classes)
        cells, classes = cells[has_wanted_class], classes[has_wanted_class]
    found = scores[cells, classes]
    order = _argsort_descending(found)[:MAX_CANDIDATES]
    cells, classes, found = cells[order], classes[order], found[order]
    return np.concatenate(
        (to_corners(boxes[cells]), found[:, None], classes[:, None], extra[cells]), 1, dtype=np.float32
    )


def rank_queries(entries: Array) -> Array:
    """Convert entries (B, k, 4+classes) of box and probabilities to detections (B, k, 6), best first.

    A detection is box, score, class: the likeliest class of each entry.
    """
    scores, classes = entries[..., 4:].max(-1), entries[..., 4:].argmax(-1)
    found = np.concatenate((entries[..., :4], scores[..., None], classes[..., None]), -1, dtype=entries.dtype)
    return np.take_along_axis(found, np.argsort(-scores, kind="stable")[..., None], 1)


def score_classes(numbers: Array, nc: int) -> Array:
    """Convert numbers of classes (B, h, w) to scores (B, nc, h, w): 1 for a pixel's class, 0 for the others."""
    return (numbers[:, None] == np.arange(nc).reshape(1, nc, 1, 1)).astype(np.float32)


def to_corners(boxes: Array) -> Array:
    """Convert centre and size (..., 4) to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return np.concatenate((centre - half, centre + half), -1)


def convert_boxes(rows: Array, form: str, size: tuple[int, int]) -> Array:
    """Convert the boxes of rows (..., 6+extra) to corners in pixels from a form of `ModelInfo.boxes`."""
    if form == "corners":
        return rows
    scale = np.array(size[::-1] * 2 if form == "parts" else (1, 1, 1, 1), rows.dtype)
    return np.concatenate((to_corners(rows[..., :4]) * scale, rows[..., 4:]), -1)


def suppress_greedily(boxes: Array, iou: float, max_det: int, overlap: Callable[[Array, Array], Array]) -> list[int]:
    """Return the indices of the boxes (n, ...), best first, that no better one overlaps by more than ``iou``."""
    found: list[int] = []
    left = np.arange(len(boxes))
    while len(left) and len(found) < max_det:
        best, left = left[0], left[1:]
        found.append(int(best))
        left = left[~(overlap(boxes[best], boxes[left]).astype(np.float64) > iou)]
    return found


def box_iou(box: Array, others: Array) -> Array:
    """Compute the IoU of a corner box (4,) with each of (n, 4)."""
    low, high = others[:, :2], others[:, 2:]
    both = np.maximum(np.minimum(box[2:], high) - np.maximum(box[:2], low), 0).prod(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without area
        return both / ((box[2:] - box[:2]).prod() + (high - low).prod(1) - both)


def filter_rows(rows: Array, limits: Filter) -> Array:
    """Apply score threshold, classes and limit to rows (k, 6+extra), best first, that need no suppression."""
    rows = rows[rows[:, 4] > np.float32(limits.conf)]
    if limits.classes is not None:
        rows = rows[np.isin(rows[:, 5].astype(np.int64), limits.classes)]
    return rows[: limits.max_det]


def split_detections(outputs: Sequence[Array], count: int) -> list[Array]:
    """Split the outputs of a file with suppression inside by image: rows (n, 6) of each, best first."""
    boxes, scores, classes, index = outputs
    rows = np.concatenate((boxes, scores[:, None], classes[:, None]), 1, dtype=np.float32)
    images = (rows[index == i] for i in range(count))
    return [image[_argsort_descending(image[:, 4])] for image in images]


# -- rotated boxes ----------------------------------------------------------------------------------------------------


def suppress_rotated(rows: Array, limits: Filter) -> list[int]:
    """Apply suppression to rotated boxes in rows (n, 7+), best first; return the indices of the rows to keep."""
    boxes = to_rotated_boxes(rows)
    classes = np.zeros(len(rows)) if limits.agnostic else rows[:, 5]
    groups = [np.flatnonzero(classes == number) for number in np.unique(classes)]
    found = [group[suppress_greedily(boxes[group], limits.iou, limits.max_det, rotated_iou)] for group in groups]
    return sorted(int(number) for numbers in found for number in numbers)[: limits.max_det]


def to_rotated_boxes(rows: Array) -> Array:
    """Convert detections (n, 7+) to rotated boxes (n, 5): centre, width, height, angle in radians from x towards y."""
    low, high = rows[:, :2].astype(np.float64), rows[:, 2:4].astype(np.float64)
    return np.concatenate(((low + high) / 2, high - low, rows[:, 6:7]), 1)


def find_corners(boxes: Array) -> Array:
    """Compute the corners (n, 4, 2) of rotated boxes (n, 5), in order around each."""
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    rotation = np.stack((np.stack((cos, sin), -1), np.stack((-sin, cos), -1)), 1)  # the images of the x and y axes
    return boxes[:, None, :2] + (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * boxes[:, None, 2:4]) @ rotation


def rotated_iou(box: Array, others: Array) -> Array:
    """Compute the IoU of a rotated box (5,) with each of (n, 5), by exact areas of polygons."""
    found = np.zeros(len(others))
    reach = (np.hypot(*box[2:4]) + np.hypot(others[:, 2], others[:, 3])) / 2
    near = np.hypot(others[:, 0] - box[0], others[:, 1] - box[1]) < reach
    found[near] = polygon_iou(box, find_corners(others[near]))
    return found


def polygon_iou(box: Array, polygons: Array) -> Array:
    """Compute the IoU of a rotated box (5,) with each of n polygons of m corners (n, m, 2), by exact areas."""
    cos, sin = np.cos(box[4]), np.sin(box[4])
    # In the coordinates of the box, where it is upright and centred at the origin.
    local, (w, h) = (polygons - box[:2]) @ np.array([[cos, -sin], [sin, cos]]), np.abs(box[2:4])
    both = polygon_areas(_clip_paths(_clip_paths(local, 0, w / 2), 1, h / 2))
    with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without area
        return both / (w * h + polygon_areas(local) - both)


def polygon_areas(paths: Array) -> Array:
    """Compute the areas (n,) that closed paths (n, m, 2) enclose."""
    x, y = paths[..., 0], paths[..., 1]
    return np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2


def _clip_paths(paths: Array, axis: int, half: float) -> Array:
    """Clip closed paths (n, m, 2) to -half..half along an axis, with a new point wherever they cross a border.

    Points outside move onto the border, where they enclose no area, so the area is that of the clipped polygon.
    """
    way = np.roll(paths, -1, 1) - paths
    with np.errstate(invalid="ignore", divide="ignore"):  # edges parallel to the border
        parts = (np.array([-half, half]) - paths[..., axis, None]) / way[..., axis, None]
    parts = np.sort(np.where(np.isfinite(parts), parts, 0).clip(0, 1), -1)
    points = np.concatenate((paths[:, :, None], paths[:, :, None] + parts[..., None] * way[:, :, None]), 2)
    points = points.reshape(len(paths), 3 * paths.shape[1], 2)
    points[..., axis] = points[..., axis].clip(-half, half)
    return points


def rotated_box_fields(rows: Array, placement: Any) -> Iterator[dict[str, Any]]:
    """Yield for each detection (n, 7+) its corners in pixels of the picture, and the clipped box around them."""
    h, w = placement.size
    for corners in map_to_picture(find_corners(to_rotated_boxes(rows)), placement):
        low, high = corners.min(0).clip(0, (w, h)), corners.max(0).clip(0, (w, h))
        yield {"box": _rounded([*low, *high]), "corners": [_rounded(corner) for corner in corners]}


# -- keypoints and masks ----------------------------------------------------------------------------------------------


def keypoint_fields(rows: Array, shape: Sequence[int], placement: Any) -> Iterator[dict[str, Any]]:
    """Yield for each detection (n, 6+K*D) its keypoints (K, D): x, y in pixels of the picture, visibility if D is 3.

    They may lie outside the picture.
    """
    for points in rows[:, 6:].reshape(-1, *shape):
        found = zip(map_to_picture(points[:, :2], placement), points[:, 2:].tolist())
        yield {"keypoints": [[*_rounded(xy), *(round(value, 5) for value in visibility)] for xy, visibility in found]}


def mask_fields(rows: Array, prototypes: Array, placement: Any) -> Iterator[dict[str, Any]]:
    """Yield for each detection (n, 6+nm) its mask, from prototypes (nm, h, w) of the network's input.

    A pixel of the picture belongs to the mask if it is in the box and its interpolated logit is above 0.

    Raises:
        RunError: if the numbers of coefficients and prototypes differ.
    """
    if prototypes.shape[0] != rows.shape[1] - 6:
        counts = f"{rows.shape[1] - 6} mask coefficients, {prototypes.shape[0]} prototypes"
        raise RunError(f"the outputs do not fit together: {counts}")
    h, w = placement.size
    # A pixel is inside a box if its centre is.
    edges = np.ceil(np.nan_to_num(Placement.undo(placement, rows[:, :4])) - 0.5).astype(int).tolist()
    by_row, by_column = (_weigh_cells(prototypes.shape[axis], placement, axis - 1) for axis in (1, 2))
    for coefficients, (x1, y1, x2, y2) in zip(rows[:, 6:], edges):
        inside = np.zeros((0, 0), bool)
        if x1 < x2 and y1 < y2:
            (down, near), (across, beside) = _cut_weights(by_row, y1, y2), _cut_weights(by_column, x1, x2)
            cells = prototypes[:, near, beside]
            logits = (coefficients @ cells.reshape(len(cells), prod(cells.shape[1:]))).reshape(cells.shape[1:])
            inside = down @ logits @ across.T > 0
        yield {"mask": encode_mask(inside, y1, x1, (h, w))}


def _weigh_cells(count: int, placement: Any, axis: int) -> tuple[Array, Array, Array]:
    """Return the weight (pixels, count) of each cell of a map in each pixel's interpolated value along an axis.

    With them come the two cells (pixels,) that have a weight.
    """
    numbers = np.arange(placement.size[axis])
    low, high, part = _find_cells(count, placement, axis, numbers)
    weights = np.zeros((len(numbers), count), np.float32)
    weights[numbers, high] = part
    weights[numbers, low] += 1 - part  # at the border both are one cell
    return weights, low, high


def _cut_weights(table: tuple[Array, Array, Array], start: int, end: int) -> tuple[Array, slice]:
    """Return the weights of pixels from ``start`` to before ``end``, and the range of the cells that they are of."""
    weights, low, high = table
    cells = slice(low[start], high[end - 1] + 1)
    return weights[start:end, cells], cells


def sample_maps(maps: Array, placement: Any, rows: Array, columns: Array) -> Array:
    """Interpolate maps (k, h, w) of the network's input at pixels of the picture: (k, rows, columns)."""
    for axis, numbers in ((1, rows), (2, columns)):
        low, high, part = _find_cells(maps.shape[axis], placement, axis - 1, numbers)
        part = part.reshape(-1, *[1] * (2 - axis))
        maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
    return maps


def _find_cells(count: int, placement: Any, axis: int, numbers: Array) -> tuple[Array, Array, Array]:
    """Return for the picture's pixels of these numbers the two nearest of a map's cells, and the weight of the second.

    Args:
        count: number of the map's cells along the axis.
        placement: the placement of the picture in the network's input.
        axis: 0 for rows, 1 for columns.
        numbers: (n,) rows or columns of the picture.
    """
    size, inner, margin = placement.size[axis], placement.inner[axis], placement.corner[axis]
    length = inner + 2 * margin  # of the input; it may be a pixel longer
    step = round(length / count)
    spare = length - step * count  # convolutions without padding cut off a border
    position = (numbers + 0.5) * (inner / size) + margin - (spare / 2 if abs(spare) > 1 else 0)
    between = (position / step - 0.5).clip(0, count - 1)
    low = between.astype(np.int64)
    return low, (low + 1).clip(max=count - 1), (between - low).astype(np.float32)


def encode_mask(part: Array, top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """Encode a mask (h, w), at an offset in a picture of a size, as COCO's run lengths: by columns, outside first."""
    padded = np.zeros((part.shape[1], part.shape[0] + 2), bool)
    padded[:, 1:-1] = part.T
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), part.shape[0] + 1)
    ends = (left + column) * size[0] + top + row
    if part.shape[0] == size[0]:  # a run that continues in the next column is one run
        ends, times = np.unique(ends, return_counts=True)
        ends = ends[times == 1]
    counts = np.diff(np.concatenate(([0], ends, [prod(size)]))).tolist()
    return {"size": [*size], "counts": counts if counts[-1] else counts[:-1]}


def mask_of(encoded: Mapping[str, Any]) -> Array:
    """Decode run lengths to a mask (H, W) of booleans."""
    counts = np.asarray(encoded["counts"])
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(encoded["size"][::-1]).T


def _mask_fields_of(rows: Array, info: ModelInfo, outputs: Sequence[Array], placement: Placement) -> Iterator[Any]:
    return mask_fields(rows, outputs[1][0].astype(np.float32, copy=False), placement)


# Functions that compute the further fields of the records of a task with boxes.
EXTRA_FIELDS: dict[str, Callable[[Array, ModelInfo, Sequence[Array], Placement], Iterator[dict[str, Any]]]] = {
    "segment": _mask_fields_of,
    "pose": lambda rows, info, outputs, placement: keypoint_fields(rows, info.extra, placement),
    "obb": lambda rows, info, outputs, placement: rotated_box_fields(rows, placement),
}


# -- every pixel ------------------------------------------------------------------------------------------------------


def classify_pixels(logits: Array, placement: Any) -> Array:
    """Return the class of every pixel of the picture (H, W), from logits (nc, h, w) of the network's input.

    With a single class a pixel is of class 0 if its logit is above 0, else -1.
    """
    height, width = placement.size
    values = logits.astype(np.float32, copy=False)
    bands = [np.arange(y, min(y + BAND_ROWS, height)) for y in range(0, height, BAND_ROWS)]
    maps = (sample_maps(values, placement, band, np.arange(width)) for band in bands)
    if len(logits) == 1:
        return np.concatenate([np.where(found[0] > 0, 0, -1).astype(np.int8) for found in maps])
    kind = np.uint8 if len(logits) <= 256 else np.uint16
    return np.concatenate([found.argmax(0).astype(kind) for found in maps])


def list_areas(labels: Array) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each class that occurs, largest area first, with its share of the picture (H, W) and its mask."""
    numbers, counts = np.unique(labels, return_counts=True)
    for i in (i for i in _argsort_descending(counts) if numbers[i] >= 0):
        share = round(float(counts[i] / labels.size), 5)
        yield int(numbers[i]), {"share": share, "mask": encode_mask(labels == numbers[i], 0, 0, labels.shape)}


def resample_depth(values: Array, placement: Any) -> Array:
    """Return the distance of every pixel of the picture (H, W), from a map (1, h, w) of the network's input."""
    height, width = placement.size
    return sample_maps(values.astype(np.float32, copy=False), placement, np.arange(height), np.arange(width))[0]


def summarize_depth(values: Array) -> dict[str, Any]:
    """Return the nearest, the median and the farthest distance of a picture."""
    found = np.quantile(values, (0, 0.5, 1)).tolist()
    return dict(zip(("nearest", "median", "farthest"), _rounded(found)))


PIXEL_MAPS = {"semantic": classify_pixels, "depth": resample_depth}


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 3) for value in values]


# -- restored pictures ------------------------------------------------------------------------------------------------


def resize_bicubic(values: Array, h: int, w: int) -> Array:
    """Resize values (H, W) or (H, W, C) to (h, w) by bicubic interpolation as MATLAB's ``imresize`` does it.

    The cubic kernel has a = -0.5. It is stretched where the picture becomes smaller (antialiasing), and the picture is
    mirrored at its edges. Papers on super-resolution make their small pictures so. Bytes become float32.
    """
    values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
    height, width = values.shape[:2]
    if h != height:
        values = _blend_rows(values, *find_bicubic_weights(height, h))
    if w != width:
        values = _blend_rows(values.swapaxes(0, 1), *find_bicubic_weights(width, w)).swapaxes(0, 1)
    return np.ascontiguousarray(values)


def find_bicubic_weights(length: int, count: int) -> tuple[Array, Array]:
    """Return for each resized pixel the numbers of the pixels that it is made of (count, k), and their weights.

    See `resize_bicubic`.

    Args:
        length: number of pixels of a row or a column.
        count: number of pixels after resizing.
    """
    scale = count / length
    shrink = min(scale, 1.0)  # by which the kernel is stretched
    centres = (np.arange(count) + 0.5) / scale - 0.5
    first = np.floor(centres - 2 / shrink).astype(np.int64)
    places = first[:, None] + np.arange(ceil(4 / shrink) + 2)
    x = np.abs(centres[:, None] - places) * shrink
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    weights /= weights.sum(1, keepdims=True)
    used = (weights != 0).any(0)
    mirrored = places[:, used] % (2 * length)  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    return np.minimum(mirrored, 2 * length - 1 - mirrored), weights[:, used]


def _blend_rows(values: Array, places: Array, weights: Array) -> Array:
    """Return the weighted sums of rows of the first axis, as `find_bicubic_weights` gives places and weights."""
    weights = weights.astype(values.dtype).reshape(*weights.shape, *[1] * (values.ndim - 1))
    found = values[places[:, 0]] * weights[:, 0]
    for k in range(1, places.shape[1]):
        found += values[places[:, k]] * weights[:, k]
    return found


# ITU-R BT.601: from RGB (0 to 255) to luminance Y (16 to 235), and to the colours Cb and Cr around 128.
_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_YCBCR_OFFSET = np.array([16.0, 128.0, 128.0])


def to_ycbcr(rgb: Array) -> Array:
    """Convert RGB (..., 3) from 0 to 255 to Y (16 to 235), Cb and Cr of ITU-R BT.601, without rounding."""
    return rgb @ _YCBCR.T + _YCBCR_OFFSET


def to_rgb(ycbcr: Array) -> Array:
    """Convert Y, Cb, Cr (..., 3) of ITU-R BT.601 to RGB as bytes."""
    return round_to_bytes((ycbcr - _YCBCR_OFFSET) @ np.linalg.inv(_YCBCR).T)


def to_luminance(rgb: Array) -> Array:
    """Return the luminance Y (...) of RGB (..., 3) as bytes from 16 to 235, as MATLAB's ``rgb2ycbcr`` rounds it."""
    return round_to_bytes(rgb @ _YCBCR[0] + _YCBCR_OFFSET[0])


def convert_space(image: Array, space: str) -> Array:
    """Convert an RGB picture (H, W, 3) to the colours that a network restores, (H, W, 1 or 3) of bytes."""
    if space == "y":
        return to_luminance(image)[..., None]
    return image if space == "rgb" else _convert_channels(image, 1)


def join_colours(image: Array | None, restored: Array, space: str) -> Array:
    """Return restored values as an RGB picture of bytes (H, W, 3).

    Args:
        image: the picture before (h, w, 3), RGB, whose colours a network of one channel leaves: they are enlarged by
            bicubic interpolation. None for a picture without colours.
        restored: (H, W, 1 or 3) from 0 to 255.
        space: what they are: ``y`` (luminance), ``rgb`` or ``grey``.
    """
    if space == "rgb":
        return round_to_bytes(restored)
    h, w = restored.shape[:2]
    if image is None:
        colours = np.full((h, w, 2), 128.0)
    else:
        colours = resize_bicubic(to_ycbcr(image)[..., 1:], h, w)
    luminance = restored if space == "y" else restored * (219 / 255) + 16
    return to_rgb(np.concatenate((luminance, colours), 2))


def round_to_bytes(values: Array) -> Array:
    """Round values to whole numbers from 0 to 255."""
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)


def find_scale(size: Sequence[int], output: Sequence[int], factor: int) -> tuple[int, int]:
    """Return how many times a network enlarges its image, and how many pixels its output lacks at each side.

    Args:
        size: height and width of the image.
        output: height and width of the output.
        factor: by how many times the pictures that it restores were made smaller; 1 if that is not known.

    Raises:
        ValueError: if the sizes do not fit the factor.
    """
    whole = output[0] // size[0]
    exact = whole > 0 and all(length == whole * side for length, side in zip(output, size))
    if exact:
        scale = whole
    else:
        scale = factor if output[0] > size[0] else 1
    lost = {scale * side - length for side, length in zip(size, output)}
    border = lost.pop()
    fits = scale in (1, factor) or factor == 1
    if lost or not fits or border % 2 or not 0 <= border < min(output):
        made = f"{output[0]} x {output[1]} of {size[0]} x {size[1]} pixels"
        raise ValueError(f"the network makes {made}, but its pictures were made {factor} times smaller")
    return scale, border // 2


def plan_tiles(length: int, window: int, margin: int, step: int = 1) -> list[tuple[int, int, int]]:
    """Return windows that cover a length: where each begins, and from where to where its result is used.

    What is used is at least ``margin`` away from the ends of a window, unless these are the ends of the length. Windows
    begin at multiples of ``step``, a network's stride, so the last one may reach beyond the length.
    """
    if length <= window:
        return [(0, 0, length)]
    count = ceil((length - 2 * margin) / max(window - 2 * margin - step + 1, 1))
    starts = [ceil(i * (length - window) / (count - 1) / step) * step for i in range(count)]
    cuts = [0, *((a + window + b) // 2 for a, b in pairwise(starts)), length]
    return list(zip(starts, cuts, cuts[1:]))


def restore_in_tiles(
    run: Callable[[Any], Any], images: Any, plan: "TilePlan", join: Callable[[list[Any], int], Any]
) -> Any:
    """Run a network on parts of images (B, C, H, W) that overlap, and join the results.

    Args:
        run: the network, from (B, C, h, w) to the restored images.
        images: arrays of numpy or of torch.
        plan: how the images are divided.
        join: concatenates arrays along an axis.
    """
    height, width = int(images.shape[2]), int(images.shape[3])
    rows, columns = plan.divide(height, 0), plan.divide(width, 1)
    found = []
    for top, first, last in rows:
        y, y_span = plan.place(top, first, last, height, 0)
        line = []
        for left, start, end in columns:
            x, x_span = plan.place(left, start, end, width, 1)
            line.append(run(images[:, :, y][:, :, :, x])[:, :, y_span, x_span])
        found.append(line[0] if len(line) == 1 else join(line, 3))
    return found[0] if len(found) == 1 else join(found, 2)


@dataclass(frozen=True)
class TilePlan:
    """How images are divided for a network that restores them. Lengths are in pixels of its input.

    Args:
        scale: how many times the network enlarges its image.
        border: pixels of its output that it lacks at each side, because it does not pad.
        stride: both sides of its image are multiples of it.
        canvas: the only height and width that it takes; None for any.
        tile: height and width of tiles; None for whole images up to `MAX_WHOLE` pixels.
    """

    scale: int = 1
    border: int = 0
    stride: int = 1
    canvas: tuple[int, int] | None = None
    tile: int | None = None

    def for_size(self, height: int, width: int) -> "TilePlan":
        """Return the plan for images of a size: large ones get tiles if there is no other reason for them."""
        is_large = height * width > MAX_WHOLE and self.canvas is None and self.tile is None
        return replace(self, tile=TILE) if is_large else self

    @property
    def padding(self) -> int:
        """The pixels that are added at each side, so that the network's output covers the whole image."""
        return ceil(self.border / self.scale)

    def window(self, length: int, axis: int) -> int:
        """Return the length of a window along an axis, without padding."""
        if self.canvas:
            return self.canvas[axis] - 2 * self.padding
        return length if self.tile is None else min(length, self.tile + 2 * TILE_MARGIN)

    def divide(self, length: int, axis: int) -> list[tuple[int, int, int]]:
        """Return the windows along an axis, see `plan_tiles`."""
        window = self.window(length, axis)
        return plan_tiles(length, window, min(TILE_MARGIN, window // 4), self.stride)

    def place(self, start: int, first: int, last: int, length: int, axis: int) -> tuple[Array, slice]:
        """Return the pixels of a padded window along an axis, mirrored at the image's edges, and what is used of it.

        Args:
            start: where the window begins.
            first, last: from where to where its result is used.
            length: of the image.
            axis: 0 for rows, 1 for columns.
        """
        stride = 1 if self.canvas else self.stride
        count = ceil((self.window(length, axis) + 2 * self.padding) / stride) * stride
        places = np.arange(start - self.padding, start - self.padding + count) % (2 * length)
        offset = self.padding * self.scale - self.border - start * self.scale
        used = slice(first * self.scale + offset, last * self.scale + offset)
        return np.minimum(places, 2 * length - 1 - places), used


# -- classes ----------------------------------------------------------------------------------------------------------


def find_classes(wanted: str | Sequence[str | int], names: Sequence[str]) -> Iterator[tuple[str, int | None]]:
    """Yield each class with its number, or None if it does not exist.

    Args:
        wanted: names and numbers, in a sequence or separated by commas; digits are a number unless a class's name.
        names: names of all classes; without any, every number exists.
    """
    for text in (str(word).strip() for word in (wanted.split(",") if isinstance(wanted, str) else wanted)):
        if text in names:
            yield text, names.index(text)
        else:
            yield text, int(text) if text.isdecimal() and (not names or int(text) < len(names)) else None


def is_probability(y: Array) -> bool:
    """Return whether rows (B, nc) are probabilities already, not logits."""
    return bool((y >= 0).all() and (np.abs(y.sum(1) - 1) < 1e-2).all())


def softmax(y: Array) -> Array:
    """Convert logits (B, nc) to probabilities."""
    powers = np.exp(y - y.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def round_digits(value: float) -> float:
    """Return a number with six significant digits, as records have it."""
    return float(f"{value:.6g}")


def _argsort_descending(values: Array) -> Array:
    return np.argsort(-values, kind="stable")


# -- sampling ---------------------------------------------------------------------------------------------------------

SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("noise", "v")
METHODS = ("ddim", "ancestral")
STEPS = 50  # of a diffusion model unless given
SAMPLE_BATCH = 64  # samples that are made at once
LINEAR_BETAS = (1e-4, 0.02)  # of the first and the last of 1,000 steps, arXiv 2006.11239
COSINE_OFFSET, MAX_BETA = 0.008, 0.999  # arXiv 2102.09672
MAX_STEPS = 100_000  # of a schedule


class Noise:
    """Normal random numbers for samples; those of a sample depend on the seed and its number, not on its batch.

    Args:
        seed: of all samples.
        first: number of the batch's first sample.
        count: number of samples in the batch.
    """

    def __init__(self, seed: int, first: int, count: int) -> None:
        self.generators = [np.random.default_rng((seed, number)) for number in range(first, first + count)]

    def draw(self, shape: Sequence[int]) -> Array:
        """Return the next numbers (B, *shape) of each sample, float32."""
        return np.stack([g.standard_normal(tuple(shape), dtype=np.float32) for g in self.generators])


@dataclass(frozen=True)
class Diffusion:
    """How pictures become noise, and what a network predicts of that.

    Args:
        schedule: one of `SCHEDULES`.
        steps: number of steps from picture to noise.
        predicts: one of `PREDICTIONS`: the noise, or v = sqrt(level) * noise - sqrt(1 - level) * picture.

    Raises:
        ValueError: for other values.
    """

    schedule: str = "cosine"
    steps: int = 1000
    predicts: str = "v"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES or self.predicts not in PREDICTIONS:
            raise ValueError(f"the schedule is {' or '.join(SCHEDULES)}, the prediction {' or '.join(PREDICTIONS)}")
        if type(self.steps) is not int or not 2 <= self.steps <= MAX_STEPS:
            raise ValueError(f"the number of steps is from 2 to {MAX_STEPS}")

    def levels(self) -> Array:
        """Return the share of the picture's variance that is left after each step, (steps,) float64, falling."""
        if self.schedule == "linear":
            # The paper's rates are for 1,000 steps; fewer steps are larger, so that noise alone is left at the end.
            rates = np.linspace(*LINEAR_BETAS, self.steps) * (1000 / self.steps)
        else:
            times = np.arange(self.steps + 1) / self.steps
            left = np.cos((times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
            rates = 1 - left[1:] / left[:-1]
        return np.cumprod(1 - np.minimum(rates, MAX_BETA))

    def split(self, noisy: Array, output: Array, level: float) -> Array:
        """Return the picture, with values from -1 to 1, by a network's output for noisy pictures at a level."""
        if self.predicts == "v":
            picture = level**0.5 * noisy - (1 - level) ** 0.5 * output
        else:
            picture = (noisy - (1 - level) ** 0.5 * output) / level**0.5
        return picture.clip(-1, 1)

    def run(
        self, predict: Callable[[Array, int], Array], noise: Noise, shape: Sequence[int], count: int, method: str
    ) -> Iterator[Array]:
        """Yield pictures (B, *shape) on their way from noise, values from -1 to 1 at the end, ``count`` + 1 times.

        DDIM (arXiv 2010.02502) adds no noise on the way. Ancestral sampling (arXiv 2006.11239) adds as much as the
        posterior of each step has, which is DDIM with eta = 1.

        Args:
            predict: the network's output for noisy pictures at a step, counted from 0.
            noise: the random numbers.
            shape: of a picture.
            count: number of steps, evenly spread over all of them.
            method: one of `METHODS`.
        """
        levels = self.levels()
        chosen = np.unique(np.linspace(self.steps - 1, 0, min(count, self.steps)).round().astype(int))[::-1]
        pictures = noise.draw(shape)
        yield pictures
        for number, step in enumerate(chosen):
            level = float(levels[step])
            before = float(levels[chosen[number + 1]]) if number + 1 < len(chosen) else 1.0
            clean = self.split(pictures, predict(pictures, int(step)), level)
            rest = (pictures - level**0.5 * clean) / (1 - level) ** 0.5
            fresh = 0.0
            if method == "ancestral":
                fresh = ((1 - before) / (1 - level) * (1 - level / before)) ** 0.5
            pictures = before**0.5 * clean + max(1 - before - fresh**2, 0.0) ** 0.5 * rest
            if fresh:
                pictures = pictures + fresh * noise.draw(shape)
            pictures = pictures.astype(np.float32)
            yield pictures


def guide(call: Callable[..., Array], labels: Array | None, nc: int, guidance: float) -> Callable[[Array, int], Array]:
    """Return a network's prediction for pictures of some classes, as `Diffusion.run` takes it.

    With guidance w it is (1 + w) times that for the class, minus w times that for no class (arXiv 2207.12598).

    Args:
        call: runs the network on pictures, steps (B,) and, if it takes classes, their numbers (B,).
        labels: (B,) numbers of the classes; None for a network without.
        nc: number of classes, which as a number stands for no class.
        guidance: w; 0 for none.
    """

    def predict(pictures: Array, step: int) -> Array:
        times = np.full(len(pictures), step, np.float32)
        if labels is None:
            return call(pictures, times)
        wanted = labels.astype(np.float32)
        if not guidance:
            return call(pictures, times, wanted)
        both = call(
            np.concatenate((pictures, pictures)),
            np.concatenate((times, times)),
            np.concatenate((wanted, np.full_like(wanted, nc))),
        )
        guided, free = both[: len(pictures)], both[len(pictures) :]
        return (1 + guidance) * guided - guidance * free

    return predict


def to_bytes(values: Array) -> Array:
    """Convert pictures (B, C, H, W), values from -1 to 1, to bytes (B, H, W, C)."""
    return np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


class Sampler:
    """An open ONNX file of a network that makes pictures; `load_sampler` opens one.

    Attributes:
        kind: ``diffusion``, or ``generator`` for one step.
        names: names of the classes; None if they are not known or there are none.
        classes: number of the classes that can be asked for; 0 for none.
        shape: of the random numbers for a picture.

    Raises:
        RunError: if its metadata do not say how it is sampled, or do not fit its inputs.
    """

    def __init__(self, session: Any, path: Path) -> None:
        self.session, self.path = session, path
        metadata = session.get_modelmeta().custom_metadata_map
        facts = _read_sampling(metadata.get("sampling", ""), path)
        self.kind, self.inputs = facts.pop("kind"), session.get_inputs()
        shapes = [list(port.shape or ()) for port in self.inputs]
        least = 2 if self.kind == "diffusion" else 1
        wanted = [4, 1, 1][: len(shapes)] if self.kind == "diffusion" else [4, 1][: len(shapes)]
        if [len(shape) for shape in shapes] != wanted or not least <= len(shapes) <= least + 1:
            raise RunError(f"{path}: its inputs do not fit the sampling of a {self.kind}: {shapes}")
        names = _parse_names(metadata.get("names") or "null")
        self.names = None if names is None else tuple(names)
        self.classes = len(self.names or ()) if len(shapes) > least else 0
        if not all(isinstance(side, int) for side in shapes[0][1:]):
            raise RunError(f"{path}: takes pictures of any size", hint="export it without --dynamic size")
        self.shape = tuple(shapes[0][1:])
        self.batch = shapes[0][0] if isinstance(shapes[0][0], int) else None
        self.diffusion = Diffusion(**facts) if self.kind == "diffusion" else None

    def call(self, *values: Array) -> Array:
        """Run the file on arrays and return its first output; a fixed batch size runs as often as needed."""
        count = len(values[0])
        step, parts = self.batch or count, []
        for start in range(0, count, step):
            chosen = [value[start : start + step] for value in values]
            missing = step - len(chosen[0])
            if missing:
                chosen = [np.concatenate((v, np.zeros((missing, *v.shape[1:]), v.dtype))) for v in chosen]
            feeds = {
                port.name: np.ascontiguousarray(value, FLOAT_TYPES.get(port.type, np.float32))
                for port, value in zip(self.inputs, chosen)
            }
            parts.append(self.session.run(None, feeds)[0][: step - missing])
        return np.concatenate(parts).astype(np.float32)

    def sample(
        self,
        count: int,
        seed: int = 0,
        classes: Sequence[int] = (),
        steps: int = STEPS,
        method: str = METHODS[0],
        guidance: float = 0.0,
    ) -> Array:
        """Return pictures (count, H, W, C), uint8: the same as those of ``netbuild sample``, up to rounding.

        Args:
            count: number of pictures.
            seed: of the random numbers.
            classes: numbers of their classes, taken in turn; all unless given.
            steps, method, guidance: of a diffusion model, see `Diffusion.run` and `guide`.

        Raises:
            RunError: for a class that does not exist, or another method.
        """
        if method not in METHODS:
            raise RunError(f"method: there is no '{method}'", hint=f"it is {' or '.join(METHODS)}")
        if wrong := [number for number in classes if not 0 <= number < self.classes]:
            raise RunError(f"classes: there is no class {wrong[0]}", hint=f"the file has {self.classes}")
        turn = list(classes) or list(range(self.classes))
        labels = np.array([turn[i % len(turn)] for i in range(count)], np.float32) if turn else None
        parts = []
        for first in range(0, count, SAMPLE_BATCH):
            size = min(SAMPLE_BATCH, count - first)
            chosen, noise = None if labels is None else labels[first : first + size], Noise(seed, first, size)
            if self.diffusion is None:
                found = self.call(noise.draw(self.shape), *([] if chosen is None else [chosen]))
            else:
                predict = guide(self.call, chosen, self.classes, guidance)
                found = deque(self.diffusion.run(predict, noise, self.shape, steps, method), maxlen=1)[0]
            parts.append(to_bytes(found))
        return np.concatenate(parts)


def load_sampler(
    file: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0
) -> Sampler:
    """Open an ONNX file of ``netbuild export`` that makes pictures.

    Args:
        file: the file.
        providers, threads: as for `load`.

    Raises:
        PackageError: without onnxruntime.
        RunError: if the file cannot be read, or is not of a network that makes pictures.
    """
    return Sampler(_open_session(Path(file), providers, threads), Path(file))


def _read_sampling(text: str, path: Path) -> dict[str, Any]:
    """Read the metadata ``sampling`` of a file: its kind and the fields of `Diffusion`.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    if not text:
        raise RunError(f"{path}: its metadata do not say how it is sampled", hint="is it of a network with a task?")
    try:
        if len(text) > MAX_TEXT:
            raise ValueError("it is too long")
        facts = json.loads(text)
        if not isinstance(facts, dict) or facts.get("kind") not in ("diffusion", "generator"):
            raise ValueError("its kind is unknown")
        chosen = {name: facts[name] for name in ("schedule", "steps", "predicts") if name in facts}
        Diffusion(**chosen)
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: its metadata 'sampling' cannot be read: {_shorten(error)}") from None
    return {"kind": facts["kind"], **(chosen if facts["kind"] == "diffusion" else {})}


# -- the command line -------------------------------------------------------------------------------------------------


def _parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runtime", description="Predict pictures with an ONNX file.")
    parser.add_argument("file", help="an ONNX file")
    parser.add_argument("pictures", nargs="+", metavar="picture", help="pictures")
    parser.add_argument(
        "--imgsz", type=_parse_size, help="fit pictures into this size: 640, or 640x384 (height x width)"
    )
    parser.add_argument("--conf", type=float, help="confidence threshold of boxes (default 0.25) or labels (0.5)")
    parser.add_argument("--iou", type=float, help="IoU threshold of suppression (default 0.7)")
    parser.add_argument("--max-det", type=int, help="largest number of boxes per picture (default 300)")
    parser.add_argument("--classes", help="only these classes: names or numbers, comma-separated")
    # None unless given, so that an option without effect can be refused.
    parser.add_argument(
        "--agnostic", action="store_const", const=True, help="boxes of different classes suppress each other"
    )
    parser.add_argument("--multi-label", action="store_const", const=True, help="a box may have several classes")
    parser.add_argument(
        "--no-rect", dest="rect", action="store_const", const=False, help="pad pictures to the whole size"
    )
    parser.add_argument("--json", action="store_true", help="print all results as one JSON document")
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of each operator (default: onnxruntime's choice)"
    )
    metadata = parser.add_argument_group("for files of other programs, which lack the metadata")
    metadata.add_argument("--task", help=", ".join(TASKS[:-1]))
    metadata.add_argument("--names", type=lambda text: text.split(","), help="names of the classes, comma-separated")
    metadata.add_argument("--stride", type=int, help="largest stride in pixels")
    metadata.add_argument(
        "--extra", type=_parse_sides, help="values after a box's classes: 17x3 for 17 keypoints, 32 for masks"
    )
    metadata.add_argument("--fitting", choices=FITTINGS, help="how pictures are fitted to the input size")
    return parser.parse_args(words)


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return int(height), int(width or height)


def _parse_sides(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.lower().split("x")))


def _format_result(result: Mapping[str, Any]) -> str:
    """Format path, height x width and records as one line."""
    records = result["records"]
    if isinstance(records, dict):
        summary = "; ".join(f"{name}: {_summarize(of_head)}" for name, of_head in records.items())
    else:
        summary = _summarize(records)
    text = f"{result['path']} {result['height']}x{result['width']}: {summary}"
    return "".join(c if c.isprintable() else " " for c in text)


def _summarize(records: Sequence[Mapping[str, Any]]) -> str:
    """Summarise the records of a picture in a few words."""
    if records and "scale" in records[0]:
        return "restored, {width}x{height}".format(**records[0])
    if records and "box" in records[0]:
        counts: dict[tuple[int, str], int] = {}
        for record in records:
            key = record["class"], record["name"]
            counts[key] = counts.get(key, 0) + 1
        return ", ".join(f"{count} {name}" for (_, name), count in sorted(counts.items()))
    if records and "median" in records[0]:
        return "{nearest} to {farthest}, median {median}".format(**records[0])
    if records and "value" in records[0]:
        return ", ".join(f"{r['name']} {r['value']:.4g}" for r in records)
    return ", ".join(f"{r['name']} {r.get('confidence', r.get('share')):.2f}" for r in records) or "nothing"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    return map(_format_result, document["pictures"])


def _run(words: Sequence[str] | None) -> int:
    a = _parse_arguments(words)
    given = {
        "task": a.task,
        "names": a.names,
        "stride": a.stride,
        "fitting": a.fitting,
        "size": a.imgsz,
        "extra": a.extra,
    }
    for picture in a.pictures:
        if not Path(picture).is_file():
            raise RunError(f"there is no picture '{picture}'")
    model = load(a.file, threads=a.threads, **given)
    names = ("conf", "iou", "max_det", "classes", "agnostic", "multi_label", "rect", "imgsz")
    document = model.document(a.pictures, **{name: getattr(a, name) for name in names})
    for failed in document["failed"]:
        print(RunError(failed["reason"]), file=sys.stderr)
    print(json.dumps(document, indent=1) if a.json else "\n".join(_lines(document)), flush=True)
    return int(bool(document["failed"]))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0, or 1 if some pictures could not be read, 2 for a mistake, 3 if a package is missing.
    """
    try:
        return _run(words)
    except RunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:  # of writing to standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries to flush again when it exits
        if isinstance(error, BrokenPipeError):
            return 0
        print(RunError(f"the output cannot be written: {error.strerror}"), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
