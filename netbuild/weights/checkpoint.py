"""netbuild's checkpoints: one safetensors file with the tensors and, in its metadata, all that rebuilds the network.

Nothing in it is executable; own modules travel as text and run only where they are trusted. See docs/checkpoint.md.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from netbuild import __version__
from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.header import KEY, SUFFIX, Stored, find, header, to_json
from netbuild.graph.network import Network
from netbuild.system.files import atomic_path, cannot_write, check_parent


def save(
    network: Network, path: str | Path, *, names: list[str] | None = None, training: Mapping[str, Any] | None = None
) -> Path:
    """Write a network with its weights: to a temporary file first, renamed when it is whole.

    Args:
        network: as `netbuild.build` gives it.
        path: of the file, ``.safetensors``.
        names: of the classes, in order.
        training: whatever a run wants to keep, as JSON data.

    Raises:
        NetbuildError: if the path ends otherwise or cannot be written.
    """
    path = Path(path)
    check_target(path)
    tensors, aliases = _distinct(network.state_dict())
    versions = {"netbuild": __version__, "torch": str(torch.__version__)}
    known = {key: value for key, value in network.card.to_dict().items() if key in Stored.__dataclass_fields__}
    own = {"aliases": aliases, "versions": versions, "training": dict(training or {})}
    facts = Stored(**{**known, **own, "names": names or network.card.names})
    # One entry: safetensors writes several in an order of chance, and equal networks are to give equal files.
    write(tensors, {KEY: to_json(facts)}, path)
    return path


def check_target(path: Path) -> None:
    """Refuse a path that no checkpoint can be written to, before work is done for it.

    Raises:
        NetbuildError: if it does not end in .safetensors, or its folder is missing or read-only.
    """
    if path.suffix != SUFFIX:
        raise NetbuildError(f"{path}: a checkpoint's name ends in {SUFFIX}")
    check_parent(path)
    if path.is_dir():
        raise NetbuildError(f"{path}: is a folder")


def _distinct(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors that a file holds once, and for every other name of one of them the name that it has there."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        # A copy where it is a part of a larger storage: the file has each tensor by itself.
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        tensors[name] = tensor.detach() if whole else tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensors, aliases


def write(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file whole, and on the disk when this is done.

    Raises:
        NetbuildError: if it cannot be written.
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata)
        except Exception as error:  # safetensors raises its own class where the disk is full
            raise cannot_write(path, error) from error
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # safetensors lets the owner alone read


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def tensors(path: str | Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, of netbuild or not, under all their names.

    Raises:
        NetbuildError: if it cannot be read.
    """
    from safetensors.torch import load_file

    path = Path(path)
    header(path)
    try:
        found: dict[str, torch.Tensor] = load_file(path, device)
    except Exception as error:  # SafetensorError, and what the system says
        raise NetbuildError(f"{path}: no whole safetensors file: {shorten(error)}") from None
    facts = find(path)
    for name, kept in (facts.aliases if facts else {}).items():
        if kept not in found:
            raise NetbuildError(f"{path}: '{name}' stands for '{kept}', which is not in it")
        found[name] = found[kept]
    return found


def fill(network: Network, path: str | Path) -> Network:
    """Load a checkpoint's tensors into the network that it describes; every one must fit.

    Raises:
        NetbuildError: with the first tensors that are missing, left over or of another shape.
    """
    found, own = tensors(path), network.state_dict()
    wrong = [f"'{name}' is missing" for name in own if name not in found]
    wrong += [f"'{name}' is left over" for name in found if name not in own]
    wrong += [
        f"'{name}' is {list(found[name].shape)} there, {list(tensor.shape)} here"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NetbuildError(f"{path}: its tensors do not fit its network: {'; '.join(wrong[:3])}{more}")
    network.load_state_dict(found, assign=False)
    return network
