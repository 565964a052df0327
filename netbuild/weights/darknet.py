"""Read Darknet's ``.weights`` files: a header, then the float32 values of all layers in the order of the ``.cfg`` file.

A convolution has its biases, or with a batch norm the biases, factors, means and variances of that, then its kernels.
The file names nothing, so its size is all that shows whether it belongs to a network.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from netbuild.errors import NetbuildError
from netbuild.grammar.dialects.darknet import translate_darknet
from netbuild.grammar.dialects.darknet_rows import Weighted
from netbuild.grammar.nodes import read_text
from netbuild.graph.network import Network
from netbuild.system.files import refuse_special
from netbuild.weights.checkpoint import load_state

_VERSIONS = struct.Struct("<3i")  # major, minor, revision
_LIMIT = 2**34  # bytes of a file


def load_darknet_weights(network: Network, path: str | Path, cfg: str | Path) -> Network:
    """Load a ``.weights`` file into the network that was built from a ``.cfg`` file.

    Args:
        network: built from the ``.cfg`` file; changed in place.
        path: the file of weights.
        cfg: the ``.cfg`` file.

    Raises:
        NetbuildError: if a file cannot be read, or the number of values does not fit the network.
    """
    path = Path(path)
    state = dict(network.state_dict())
    parts = [
        (name, item)
        for item in translate_darknet(read_text(Path(cfg)), str(cfg)).weighted
        for name in list_tensors(item, state)
    ]
    sizes = [state[name].numel() for name, _ in parts]
    values = _read_values(path)
    _check_size(path, values.size, sizes, [item for _, item in parts])
    for (name, _), part in zip(parts, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
        state[name] = torch.from_numpy(part.copy()).view_as(state[name])
    return load_state(network, state, path)


def list_tensors(item: Weighted, state: dict[str, torch.Tensor]) -> Iterator[str]:
    """Yield the names of a section's tensors in the order of the file; ``state`` tells which of them exist."""
    if item.normalised:
        names: tuple[str, ...] = ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var", "conv.weight")
    else:
        names = ("bias", "weight")
    yield from (name for name in (f"{item.key}.{part}" for part in names) if name in state)


def _read_values(path: Path) -> np.ndarray:
    """Read the values of a file, without its header.

    The header has three versions, and the number of images seen in training: 8 bytes since version 0.2, 4 before.
    """
    try:
        if problem := refuse_special(path, _LIMIT):
            raise NetbuildError(f"{path}: {problem}")
        data = path.read_bytes()
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) < _VERSIONS.size + 4:
        raise NetbuildError(f"{path}: {len(data)} bytes are too few for the header of a Darknet file of weights")
    major, minor, _ = _VERSIONS.unpack_from(data)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        hint = "is it a Darknet .weights file? Other files are read by netbuild weights import"
        raise NetbuildError(f"{path}: version {major}.{minor} in its header is none of Darknet", hint=hint)
    start = _VERSIONS.size + (8 if major * 10 + minor >= 2 else 4)
    if (len(data) - start) % 4 or len(data) < start:
        raise NetbuildError(f"{path}: its end is cut off within a value", hint="copy or download it again")
    return np.frombuffer(data, "<f4", offset=start)


def _check_size(path: Path, found: int, sizes: list[int], items: list[Weighted]) -> None:
    """Refuse another number of values than the network's; say at which section a short file ends."""
    expected = sum(sizes)
    if found == expected:
        return
    message = f"{path}: it has {found:,} values, the network has {expected:,}"
    if found > expected:
        raise NetbuildError(message, hint="is it the file of another .cfg, with other classes perhaps?")
    end = next(i for i, total in enumerate(np.cumsum(sizes)) if total > found)
    hint = "is it the file of another .cfg, or only of a backbone, such as yolov4.conv.137?"
    where = items[end].section.node.where
    raise NetbuildError(f"{message}: it ends at layer {items[end].section.number}, which is here", where, hint)
