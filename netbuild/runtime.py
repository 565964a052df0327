"""Runs an exported ONNX file on pictures with numpy, Pillow and onnxruntime alone: no torch, no OpenCV, no netbuild.

This file may be copied and used by itself: ``python runtime.py model.onnx picture.jpg --json``. What it gives is what
``netbuild predict`` gives on the same file.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray

GREY = 114  # of what no picture covers
MAX_CANDIDATES = 30_000  # boxes of an image before suppression, whose time and memory grow with their square
MAX_GUESSES = 5  # classes in the records of a classified picture
NMS_OPTIONS = ("iou", "agnostic", "multi_label")  # fields of `Filter` that only suppression uses
LEAST_STRIDE = 32  # of a letterboxed canvas
MAX_PIXELS = 178_956_970  # of a picture: half a GiB as RGB
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm"))
FITTINGS = ("letterbox", "middle")
BOXES = ("detect", "segment", "pose", "obb")  # tasks that find boxes
MAPS = ("semantic", "depth")  # tasks that say something of every pixel
TASKS = (*BOXES, *MAPS, "classify", "autoencode")  # of which the last finds nothing: it gives a picture
EXTRA = {"segment": (32,), "pose": (17, 3), "obb": (1,)}  # numbers after a box's classes, where a file does not say
BAND = 64  # rows of a picture whose classes are told at once
NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class RunError(Exception):
    """A mistake in a file, a flag or a picture.

    Args:
        message: what was found.
        hint: how to repair it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        text = f"error: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")
        # What a file says must not steer the terminal.
        return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class PictureError(RunError):
    """A picture that cannot be read; others may be."""


class PackageError(RunError):
    """A package is missing."""

    exit_code = 3


# -- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What a file says of itself, or what is given by hand.

    Args:
        task: one of `TASKS`; of another `Model.run` gives the outputs as they are.
        names: of the classes; none where they are not known.
        stride: both sides of a letterboxed canvas are multiples of it.
        size: height and width that pictures are fitted into unless another is asked for.
        channels: of the picture: 1, 3 or 4.
        fitting: ``letterbox``, or ``middle`` of the picture.
        one2one: whether rows come out best first and need no suppression: four numbers of the box, score, class.
        nms: the filter inside the file; None if there is none.
        boxes: what those four are: ``corners``, ``centres`` (and sizes), or ``parts``: centres in parts of the image.
        extra: what follows a box's classes: (32,) mask coefficients, (17, 3) keypoints, (1,) angle.
    """

    task: str
    names: tuple[str, ...] | None
    stride: int
    size: tuple[int, int]
    channels: int
    fitting: str
    one2one: bool = False
    nms: Mapping[str, Any] | None = None
    boxes: str = "corners"
    extra: tuple[int, ...] = ()

    @property
    def dense(self) -> bool:
        """Whether there is an entry for every cell, of which boxes are chosen here."""
        return self.task in BOXES and not self.one2one and self.nms is None

    @property
    def more(self) -> int:
        """How many numbers follow a box's classes."""
        return prod(self.extra) if self.extra else 0


class Model:
    """An ONNX file that is open, and what is known of it. `load` makes one.

    ``fixed`` has batch, height and width as the file has them, None where they are free.
    """

    def __init__(self, session: Any, path: Path, given: Mapping[str, Any]) -> None:
        self.session, self.path = session, path
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise RunError(f"{path}: prediction is for files of one image (B, C, H, W), this one takes {shapes}")
        self.input, self.outputs = inputs[0].name, [o.name for o in session.get_outputs()]
        self.type = inputs[0].type
        if self.type not in (*NUMBERS, "tensor(uint8)"):
            raise RunError(f"{path}: its image is a {self.type}, which pictures are not made to here")
        batch, channels, height, width = (side if isinstance(side, int) else None for side in inputs[0].shape)
        self.fixed = batch, height, width
        self.facts = facts_of(self, channels, session.get_modelmeta().custom_metadata_map, given)
        if self.facts.nms is not None and len(self.outputs) != 4:
            raise RunError(
                f"{path}: with suppression inside it gives boxes, scores, classes, index, not {self.outputs}"
            )
        if self.facts.task == "segment" and (len(self.outputs) < 2 or len(session.get_outputs()[1].shape) != 4):
            raise RunError(f"{path}: masks come of a second output, prototypes (B, k, h, w), which it has not")
        if self.classes is not None:
            self.check_classes(self.classes)

    @property
    def canvas(self) -> tuple[int, int] | None:
        """Height and width, where the file takes no others."""
        _, height, width = self.fixed
        return None if height is None or width is None else (height, width)

    @property
    def classes(self) -> int | None:
        """Number of classes, as the shape of the output has it, else by their names; None where neither tells."""
        facts, shape = self.facts, self.session.get_outputs()[0].shape
        if len(shape) == 3 and facts.dense and isinstance(shape[1], int):
            return shape[1] - 4 - facts.more
        axes = {"classify": 2, "semantic": 4}.get(facts.task)
        if len(shape) == axes and isinstance(shape[1], int):
            return shape[1]
        return None if facts.names is None else len(facts.names)

    def run(self, images: Array) -> list[Array]:
        """The file's outputs for images (B, C, H, W), bytes or numbers from 0 to 1; of a fixed batch bit by bit.

        Raises:
            RunError: if the file does not run on them.
        """
        if self.type == "tensor(uint8)":
            values = images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)
        else:
            values = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
            values = values.astype(NUMBERS[self.type], copy=False)
        step = self.fixed[0] or len(values)
        parts = [self._run(values[i : i + step], step, i) for i in range(0, len(values), step)]
        return parts[0] if len(parts) == 1 else [np.concatenate(several) for several in zip(*parts)]

    def _run(self, values: Array, step: int, start: int) -> list[Array]:
        missing = step - len(values)
        if missing:  # the file takes so many, no fewer
            values = np.concatenate((values, np.zeros((missing, *values.shape[1:]), values.dtype)))
        try:
            found = self.session.run(self.outputs, {self.input: np.ascontiguousarray(values)})
        except Exception as error:  # onnxruntime's own classes share no base
            said = f"{self.path}: the file fails on images of shape {list(values.shape)}: {_short(error)}"
            raise RunError(said, hint="try another --imgsz") from None
        for output, name in zip(found, self.outputs):
            if not isinstance(output, np.ndarray) or output.ndim == 0:
                raise RunError(f"{self.path}: its output '{name}' is no tensor with an axis of pictures")
        if self.facts.nms is None:
            return [output[: step - missing] for output in found]
        return [*found[:3], found[3] + start]

    # -- prediction ---------------------------------------------------------------------------------------------------

    def predict(self, picture: str | Path | Array, **options: Any) -> dict[str, Any]:
        """What is found in a picture: width, height, records, and its path where it is a file.

        Args:
            picture: a file, or uint8 (H, W), (H, W, 3) RGB, or (H, W, 4).
            options: ``imgsz`` and ``rect`` as for `fit`; where boxes are found fields of `Filter`.

        Raises:
            RunError: for whatever is wrong with picture or options.
        """
        path, outputs, place, chosen = self._see(picture, options)
        height, width = place.size
        records = self.records(outputs, place, chosen)
        return {**({} if path is None else {"path": path}), "width": width, "height": height, "records": records}

    def map(self, picture: str | Path | Array, **options: Any) -> Array:
        """For every pixel of a picture (H, W) its class by number, or its distance; see `predict`.

        Raises:
            RunError: as `predict`, and where the task has no such map.
        """
        if self.facts.task not in MAPS:
            raise RunError(
                f"the task '{self.facts.task}' says nothing of every pixel", hint="predict gives what it finds"
            )
        _, outputs, place, _ = self._see(picture, options)
        return MAP[self.facts.task](outputs[0][0], place)

    def _see(
        self, picture: str | Path | Array, options: dict[str, Any]
    ) -> tuple[str | None, list[Array], "Place", "Filter"]:
        """Path of a picture, the outputs for it, where it lies in what the network saw, and what is kept."""
        if self.facts.task not in TASKS:
            hint = "Model.run gives the outputs as they are"
            raise RunError(f"what is found by the task '{self.facts.task}' is not read here", hint)
        size, rect = self.settle(options.pop("imgsz", None), options.pop("rect", None))
        chosen = self.filter({name: value for name, value in options.items() if value is not None})
        pixels, path = self.pixels(picture)
        fitted, place = self.fit(pixels, size, rect)
        return path, self.run(np.ascontiguousarray(fitted.transpose(2, 0, 1))[None]), place, chosen

    def document(self, pictures: Iterable[str | Path], **options: Any) -> dict[str, Any]:
        """All results as ``netbuild predict --json`` prints them; pictures that cannot be read are in "failed"."""
        found: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for picture in pictures:
            try:
                found.append(self.predict(picture, **options))
            except PictureError as error:
                failed.append({"path": str(picture), "reason": error.message})
        names = None if self.facts.names is None else list(self.facts.names)
        return {"task": self.facts.task, "names": names, "pictures": found, "failed": failed}

    def settle(
        self, imgsz: int | tuple[int, int] | None = None, rect: bool | None = None
    ) -> tuple[tuple[int, int], bool]:
        """Height and width that pictures are fitted into, and whether canvases are as narrow as pictures allow.

        Raises:
            RunError: for what the file cannot have, or has no effect on it.
        """
        size = self.facts.size if imgsz is None else (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        if min(size) < 1:
            raise RunError(f"imgsz {size[0]}x{size[1]}: sides are at least 1")
        if self.canvas and size != self.canvas:
            height, width = self.canvas
            hint = f"leave it out, or export with --dynamic size; the file was made for {height}x{width}"
            raise RunError(f"{self.path}: imgsz {size[0]}x{size[1]}: the file takes {height}x{width} only", hint)
        if rect is not None and (self.canvas or self.facts.fitting != "letterbox"):
            what = "whose size is fixed" if self.canvas else "that takes the middle of pictures"
            raise RunError(f"rect has no effect on a file {what}", hint="leave it out")
        return size, self.canvas is None and rect is not False

    def filter(self, given: Mapping[str, Any]) -> "Filter":
        """Which detections are kept, from options by name; ``classes`` are numbers or names.

        Raises:
            RunError: for one that has no effect on this file, or a wrong value.
        """
        needless = set(NMS_OPTIONS) if self.facts.one2one or self.facts.nms is not None else set()
        known = set(Filter.__dataclass_fields__) - needless if self.facts.task in BOXES else set()
        for name in given:
            if name not in known:
                where = "without suppression" if name in needless else f"for the task '{self.facts.task}'"
                raise RunError(f"{name} has no effect {where}", hint="leave it out")
        wanted = given.get("classes")
        chosen = Filter(**{**given, **({} if wanted is None else {"classes": self.numbers(wanted)})})
        return self.narrowed(chosen, given)

    def narrowed(self, chosen: "Filter", given: Mapping[str, Any]) -> "Filter":
        """A filter that asks for no more than the one inside the file lets through."""
        inside = self.facts.nms or {}
        conf, most = inside.get("conf", 0), inside.get("max_det")
        if "conf" not in given and conf:
            chosen = replace(chosen, conf=conf)
        if chosen.conf < conf:
            raise RunError(f"conf {chosen.conf}: the file itself drops what is below {conf}", hint=_EXPORT_AGAIN)
        if most and "max_det" in given and chosen.max_det > most:
            raise RunError(f"max_det {chosen.max_det}: the file itself gives {most} at most", hint=_EXPORT_AGAIN)
        return chosen

    def numbers(self, wanted: str | Sequence[str | int]) -> tuple[int, ...]:
        """Return the numbers of classes that are given by number or name.

        Raises:
            RunError: for a class that does not exist.
        """
        names = self.facts.names or ()
        numbers = []
        for text, number in find_classes(wanted, names):
            if number is None:
                raise RunError(f"classes: there is no class '{text}'", hint=f"there is {', '.join(names[:20])}")
            numbers.append(number)
        return tuple(numbers)

    def pixels(self, picture: str | Path | Array) -> tuple[Array, str | None]:
        """A picture (H, W, C) with the channels that the file takes, and its path."""
        if isinstance(picture, (str, Path)):
            return read_image(picture, self.facts.channels), str(picture)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise RunError(f"pictures are uint8 (H, W, C), this is {picture.dtype} {list(picture.shape)}")
        image = picture if picture.ndim == 3 else picture[..., None]
        if image.shape[2] not in MODES:
            raise RunError(f"pictures have 1, 3 or 4 channels, this one has {image.shape[2]}")
        return _with_channels(image, self.facts.channels), None

    def fit(self, pixels: Array, size: tuple[int, int], rect: bool) -> tuple[Array, "Place"]:
        """What the network sees of a picture (H, W, C), and where it lies there."""
        if self.facts.fitting == "middle":
            return middle(pixels, size)
        return letterboxed(pixels, size, 1 if self.canvas else self.facts.stride, rect)

    def records(self, outputs: Sequence[Array], place: "Place", chosen: "Filter") -> list[dict[str, Any]]:
        """The records of one picture's outputs, as JSON data, in terms of the picture as it is."""
        task = self.facts.task
        if task in BOXES:
            rows = self.rows(outputs, 1, chosen, place.canvas)[0]
            found, more = self.boxes(rows, place), MORE.get(task)
            return (
                found if more is None else [{**r, **m} for r, m in zip(found, more(rows, self.facts, outputs, place))]
            )
        if task == "classify":
            return self.guesses(self.probabilities(outputs)[0])
        if task == "semantic":
            return [{**self.named(number), **told} for number, told in areas(labelled(self.logits(outputs), place))]
        return [span(distances(outputs[0][0], place))] if task == "depth" else []

    def rows(self, outputs: Sequence[Array], count: int, chosen: "Filter", canvas: tuple[int, int]) -> list[Array]:
        """Detections of each of ``count`` images, best first: (n, 6+extra) corners in pixels, score, class, extra.

        Corners are those of the box before it is turned, where it has an angle; ``canvas`` is the images' height and
        width.
        """
        facts = self.facts
        if facts.nms is not None:
            return [wanted(rows, chosen) for rows in listed(outputs, count)]
        y, extra = outputs[0].astype(np.float32, copy=False), facts.more
        if facts.one2one:
            if y.ndim != 3 or y.shape[2] != 6 + extra:
                raise RunError(f"{self.path}: its output has the shape {list(y.shape)}, not (B, k, {6 + extra})")
            return [wanted(rows, chosen) for rows in cornered(y, facts.boxes, canvas)]
        nc = y.shape[1] - 4 - extra if y.ndim == 3 else -1
        self.check_classes(nc)
        return [suppressed(image, chosen, nc, facts.task == "obb") for image in y]

    def logits(self, outputs: Sequence[Array]) -> Array:
        """(nc, h, w) of one picture."""
        self.check_classes(outputs[0].shape[1] if outputs[0].ndim == 4 else -1)
        return outputs[0][0]

    def probabilities(self, outputs: Sequence[Array]) -> Array:
        """(B, nc) from the first output, which may be logits."""
        y = outputs[0].astype(np.float32, copy=False)
        if y.ndim != 2:
            raise RunError(f"{self.path}: its output has the shape {list(y.shape)}, not (B, classes)")
        self.check_classes(y.shape[1])
        return y if likely(y) else softmax(y)

    def check_classes(self, count: int) -> None:
        """Refuse outputs that are not of as many classes as there are names.

        Raises:
            RunError: if they differ.
        """
        names = self.facts.names
        if count < 1 or (names is not None and count != len(names)):
            told = "unknown" if names is None else len(names)
            raise RunError(f"{self.path}: its output has {count} classes, names are given for {told}")

    def boxes(self, rows: Array, place: "Place") -> list[dict[str, Any]]:
        """For each detection class, name, confidence, and corners [x1, y1, x2, y2] in pixels of the picture."""
        corners = place.undo(rows[:, :4]).tolist()
        return [
            {**self.named(int(number)), "confidence": round(score, 5), "box": [round(x, 3) for x in box]}
            for box, (score, number) in zip(corners, rows[:, 4:6].tolist())
        ]

    def guesses(self, p: Array) -> list[dict[str, Any]]:
        """The five best classes of probabilities (nc,), best first."""
        if np.isnan(p).any():
            raise RunError(f"{self.path}: it gives no probabilities but NaN")
        return [{**self.named(int(i)), "confidence": round(float(p[i]), 5)} for i in _descending(p)[:MAX_GUESSES]]

    def named(self, number: int) -> dict[str, Any]:
        """A class as a record has it."""
        names = self.facts.names
        return {"class": number, "name": names[number] if names and number < len(names) else str(number)}


_EXPORT_AGAIN = "ask for what it gives, or export it again with other limits or without --nms"


def load(
    file: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0, **given: Any
) -> Model:
    """Open an ONNX file.

    Args:
        file: of netbuild, or another whose facts are given.
        providers: of onnxruntime, in order of preference.
        threads: of an operator; 0 leaves it to onnxruntime.
        given: fields of `Facts` that the file does not say, or says otherwise: ``task``, ``names``, ``stride``, ...

    Raises:
        PackageError: without onnxruntime.
        RunError: if the file cannot be read, or says too little.
    """
    path = Path(file)
    try:
        import onnxruntime
    except ImportError:
        raise PackageError("running ONNX files needs onnxruntime", hint="pip install onnxruntime") from None
    try:
        empty = path.stat().st_size == 0
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if empty:
        raise RunError(f"{path}: the file is empty")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's own classes share no base
        said = f"{path}: no ONNX file that onnxruntime can open: {_short(error)}"
        raise RunError(said, hint="it may be cut off: compare its size with where it comes from") from None
    return Model(session, path, given)


def facts_of(model: Model, channels: int | None, metadata: Mapping[str, str], given: Mapping[str, Any]) -> Facts:
    """What is known of a file: what is given, else what its metadata says, else what can be seen.

    Raises:
        RunError: if that is too little, or cannot be.
    """
    said = {**_read(metadata, model.path), **{k: v for k, v in given.items() if v is not None}}
    if "task" not in said:
        hint = "netbuild.runtime takes by hand what is known of it: --task detect --names cat,dog --stride 32"
        said_not = "it says neither task nor names nor stride: no metadata of netbuild"
        raise RunError(f"{model.path}: {said_not}", hint)
    task = said["task"]
    fitting = said.get("fitting") or ("letterbox" if task in (*BOXES, *MAPS) else "middle")
    if fitting not in FITTINGS:
        raise RunError(f"{model.path}: it fits pictures by '{fitting}', which is not known here")
    size = model.canvas or said.get("size")
    if size is None:
        hint = "give it by hand: --imgsz 640"
        raise RunError(f"{model.path}: it takes any size and does not say which is its own", hint=hint)
    if fitting == "letterbox" and not model.canvas:
        size = (max(size),) * 2
    channels = channels or said.get("channels", 3)
    if channels not in MODES:
        raise RunError(f"{model.path}: pictures have 1, 3 or 4 channels, its image has {channels}")
    stride = max(LEAST_STRIDE, int(said.get("stride", LEAST_STRIDE)))
    names = said.get("names")
    names = None if names is None else tuple(map(str, names))
    extra = tuple(said.get("extra", EXTRA.get(task, ())))
    if len(extra) != len(EXTRA.get(task, ())) or (task == "pose" and extra[1] not in (2, 3)):
        raise RunError(f"{model.path}: no task '{task}' has {list(extra)} numbers after a box's classes")
    known = {name: said[name] for name in ("one2one", "nms", "boxes") if name in said}
    return Facts(task, names, stride, tuple(size), channels, fitting, extra=extra, **known)


def _read(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What the metadata says, as fields of `Facts`; nothing of a file of others, where such keys may mean anything."""
    found: dict[str, Any] = {}
    for key, (name, read) in _READERS.items():
        if "netbuild" in metadata and metadata.get(key):
            try:
                found[name] = read(metadata[key])
            except (ValueError, TypeError, IndexError, KeyError):
                raise RunError(f"{path}: its metadata '{key}' cannot be read: {metadata[key][:60]}") from None
    return found


def _pair(text: str) -> tuple[int, int]:
    height, width = json.loads(text)
    return int(height), int(width)


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {  # key -> field, and how it is read
    "task": ("task", str),
    "names": ("names", lambda text: [*json.loads(text)] or None),
    "stride": ("stride", int),
    "imgsz": ("size", _pair),
    "channels": ("channels", int),
    "fitting": ("fitting", str),
    "one2one": ("one2one", lambda text: text == "true"),
    "boxes": ("boxes", str),
    "extra": ("extra", lambda text: tuple(map(int, json.loads(text)))),
    "nms": ("nms", lambda text: dict(json.loads(text))),
}


def _short(error: object, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# -- pictures ---------------------------------------------------------------------------------------------------------


def read_image(path: str | Path, channels: int = 3) -> Array:
    """A picture as uint8 (H, W, channels): upright as its EXIF says, 16 bits scaled to 8, palettes resolved.

    Raises:
        PictureError: if the file is no picture, is cut off, too large, or has no right form in 8 bits.
    """
    if Path(path).suffix.lower() in VIDEOS:
        said = (
            "a video: netbuild predict reads it (pip install 'netbuild[train]'); Model.predict takes frames as arrays"
        )
        raise PictureError(f"{path}: {said}")
    try:
        from PIL import Image
    except ImportError:
        raise PackageError("reading pictures needs Pillow", hint="pip install pillow") from None
    try:
        with Path(path).open("rb") as file:
            image = Image.open(file)
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(f"{path}: too large: {image.width} x {image.height}")
            image.load()
    except PictureError:
        raise
    except Exception as error:  # a decoder meets any bytes, so any of its failures is the file's fault
        raise PictureError(f"{path}: cannot be read as a picture: {_short(error) or type(error).__name__}") from None
    return _levelled(_upright(image), str(path), channels)


def _upright(image: Any) -> Any:
    """A picture turned as its EXIF orientation says."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF says nothing
        return image
    turns = (0, 3, 1, 5, 4, 6, 2)  # Pillow's transpositions of the orientations 2, 3, ...
    return image.transpose(turns[orientation - 2]) if orientation in range(2, 9) else image


def _levelled(image: Any, name: str, channels: int) -> Array:
    """8 bits a channel, in the mode that is asked for."""
    from PIL import Image

    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):  # converting them, Pillow would clip
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise PictureError(f"{name}: values outside 0..65535 have no right form in 8 bits")
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # through its colours; straight to grey, Pillow may take the numbers
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        raise PictureError(f"{name}: pictures of Pillow's mode {image.mode} have no rule")
    # Grey comes of RGB, as all that is read by netbuild predict is RGB first.
    if channels == 1:
        image = image.convert("RGB")
    array = np.asarray(image if image.mode == MODES[channels] else image.convert(MODES[channels]))
    return array.reshape(*array.shape[:2], channels)


def _with_channels(image: Array, channels: int) -> Array:
    if image.shape[2] == channels:
        return image
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.convert(MODES[channels])).reshape(*image.shape[:2], channels)


def resized(image: Array, h: int, w: int) -> Array:
    """A picture (H, W, C) as (h, w, C): means over areas where it becomes smaller, else between the nearest pixels.

    The second is equal to OpenCV's INTER_LINEAR, the first within one of 255 steps to its INTER_AREA.
    """
    height, width = image.shape[:2]
    if (h, w) == (height, width):
        return image
    if h > height or w > width:
        return _between(image, h, w)
    rows = _averaged(image, h)
    means = _averaged(rows.swapaxes(0, 1), w).swapaxes(0, 1)
    return (means + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def _averaged(values: Array, count: int) -> Array:
    """Means over as many equal parts of the first axis, whose ends may lie inside pixels."""
    length = len(values)
    if count == length:
        return values
    ends = np.linspace(0, length, count + 1)  # the last is exact: its part ends with the picture
    whole = ends.astype(np.int64)
    part = (ends - whole).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    kind = np.uint32 if values.dtype == np.uint8 else np.float32
    sums = np.add.reduceat(values, whole[:-1], axis=0, dtype=kind).astype(np.float32)
    sums -= part[:-1] * values[whole[:-1]]  # what lies before the part begins
    sums += part[1:] * values[np.minimum(whole[1:], length - 1)]  # what it has of its last pixel
    return sums * np.float32(count / length)


def _between(image: Array, h: int, w: int) -> Array:
    """Each pixel from the four nearest, in the whole numbers that OpenCV takes for bytes: weights are 11 bits."""
    height, width = image.shape[:2]
    smaller = h < height or w < width
    (top, below, down), (left, right, across) = _nearest(height, h, smaller), _nearest(width, w, smaller)
    near, far = (_weights(part)[:, None] for part in (1 - across, across))
    values = image.astype(np.int32)
    rows = (values[:, left] * near + values[:, right] * far) >> 4
    near, far = (_weights(part)[:, None, None] for part in (1 - down, down))
    return ((((near * rows[top]) >> 16) + ((far * rows[below]) >> 16) + 2) >> 2).astype(np.uint8)


def _weights(parts: Array) -> Array:
    return np.rint(parts * np.float32(2048)).astype(np.int32)


def _nearest(length: int, count: int, smaller: bool) -> tuple[Array, Array, Array]:
    """Of each place the pixel before and the one after, along one axis, and how far it is from the first to the second.

    Of a picture that becomes smaller in one direction only, places are those of OpenCV's INTER_AREA.
    """
    scale, numbers = 1 / (count / length), np.arange(count)  # rounded as OpenCV rounds it
    if smaller:
        first = np.floor(numbers * scale)
        part = ((numbers + 1) - (first + 1) * (count / length)).astype(np.float32)
        part = np.where(part <= 0, np.float32(0), part - np.floor(part))
    else:
        place = ((numbers + 0.5) * scale - 0.5).astype(np.float32)
        first = np.floor(place)
        part = place - first
    low = first.astype(np.int64)
    return low.clip(0, length - 1), (low + 1).clip(0, length - 1), part


@dataclass(frozen=True)
class Place:
    """Where a picture lies in what the network sees, in pixels: (height, width) before and after, top left corner.

    ``canvas`` is the height and width of what the network sees.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    corner: tuple[int, int]
    canvas: tuple[int, int]

    def undo(self, boxes: Array) -> Array:
        """Corner boxes (n, 4) in what the network sees to pixels of the picture, cut at its edges."""
        h, w = self.size
        return points_back(boxes.reshape(-1, 2), self).reshape(-1, 4).clip(0, np.array([w, h, w, h], np.float32))


def points_back(points: Array, place: Any) -> Array:
    """Points (..., 2), x and y, in what the network sees to pixels of the picture, inside it or not."""
    ratio = np.array([inner / size for inner, size in zip(place.inner, place.size)][::-1], np.float32)
    return (points - np.array(place.corner[::-1], np.float32)) / ratio


def letterboxed(image: Array, size: tuple[int, int], stride: int, rect: bool) -> tuple[Array, Place]:
    """A picture (H, W, C) as large as fits into a size, undistorted, in the middle of grey; and where it lies there.

    Args:
        image: the picture; a small one is enlarged.
        size: height and width that it may have.
        stride: both sides of the canvas are multiples of it.
        rect: whether the canvas is as narrow as the picture allows; without, as large as the size.
    """
    original = image.shape[0], image.shape[1]
    ratio = min(size[0] / original[0], size[1] / original[1])
    inner = max(round(original[0] * ratio), 1), max(round(original[1] * ratio), 1)
    height, width = (ceil(side / stride) * stride for side in (inner if rect else size))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas = np.full((height, width, image.shape[2]), GREY, np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = image if inner == original else resized(image, *inner)
    return canvas, Place(original, inner, (top, left), (height, width))


def middle(image: Array, size: tuple[int, int]) -> tuple[Array, Place]:
    """The middle of a picture (H, W, C) in just the size that is asked for; the place is right to a pixel."""
    h, w = image.shape[:2]
    ratio = min(h / size[0], w / size[1])
    part = max(min(round(size[0] * ratio), h), 1), max(min(round(size[1] * ratio), w), 1)
    top, left = (h - part[0]) // 2, (w - part[1]) // 2
    cut = image[top : top + part[0], left : left + part[1]]
    larger = max(size[0] / h, size[1] / w)
    inner = round(h * larger), round(w * larger)
    place = Place((h, w), inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2), size)
    return cut if cut.shape[:2] == tuple(size) else resized(cut, *size), place


# -- what is found ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Which detections are kept.

    Args:
        conf: a score must be above it.
        iou: of two boxes that overlap more, the one of lower score goes.
        max_det: detections of an image.
        agnostic: boxes of different classes suppress one another too.
        multi_label: a box may have several classes, not its best only.
        classes: numbers of the classes that are wanted; all unless given.
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


def suppressed(image: Array, chosen: Filter, nc: int | None = None, turned: bool = False) -> Array:
    """Non-maximum suppression of predictions (4+nc+extra, A): rows (n, 6+extra), best first.

    Args:
        image: centre, size, probabilities, extra.
        chosen: what is kept.
        nc: number of classes; all that follows the box unless given.
        turned: whether the first of extra is the box's angle; then boxes overlap as they lie.
    """
    rows = candidates(image, chosen, len(image) - 4 if nc is None else nc)
    if turned:
        return rows[kept_turned(rows, chosen)]
    boxes = rows[:, :4]
    if not chosen.agnostic and len(rows):
        boxes = boxes + rows[:, 5:6] * (boxes.max() - boxes.min() + 1)  # each class where it meets no other
    return rows[kept(boxes, chosen.iou, chosen.max_det, overlaps)]


def candidates(image: Array, chosen: Filter, nc: int) -> Array:
    """Rows (n, 6+extra) of an image's (4+nc+extra, A) before suppression, best first: corners, score, class, extra."""
    boxes, scores, extra, least = image[:4].T, image[4 : 4 + nc].T, image[4 + nc :].T, np.float32(chosen.conf)
    if chosen.multi_label:
        cells, classes = (scores > least).nonzero()
    else:
        classes = scores.argmax(1)
        cells = (scores[np.arange(len(scores)), classes] > least).nonzero()[0]
        classes = classes[cells]
    if chosen.classes is not None:
        asked = np.isin(classes, chosen.classes)
        cells, classes = cells[asked], classes[asked]
    found = scores[cells, classes]
    order = _descending(found)[:MAX_CANDIDATES]
    cells, classes, found = cells[order], classes[order], found[order]
    return np.concatenate(
        (corners_of(boxes[cells]), found[:, None], classes[:, None], extra[cells]), 1, dtype=np.float32
    )


def corners_of(boxes: Array) -> Array:
    """Centre and size (..., 4) to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return np.concatenate((centre - half, centre + half), -1)


def cornered(rows: Array, boxes: str, canvas: tuple[int, int]) -> Array:
    """Rows (..., 6+extra) whose first four are what `Facts.boxes` says, with corners in pixels there."""
    if boxes == "corners":
        return rows
    scale = np.array(canvas[::-1] * 2 if boxes == "parts" else (1, 1, 1, 1), rows.dtype)
    return np.concatenate((corners_of(rows[..., :4]) * scale, rows[..., 4:]), -1)


def kept(boxes: Array, iou: float, most: int, overlap: Callable[[Array, Array], Array]) -> list[int]:
    """Numbers of the boxes (n, ...), best first, that no better one overlaps by more than ``iou``."""
    found: list[int] = []
    left = np.arange(len(boxes))
    while len(left) and len(found) < most:
        best, left = left[0], left[1:]
        found.append(int(best))
        left = left[~(overlap(boxes[best], boxes[left]).astype(np.float64) > iou)]
    return found


def overlaps(box: Array, others: Array) -> Array:
    """IoU of a corner box (4,) with each of (n, 4)."""
    low, high = others[:, :2], others[:, 2:]
    both = np.maximum(np.minimum(box[2:], high) - np.maximum(box[:2], low), 0).prod(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without an area
        return both / ((box[2:] - box[:2]).prod() + (high - low).prod(1) - both)


def wanted(rows: Array, chosen: Filter) -> Array:
    """Of rows (k, 6), best first, that need no suppression: those that the filter lets through."""
    rows = rows[rows[:, 4] > np.float32(chosen.conf)]
    if chosen.classes is not None:
        rows = rows[np.isin(rows[:, 5].astype(np.int64), chosen.classes)]
    return rows[: chosen.max_det]


def listed(outputs: Sequence[Array], count: int) -> list[Array]:
    """Rows (n, 6) of each image, best first, of a file with suppression inside: its boxes, scores, classes, index."""
    boxes, scores, classes, index = outputs
    rows = np.concatenate((boxes, scores[:, None], classes[:, None]), 1, dtype=np.float32)
    return [own[_descending(own[:, 4])] for own in (rows[index == i] for i in range(count))]


# -- turned boxes -----------------------------------------------------------------------------------------------------


def kept_turned(rows: Array, chosen: Filter) -> list[int]:
    """Numbers of the rows (n, 7+), best first, whose turned boxes no better one of their class overlaps too much."""
    boxes = centred(rows)
    kinds = np.zeros(len(rows)) if chosen.agnostic else rows[:, 5]
    groups = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    found = [own[kept(boxes[own], chosen.iou, chosen.max_det, turned_overlaps)] for own in groups]
    return sorted(int(number) for numbers in found for number in numbers)[: chosen.max_det]


def centred(rows: Array) -> Array:
    """Rows of detections (n, 7+) as turned boxes (n, 5): centre, width, height, angle in radians from x towards y."""
    low, high = rows[:, :2].astype(np.float64), rows[:, 2:4].astype(np.float64)
    return np.concatenate(((low + high) / 2, high - low, rows[:, 6:7]), 1)


def turned_corners(boxes: Array) -> Array:
    """The corners (n, 4, 2) of turned boxes (n, 5), in order around each."""
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    turn = np.stack((np.stack((cos, sin), -1), np.stack((-sin, cos), -1)), 1)  # what x and y become
    return boxes[:, None, :2] + (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * boxes[:, None, 2:4]) @ turn


def turned_overlaps(box: Array, others: Array) -> Array:
    """IoU of a turned box (5,) with each of (n, 5): areas of polygons, exactly."""
    found = np.zeros(len(others))
    reach = (np.hypot(*box[2:4]) + np.hypot(others[:, 2], others[:, 3])) / 2
    near = np.hypot(others[:, 0] - box[0], others[:, 1] - box[1]) < reach
    seen = others[near] - np.array([*box[:2], 0, 0, box[4]])  # as the box lies: turned back, about its centre
    cos, sin = np.cos(box[4]), np.sin(box[4])
    seen[:, :2] = seen[:, :2] @ np.array([[cos, -sin], [sin, cos]])
    path = _pushed(_pushed(turned_corners(seen), 0, box[2] / 2), 1, box[3] / 2)
    x, y = path[..., 0], path[..., 1]
    both = np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without an area
        found[near] = both / (box[2:4].prod() + others[near, 2:4].prod(1) - both)
    return found


def _pushed(paths: Array, axis: int, half: float) -> Array:
    """Closed paths (n, m, 2) pushed to between -half and half along an axis, with a point wherever they cross.

    What is outside comes to lie on the border, where it has no area: the area is that of the polygon cut off there.
    """
    way = np.roll(paths, -1, 1) - paths
    with np.errstate(invalid="ignore", divide="ignore"):  # edges along the border
        parts = (np.array([-half, half]) - paths[..., axis, None]) / way[..., axis, None]
    parts = np.sort(np.where(np.isfinite(parts), parts, 0).clip(0, 1), -1)
    points = np.concatenate((paths[:, :, None], paths[:, :, None] + parts[..., None] * way[:, :, None]), 2)
    points = points.reshape(len(paths), 3 * paths.shape[1], 2)
    points[..., axis] = points[..., axis].clip(-half, half)
    return points


def turned(rows: Array, place: Any) -> Iterator[dict[str, Any]]:
    """Of each detection (n, 7+) its corners in pixels of the picture, and the box around them, cut at the edges."""
    h, w = place.size
    for corners in points_back(turned_corners(centred(rows)), place):
        low, high = corners.min(0).clip(0, (w, h)), corners.max(0).clip(0, (w, h))
        yield {"box": _rounded([*low, *high]), "corners": [_rounded(corner) for corner in corners]}


# -- keypoints and masks ----------------------------------------------------------------------------------------------


def keypoints(rows: Array, shape: Sequence[int], place: Any) -> Iterator[dict[str, Any]]:
    """Of each detection (n, 6+K*D) its keypoints (K, D): x, y in pixels of the picture, then whether it is seen.

    They may lie outside the picture.
    """
    for points in rows[:, 6:].reshape(-1, *shape):
        found = zip(points_back(points[:, :2], place), points[:, 2:].tolist())
        yield {"keypoints": [[*_rounded(xy), *(round(seen, 5) for seen in more)] for xy, more in found]}


def masks(rows: Array, prototypes: Array, place: Any) -> Iterator[dict[str, Any]]:
    """Of each detection (n, 6+nm) its mask, from prototypes (nm, h, w) of what the network sees.

    A pixel of the picture belongs to it if it is in the box and its logit, between the four nearest, is above 0.
    """
    if prototypes.shape[0] != rows.shape[1] - 6:
        said = f"{rows.shape[1] - 6} coefficients of a mask for {prototypes.shape[0]} prototypes"
        raise RunError(f"the outputs do not fit together: {said}")
    h, w = place.size
    edges = np.ceil(np.nan_to_num(Place.undo(place, rows[:, :4])) - 0.5).astype(int)  # a pixel is where its middle is
    for coefficients, (x1, y1, x2, y2) in zip(rows[:, 6:], edges):
        logits = np.tensordot(coefficients, prototypes, 1)[None]
        inside = sampled(logits, place, np.arange(y1, y2), np.arange(x1, x2))[0] > 0
        yield {"mask": run_lengths(inside, int(y1), int(x1), (h, w))}


def sampled(maps: Array, place: Any, rows: Array, columns: Array) -> Array:
    """Maps (k, h, w) of what the network sees at pixels of the picture, each between four: (k, rows, columns)."""
    for axis, numbers in ((1, rows), (2, columns)):
        count, (size, inner, margin) = maps.shape[axis], (s[axis - 1] for s in (place.size, place.inner, place.corner))
        canvas = inner + 2 * margin  # or a pixel more
        step = round(canvas / count)
        spare = canvas - step * count  # a network without padding tells of the middle alone
        seen = (numbers + 0.5) * (inner / size) + margin - (spare / 2 if abs(spare) > 1 else 0)
        between = (seen / step - 0.5).clip(0, count - 1)
        low = between.astype(np.int64)
        part = (between - low).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        maps = maps.take(low, axis) * (1 - part) + maps.take((low + 1).clip(max=count - 1), axis) * part
    return maps


def run_lengths(part: Array, top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """A mask (h, w) that lies in a picture of a size, as COCO's run lengths: down the columns, outside first."""
    padded = np.pad(part.T, ((0, 0), (1, 1)))
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    ends, times = np.unique((left + column) * size[0] + top + row, return_counts=True)
    ends = ends[times == 1]  # where a run ends and the next begins, it goes on
    counts = np.diff(ends, prepend=0, append=prod(size)).tolist()
    return {"size": [*size], "counts": counts if counts[-1] else counts[:-1]}


def mask_of(told: Mapping[str, Any]) -> Array:
    """The mask (H, W) of such run lengths, as booleans."""
    counts = np.asarray(told["counts"])
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(told["size"][::-1]).T


MORE: dict[str, Callable[[Array, Facts, Sequence[Array], Place], Iterator[dict[str, Any]]]] = {  # beside the box
    "segment": lambda rows, facts, outputs, place: masks(rows, outputs[1][0].astype(np.float32, copy=False), place),
    "pose": lambda rows, facts, outputs, place: keypoints(rows, facts.extra, place),
    "obb": lambda rows, facts, outputs, place: turned(rows, place),
}


# -- every pixel ------------------------------------------------------------------------------------------------------


def labelled(logits: Array, place: Any) -> Array:
    """The class of every pixel of the picture (H, W), from logits (nc, h, w) of what the network sees."""
    height, width = place.size
    values = logits.astype(np.float32, copy=False)
    bands = [np.arange(y, min(y + BAND, height)) for y in range(0, height, BAND)]
    kind = np.uint8 if len(logits) <= 256 else np.uint16
    return np.concatenate([sampled(values, place, band, np.arange(width)).argmax(0).astype(kind) for band in bands])


def areas(labels: Array) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each class that occurs, the largest area first, with its share of the picture (H, W) and its mask."""
    numbers, counts = np.unique(labels, return_counts=True)
    for i in _descending(counts):
        share = round(float(counts[i] / labels.size), 5)
        yield int(numbers[i]), {"share": share, "mask": run_lengths(labels == numbers[i], 0, 0, labels.shape)}


def distances(values: Array, place: Any) -> Array:
    """The distance of every pixel of the picture (H, W), from a map (1, h, w) of what the network sees."""
    height, width = place.size
    return sampled(values.astype(np.float32, copy=False), place, np.arange(height), np.arange(width))[0]


def span(values: Array) -> dict[str, Any]:
    """The least, the middle and the largest of the distances of a picture."""
    found = np.quantile(values, (0, 0.5, 1)).tolist()
    return dict(zip(("nearest", "median", "farthest"), _rounded(found)))


MAP = {"semantic": labelled, "depth": distances}


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 3) for value in values]


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


def likely(y: Array) -> bool:
    """Whether rows (B, nc) are probabilities already, not logits."""
    return bool((y >= 0).all() and (np.abs(y.sum(1) - 1) < 1e-2).all())


def softmax(y: Array) -> Array:
    """Probabilities of logits (B, nc)."""
    powers = np.exp(y - y.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _descending(values: Array) -> Array:
    return np.argsort(-values, kind="stable")


# -- the command line -------------------------------------------------------------------------------------------------


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runtime", description="Show what an ONNX file finds in pictures.")
    parser.add_argument("file", help="an ONNX file")
    parser.add_argument("pictures", nargs="+", metavar="picture", help="pictures")
    parser.add_argument("--imgsz", type=_size, help="fit pictures into this size: 640, or 640x384 (height x width)")
    parser.add_argument("--conf", type=float, help="least score of a box: 0.25 unless given")
    parser.add_argument("--iou", type=float, help="overlap beyond which a box is dropped: 0.7 unless given")
    parser.add_argument("--max-det", type=int, help="boxes a picture at most: 300 unless given")
    parser.add_argument("--classes", help="only these: names or numbers, with commas between")
    # None where they are not given, so that one without effect can be told.
    parser.add_argument("--agnostic", action="store_const", const=True, help="boxes of other classes drop one another")
    parser.add_argument("--multi-label", action="store_const", const=True, help="a box may have several classes")
    parser.add_argument("--no-rect", dest="rect", action="store_const", const=False, help="a canvas of the whole size")
    parser.add_argument("--json", action="store_true", help="all results as one document")
    parser.add_argument("--threads", type=int, default=0, help="of an operator; onnxruntime chooses unless given")
    hand = parser.add_argument_group("what a file of another program does not say of itself")
    hand.add_argument("--task", help=", ".join(TASKS[:-1]))
    hand.add_argument("--names", type=lambda text: text.split(","), help="of the classes, with commas between")
    hand.add_argument("--stride", type=int, help="the largest, in pixels")
    hand.add_argument(
        "--extra", type=_sides, help="numbers after the classes of a box: 17x3 of 17 keypoints, 32 of masks"
    )
    hand.add_argument("--fitting", choices=FITTINGS, help="how pictures are brought to its size")
    return parser.parse_args(words)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return int(height), int(width or height)


def _sides(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.lower().split("x")))


def _line(result: Mapping[str, Any]) -> str:
    """Path, height x width, and what is found, in one line."""
    records = result["records"]
    if records and "box" in records[0]:
        counts: dict[tuple[int, str], int] = {}
        for record in records:
            key = record["class"], record["name"]
            counts[key] = counts.get(key, 0) + 1
        said = ", ".join(f"{count} {name}" for (_, name), count in sorted(counts.items()))
    elif records and "median" in records[0]:
        said = "{nearest} to {farthest}, median {median}".format(**records[0])
    else:
        said = ", ".join(f"{r['name']} {r.get('confidence', r.get('share')):.2f}" for r in records)
    text = f"{result['path']} {result['height']}x{result['width']}: {said or 'nothing'}"
    return "".join(c if c.isprintable() else " " for c in text)


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    return map(_line, document["pictures"])


def _run(words: Sequence[str] | None) -> int:
    a = _arguments(words)
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
    """Run the command line: 0, 1 if some pictures could not be read, 2 for a mistake, 3 without a package."""
    try:
        return _run(words)
    except RunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:  # of standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at its end
        if isinstance(error, BrokenPipeError):
            return 0
        print(RunError(f"the output cannot be written: {error.strerror}"), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
