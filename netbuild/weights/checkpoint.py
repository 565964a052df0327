"""netbuild's checkpoint format: one safetensors file whose metadata holds all that is needed to rebuild the network.

Nothing in it is executable; the source of custom modules is stored as text and runs only with trust. The format is
documented in docs/checkpoint.md.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from netbuild import __version__
from netbuild.errors import NetbuildError, print_note_once, shorten
from netbuild.grammar.checkpoint_header import KEY, SUFFIX, CheckpointInfo, find_info, read_header, to_json
from netbuild.graph.network import Network
from netbuild.system.files import atomic_path, cannot_write, check_parent
from netbuild.weights.matching import is_same_kind
from netbuild.weights.transfer import describe_bad_values


def save(
    network: Network, path: str | Path, *, names: list[str] | None = None, training: Mapping[str, Any] | None = None
) -> Path:
    """Write a network and its weights to a checkpoint, atomically.

    Args:
        network: built by `netbuild.build`.
        path: where to write; must end in ``.safetensors``.
        names: class names in order; by default those on the network's card.
        training: JSON data about the training run, stored as it is.

    Returns:
        The path.

    Raises:
        NetbuildError: if the path has another suffix or cannot be written.
    """
    path = Path(path)
    check_path(path)
    tensors, aliases = _deduplicate(network.state_dict())
    stored = replace(make_info(network, names, training), aliases=aliases)
    # All metadata goes under one key: safetensors writes several keys in random order, and saving equal networks must
    # give equal files.
    write_safetensors(tensors, {KEY: to_json(stored)}, path)
    return path


def make_info(
    network: Network, names: Sequence[Any] | None = None, training: Mapping[str, Any] | None = None
) -> CheckpointInfo:
    """Make the metadata of a network, as for `save`, without the aliases of its tensors."""
    versions = {"netbuild": __version__, "torch": str(torch.__version__)}
    card = {key: value for key, value in network.card.to_dict().items() if key in CheckpointInfo.__dataclass_fields__}
    more = {"versions": versions, "training": dict(training or {}), "names": _to_texts(names or network.card.names)}
    return CheckpointInfo(**{**card, **more})


def _to_texts(names: Sequence[Any] | None) -> list[str] | None:
    """Return class names as texts: numbers are accepted, since data sets may have such classes."""
    return None if names is None else [str(name) for name in names]


def check_path(path: Path) -> None:
    """Check that a checkpoint can be written to a path, before time is spent on producing it.

    Raises:
        NetbuildError: if it does not end in .safetensors, is a folder, or its parent is missing or read-only.
    """
    if path.suffix != SUFFIX:
        raise NetbuildError(f"{path}: a checkpoint's name ends in {SUFFIX}")
    check_parent(path)
    if path.is_dir():
        raise NetbuildError(f"{path}: is a folder")


def _deduplicate(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Split a state dict into distinct tensors and aliases (tied weights: name to the name stored in the file).

    safetensors refuses tensors that share memory.
    """
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        location = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and location in seen:
            aliases[name] = seen[location]
            continue
        seen[location] = name
        # A view into a larger storage is copied: safetensors stores only contiguous tensors that own their storage.
        owns_storage = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        tensor = tensor.detach()
        tensors[name] = tensor if owns_storage else tensor.clone(memory_format=torch.contiguous_format)
    return tensors, aliases


def write_safetensors(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file atomically; on return it is flushed to the disk (fsync).

    Raises:
        NetbuildError: if it cannot be written.
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata)
        except Exception as error:  # safetensors raises a class of its own if, for example, the disk is full
            raise cannot_write(path, error) from error
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # safetensors creates files with mode 0600; give the file the usual permissions.
        temporary.chmod(0o666 & ~_read_umask())


def _read_umask() -> int:
    mask = os.umask(0)  # the umask can only be read by setting it
    os.umask(mask)
    return mask


def load_tensors(path: str | Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Load the tensors of any safetensors file; in a netbuild checkpoint also under their aliases.

    Raises:
        NetbuildError: if the file cannot be read.
    """
    from safetensors.torch import load_file

    path = Path(path)
    read_header(path)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path, device)
    except Exception as error:  # SafetensorError, OSError
        raise NetbuildError(f"{path}: damaged or incomplete safetensors file: {shorten(error)}") from None
    stored = find_info(path)
    for alias, name in (stored.aliases if stored else {}).items():
        if name not in tensors:
            raise NetbuildError(f"{path}: '{alias}' is an alias of '{name}', which the file does not contain")
        tensors[alias] = tensors[name]
    return tensors


def load_weights(network: Network, path: str | Path) -> Network:
    """Load a checkpoint's tensors into the network that it describes, strictly.

    Raises:
        NetbuildError: if a tensor is missing, unexpected or has another shape; the first three are named.
    """
    return load_state(network, load_tensors(path), path)


def load_state(network: Network, tensors: Mapping[str, torch.Tensor], path: str | Path) -> Network:
    """Load tensors into a network, strictly; ``path`` is the file that they are from.

    Raises:
        NetbuildError: if a tensor is missing, unexpected, or has another shape or kind of number; the first three are
            named.
    """
    state = network.state_dict()
    problems = [f"'{name}' is missing" for name in state if name not in tensors]
    problems += [f"'{name}' is unexpected" for name in tensors if name not in state]
    problems += [
        f"'{name}' has shape {list(tensors[name].shape)} in the file, {list(tensor.shape)} in the network"
        for name, tensor in state.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems += [
        f"'{name}' has {tensors[name].dtype} in the file, {tensor.dtype} in the network"
        for name, tensor in state.items()
        if name in tensors and not is_same_kind(tensors[name], tensor)
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise NetbuildError(f"{path}: its tensors do not fit its network: {'; '.join(problems[:3])}{more}")
    # Copied, not assigned: a float16 file is loaded into a float32 network.
    network.load_state_dict(tensors, assign=False)
    for remark in describe_bad_values(state):  # the state dict shares memory with the network
        print_note_once(f"{path}: {remark}")
    return network
