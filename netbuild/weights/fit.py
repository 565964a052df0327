"""A foreign state dict fitted to a network's: by keys, or in the order of definition where the names differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from netbuild.errors import NetbuildError, did_you_mean

MAPS = ("keys", "torchvision", "timm", "order")  # all but the first go by order
COUNTER = "num_batches_tracked"  # that some files leave out
WRAPPERS = ("module.", "_orig_mod.", "model.", "state_dict.", "ema.", "backbone.", "net.")


@dataclass(frozen=True)
class Fit:
    """What of a file goes where: the network's keys to tensors, and what did not fit, with both shapes."""

    tensors: Mapping[str, torch.Tensor]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: Mapping[str, tuple[list[int], list[int]]] = field(default_factory=dict)  # in the file, in the network

    @property
    def whole(self) -> bool:
        """Whether every tensor of both sides found its place; counters of batches do not matter."""
        return not (self.mismatched or self.unexpected or [m for m in self.missing if not m.endswith(COUNTER)])

    def to_dict(self) -> dict[str, Any]:
        """As data."""
        mismatched = {key: {"file": there, "network": here} for key, (there, here) in self.mismatched.items()}
        return {
            "loaded": len(self.tensors),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": mismatched,
        }

    def __str__(self) -> str:
        lines = [f"{len(self.tensors)} tensors loaded"]
        for what, keys in (("missing in the file", self.missing), ("not in the network", self.unexpected)):
            if keys:
                lines.append(f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}")
        for key, (there, here) in list(self.mismatched.items())[:3]:
            lines.append(f"{key}: {there} in the file, {here} in the network")
        if len(self.mismatched) > 3:
            lines.append(f"... {len(self.mismatched)} of another shape in all")
        return "\n".join(lines)

    def demand(self, path: Any) -> None:
        """Refuse anything but a whole fit.

        Raises:
            NetbuildError: with what does not fit.
        """
        if not self.whole:
            raise NetbuildError(f"{path}: does not fit strictly\n{self}", hint="leave out --strict to load what fits")


def fit(file: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor], mapping: str = "keys") -> Fit:
    """Fit a file's tensors to a network's.

    Args:
        file: the tensors of the file by key.
        network: the network's, by key.
        mapping: ``keys`` by equal keys, whatever wrappers' prefixes stand before them; ``order``, ``torchvision`` or
            ``timm`` in the order of definition, where every shape must agree.

    Raises:
        NetbuildError: for an unknown mapping, where no key is equal, or where the orders disagree.
    """
    if mapping not in MAPS:
        raise NetbuildError(
            f"unknown map '{mapping}'", hint=did_you_mean(mapping, MAPS) or f"there is {', '.join(MAPS)}"
        )
    return _by_keys(file, network) if mapping == "keys" else _by_order(file, network)


def _by_keys(file: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> Fit:
    rename = max(_renamings(file, network), key=lambda r: sum(r(key) in network for key in file))
    named = {rename(key): tensor for key, tensor in file.items()}
    common = [key for key in network if key in named]
    if not common:
        theirs, ours = next(iter(file), "none"), next(iter(network), "none")
        raise NetbuildError(
            f"no key of the file is the network's: it begins with '{theirs}', the network with '{ours}'",
            hint="if the networks are the same, --map order fits them in the order of definition",
        )
    fits = {key: named[key] for key in common if named[key].shape == network[key].shape}
    return Fit(
        fits,
        tuple(key for key in network if key not in named),
        tuple(key for key in named if key not in network),
        {key: (list(named[key].shape), list(network[key].shape)) for key in common if key not in fits},
    )


def _renamings(file: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> list[Callable[[str], str]]:
    """Keys as they are, without the wrappers' prefixes that all of them have, and with ours before them."""
    prefixes = [""]
    while file and (found := [w for w in WRAPPERS if all(key.startswith(prefixes[-1] + w) for key in file)]):
        prefixes.append(prefixes[-1] + found[0])
    return [partial(_renamed, len(prefix), front) for prefix in prefixes for front in ("", "model.")]


def _renamed(cut: int, front: str, key: str) -> str:
    return front + key[cut:]


def _by_order(file: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> Fit:
    theirs = [(key, tensor) for key, tensor in file.items() if not key.endswith(COUNTER)]
    ours = [(key, tensor) for key, tensor in network.items() if not key.endswith(COUNTER)]
    for i, ((their_key, there), (our_key, here)) in enumerate(zip(theirs, ours, strict=False)):
        if there.shape != here.shape:
            raise NetbuildError(
                f"the orders disagree at tensor {i}: '{their_key}' {list(there.shape)} in the file,"
                f" '{our_key}' {list(here.shape)} in the network"
            )
    if len(theirs) != len(ours):
        longer, where = (theirs, "the file") if len(theirs) > len(ours) else (ours, "the network")
        first = longer[min(len(theirs), len(ours))][0]
        raise NetbuildError(
            f"the file has {len(theirs)} tensors, the network {len(ours)}: from '{first}' on they are in {where} alone"
        )
    counters = iter([tensor for key, tensor in file.items() if key.endswith(COUNTER)])
    fits = {key: tensor for (key, _), (_, tensor) in zip(ours, theirs, strict=True)}
    fits |= {key: next(counters, here) for key, here in network.items() if key.endswith(COUNTER)}
    return Fit({key: fits[key] for key in network})
