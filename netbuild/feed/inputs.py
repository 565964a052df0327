"""Where the inputs of a network beside its image come from: second pictures of the samples, features of the classes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netbuild.errors import NetbuildError, shorten
from netbuild.feed.loader import Batch, Collate
from netbuild.graph.card import NetworkCard


@dataclass(frozen=True)
class FurtherInputs:
    """The inputs of a network after its image, in the order of its file.

    Attributes:
        names: of the inputs.
        pictures: the number of channels of each input that is a second picture, the sample's extra of that name.
        constants: the value of each input that is the same for all samples, without the batch.
        note: what a user should know about them; empty if there is nothing.
    """

    names: tuple[str, ...] = ()
    pictures: Mapping[str, int] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""

    def wrap(self, collate: Collate) -> Collate:
        """Return a collate function that adds "inputs", a tuple of tensors (B, ...), to the batches of another one."""
        return partial(_collate_inputs, self, collate) if self.names else collate


def _collate_inputs(further: FurtherInputs, collate: Collate, items: Any) -> Batch:
    batch = collate(items)
    count = len(batch["images"])
    values = (batch[n] if n in further.pictures else _expand(further.constants[n], count) for n in further.names)
    return {**batch, "inputs": tuple(values)}


def _expand(value: Tensor, count: int) -> Tensor:
    return value.expand(count, *value.shape)


def find_inputs(card: NetworkCard, names: Sequence[str], embeddings: str | None) -> FurtherInputs:
    """Find where the values of a network's inputs after its image come from.

    An input (C, H, W) is a second picture; one with a row for each class holds features of the classes, such as those
    that a text encoder gives for their names.

    Args:
        card: of the network.
        names: names of the classes.
        embeddings: a file with the features of the classes; None for random ones.

    Raises:
        NetbuildError: for an input of another shape, or for an error in the file.
    """
    pictures: dict[str, int] = {}
    constants: dict[str, Tensor] = {}
    note = ""
    for name, shape in card.inputs[1:]:
        if len(shape) == 3:
            pictures[name] = _check_picture(card, name, shape)
        elif len(shape) == 2 and shape[0] == len(names):
            constants[name] = load_embeddings(embeddings, shape) if embeddings else random_embeddings(names, shape[1])
            if not embeddings:
                note = (
                    f"the input '{name}' gets random features, the same for a class whenever it has the same name; "
                    "-O class_embeddings=FILE names those of a text encoder"
                )
        else:
            hint = "it may be (C, H, W), or (number of classes, features); a task of one's own may supply others"
            raise NetbuildError(f"no value is known for the network's input '{name}' {list(shape)}", hint=hint)
    if embeddings and not constants:
        raise NetbuildError("class_embeddings has no effect: the network has no such input", hint="leave it out")
    return FurtherInputs(tuple(name for name, _ in card.inputs[1:]), pictures, constants, note)


def _check_picture(card: NetworkCard, name: str, shape: tuple[int, ...]) -> int:
    """Return the number of channels of a second picture.

    Raises:
        NetbuildError: if it is not as large as the image, or has a number of channels that pictures do not have.
    """
    if shape[1:] != card.imgsz or shape[0] not in (1, 3, 4):
        h, w = card.imgsz
        message = f"the network's input '{name}' is {list(shape)}"
        raise NetbuildError(message, hint=f"a second picture has the image's size: [1, {h}, {w}], or 3 or 4 channels")
    return shape[0]


def load_embeddings(path: str | Path, shape: Sequence[int]) -> Tensor:
    """Read the features of the classes, a row for each in their order, from a .npy or .safetensors file.

    Raises:
        NetbuildError: if the file cannot be read, or does not hold finite numbers of this shape.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".safetensors"):
        raise NetbuildError(f"{path}: features of classes are read from .npy and .safetensors files")
    try:
        found = _read_arrays(path)
    except Exception as error:  # numpy and safetensors raise many kinds for files that are damaged
        reason = getattr(error, "strerror", None) or shorten(error)
        raise NetbuildError(f"{path}: cannot be read: {reason}") from None
    if len(found) != 1:
        raise NetbuildError(f"{path}: has {len(found)} tensors, expected one with a row of features for each class")
    value = found[0]
    if list(value.shape) != list(shape):
        hint = "a row for each class, in the order of the data set's names"
        raise NetbuildError(f"{path}: is {list(value.shape)}, the network's input is {list(shape)}", hint=hint)
    if not torch.isfinite(value).all():
        raise NetbuildError(f"{path}: has values that are not finite")
    return value


def _read_arrays(path: Path) -> list[Tensor]:
    if path.suffix == ".npy":
        return [torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))]
    from safetensors.torch import load_file

    return [tensor.float() for tensor in load_file(path).values()]


def random_embeddings(names: Sequence[str], size: int) -> Tensor:
    """Return a random row of length 1 for each name, (len(names), size), which depends on the name alone."""
    rows = []
    for name in names:
        seed = int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=4).digest())
        rows.append(torch.randn(size, generator=torch.Generator().manual_seed(seed)))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)
