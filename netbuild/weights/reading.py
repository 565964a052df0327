"""Read the tensors of a weights file of any origin, without running code from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from netbuild.grammar.checkpoint_header import find_info, is_checkpoint
from netbuild.grammar.locate import resolve_run_folder
from netbuild.grammar.spec import load
from netbuild.weights import checkpoint
from netbuild.weights.pickles.stubs import Stub


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a weights file by key.

    Args:
        path: the file.
        tensors: key to tensor.
        labels: row number to (module, row name), for the rows that the file describes.
        metadata: for files of other programs, see `netbuild.weights.pickles.contents.extract_metadata`.
        model: the pickled model, if the file has one rather than a dict of tensors.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    labels: Mapping[int, tuple[str, str | None]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    model: Stub | None = None


def read_weights(path: Path, prefer: str = "ema") -> WeightsFile:
    """Read the tensors of a checkpoint of any origin without running code from it.

    Args:
        path: a netbuild checkpoint, a safetensors file, a file of ``torch.save``, or a run's folder: its best.
        prefer: ``ema`` to take the averaged weights where the file has some, ``model`` to take the last weights.

    Raises:
        NetbuildError: if the file cannot be read, or unpickling it would call a function that is not allowed.
    """
    path = resolve_run_folder(path)
    if is_checkpoint(path):
        spec = load(path) if find_info(path) else None
        labels = {row.index: (row.module, row.name) for row in spec.rows} if spec else {}
        return WeightsFile(path, checkpoint.load_tensors(path), labels)
    from netbuild.weights.pickles import contents, unpickle

    foreign = unpickle.read(path)
    metadata = contents.extract_metadata(foreign, prefer)
    tensors, model = contents.extract_state_dict(foreign, prefer), contents.find_model(foreign, prefer)
    return WeightsFile(path, tensors, _label_rows(metadata), metadata, model)


def _label_rows(metadata: Mapping[str, Any]) -> dict[int, tuple[str, str | None]]:
    """Row number to (module, None), from the YAML rows that an Ultralytics checkpoint carries."""
    spec = metadata.get("yaml")
    sections = [spec.get(section) for section in ("backbone", "head")] if isinstance(spec, dict) else []
    rows = [row for section in sections if isinstance(section, list) for row in section]
    return {i: (str(row[2]), None) for i, row in enumerate(rows) if isinstance(row, list) and len(row) > 2}
