"""A foreign state dict fitted to a network's: by equal keys, or in the order in which both define their tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from netbuild.errors import NetbuildError, did_you_mean, shorten

# What wrapping a network puts before all its keys: data parallelism, compilation, and the attribute that holds it.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
# How often a batch norm was trained. Files from before torch 0.4.1 lack it, and no output depends on it.
COUNTER = "num_batches_tracked"
# Names of which one never means another.
LEAVES = {"weight", "bias", "running_mean", "running_var"}
# Heads of torchvision's networks that only train, by the first part of their keys.
AUXILIARY = ("aux1", "aux2", "AuxLogits", "aux_classifier")


@dataclass(frozen=True)
class Difference:
    """Two tensors that do not fit: keys and shapes in the network and in the file, either empty, and why."""

    key: str
    source: str
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        own = f"{self.key} {list(self.shape)}" if self.key else "nothing more"
        theirs = f"{self.source} {list(self.source_shape)}" if self.source else "nothing more"
        return f"{self.why}: the network has {own}, the file {theirs}"


@dataclass(frozen=True)
class Match:
    """What of a file fits a network.

    Args:
        tensors: network key to the file's tensor, for ``load_state_dict(..., strict=False)``.
        sources: network key to the file's key.
        missing: keys of the network without a tensor in the file.
        unexpected: keys of the file that the network has no place for.
        mismatched: pairs of tensors that do not fit.
        ignored: keys that one side has alone and no output depends on: batch norms' ``num_batches_tracked``, and of
            torchvision's and timm's files the heads that only train.
        how: how keys were paired.
        stopped: where the orders disagree, which ends a match in order.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    sources: dict[str, str] = field(repr=False)
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Difference, ...]
    ignored: tuple[str, ...]
    how: str
    stopped: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of either side has its counterpart."""
        return not (self.missing or self.unexpected or self.mismatched or self.stopped)

    def require(self, name: object) -> None:
        """Raise what does not fit as a `NetbuildError`; ``name`` is the file's. Do nothing if all of it fits."""
        if self.is_complete:
            return
        said = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in self._sides() if keys]
        said += [self.stopped] if self.stopped else [str(pair) for pair in self.mismatched[:3]]
        raise NetbuildError(
            f"{name}: the weights do not fit the network: {len(self.tensors)} fit, " + "; ".join(said),
            hint="is it the same network, at the same scale and number of classes?",
        )

    def __str__(self) -> str:
        lines = [f"{len(self.tensors)} tensors loaded, {self.how}"]
        lines += [f"{len(keys)} {what}: {_some(keys)}" for what, keys in self._sides() if keys]
        lines += [self.stopped] if self.stopped else [str(pair) for pair in self.mismatched[:3]]
        if len(self.mismatched) > 3:
            lines.append(f"... {len(self.mismatched)} that differ in all")
        return "\n".join(lines)

    def report(self) -> dict[str, Any]:
        """The match as plain data, without the tensors."""
        return {
            "how": self.how,
            "loaded": dict(self.sources),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": [asdict(pair) for pair in self.mismatched],
            "ignored": list(self.ignored),
            "stopped": self.stopped,
        }

    def _sides(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("of the network missing", self.missing), ("of the file unexpected", self.unexpected)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(shorten(key) for key in keys[:4]) + (", ..." if len(keys) > 4 else "")


def match(tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor], mapping: str | None = None) -> Match:
    """Fit a file's tensors to those of a network.

    Without a mapping, keys must be equal, after removing prefixes that all of the file's keys bear (``module.``,
    ``_orig_mod.``, ``model.``, ...) or putting ``model.`` before them: whatever fits most. With ``order`` the tensors
    are paired as both sides define them, as long as shape, module and kind (weight, bias, ...) agree; at the first
    pair that does not, the match stops, and pairs before it that a shift by some tensors would explain as well are
    left out. ``torchvision`` and ``timm`` mean files of these libraries: the same, without the heads that only train.

    Args:
        tensors: the file's keys to tensors, in its order.
        network_state: the network's own state dict.
        mapping: None, ``order``, ``torchvision`` or ``timm``.

    Raises:
        NetbuildError: if there is no such mapping.
    """
    if mapping is None:
        return _by_keys(tensors, network_state)
    if mapping not in ("order", "torchvision", "timm"):
        hint = did_you_mean(mapping, ("order", "torchvision", "timm")) or "there are order, torchvision and timm"
        raise NetbuildError(f"there is no mapping '{mapping}'", hint=hint)
    return _in_order(tensors, network_state, AUXILIARY if mapping != "order" else ())


# -- by keys


def _by_keys(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Match:
    """The renaming under which most tensors fit; of equals the one that changes least."""

    def fitting(renaming: tuple[str, dict[str, str]]) -> int:
        return sum(key in own and own[key].shape == tensors[source].shape for key, source in renaming[1].items())

    how, sources = max(_renamings(tensors), key=fitting)
    pairs = {key: source for key, source in sources.items() if key in own}
    differing = [_difference(key, source, tensors, own) for key, source in pairs.items()]
    return _match(pairs, [d for d in differing if d], tensors, own, how)


def _renamings(keys: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Ways to rename a file's keys: how it was done, and new key to the file's."""
    removed, sources = "", {key: key for key in keys}
    found = [("equal keys", sources)]
    while prefix := _common_prefix(sources):
        removed += prefix
        sources = {key.removeprefix(prefix): source for key, source in sources.items()}
        found.append((f"keys without '{removed}'", sources))
    added = [(how, {f"model.{key}": source for key, source in sources.items()}) for how, sources in found]
    return found + [(f"{how}, 'model.' put before them", sources) for how, sources in added]


def _common_prefix(keys: Mapping[str, Any]) -> str:
    """The prefix that all keys bear, besides counts that a wrapper keeps under a name without a dot."""
    dotted = [key for key in keys if "." in key]
    for prefix in PREFIXES:
        if dotted and all(key.startswith(prefix) for key in dotted):
            # A key that would meet another one is none of the wrapped network's.
            return "" if any(key.removeprefix(prefix) in keys for key in dotted) else prefix
    return ""


# -- in order


def _in_order(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], skipped: Sequence[str]) -> Match:
    theirs = [key for key in tensors if _leaf(key) != COUNTER and key.partition(".")[0] not in skipped]
    ours = [key for key in own if _leaf(key) != COUNTER]
    count, stop = _agreeing(ours, theirs, tensors, own)
    stopped, differing = "", []
    if stop:
        sure = min(_before_any_shift(side, count) for side in _signs(ours, theirs, tensors, own))
        left = f"; {count - sure} pairs before it are left out, since they fit shifted too" if sure < count else ""
        stopped, count = f"in order {stop}{left}", sure
        differing = [stop] if stop.key and stop.source else []
    pairs = dict(zip(ours[:count], theirs[:count], strict=True))
    modules = {_module(key): _module(source) for key, source in pairs.items()}
    for key in own:  # the counters of the batch norms that were paired
        source = _joined(modules.get(_module(key)), COUNTER)
        if _leaf(key) == COUNTER and source in tensors:
            pairs[key] = source
    pairs = {key: pairs[key] for key in own if key in pairs}
    return _match(pairs, differing, tensors, own, "in order", stopped, skipped)


def _agreeing(
    ours: Sequence[str], theirs: Sequence[str], tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[int, Difference | None]:
    """How many pairs agree from the start, and the one that does not."""
    modules: dict[str, str] = {}
    back: dict[str, str] = {}
    for i, (key, source) in enumerate(zip(ours, theirs, strict=False)):
        difference = _difference(key, source, tensors, own)
        a, b = _module(key), _module(source)
        if not difference and (modules.setdefault(a, b) != b or back.setdefault(b, a) != a):
            difference = _differ(key, source, tensors, own, "modules have other tensors")
        if difference:
            return i, difference
    count = min(len(ours), len(theirs))
    if len(ours) == len(theirs):
        return count, None
    key, source = (ours[count], "") if len(ours) > count else ("", theirs[count])
    return count, _differ(key, source, tensors, own, "one has more tensors")


def _signs(
    ours: Sequence[str], theirs: Sequence[str], tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[list[Any], list[Any]]:
    """What a pair must have in common: the shape, and the kind where no name of either side leaves it open."""
    known = {_leaf(key) for key in (*ours, *theirs)} <= LEAVES
    a, b = ([(_leaf(key) if known else "", tuple(state[key].shape)) for key in keys]
            for keys, state in ((ours, own), (theirs, tensors)))  # fmt: skip
    return a, b


def _before_any_shift(signs: Sequence[Any], count: int) -> int:
    """How many of the first tensors cannot be others of their own side, some places later.

    Where blocks repeat, one that the other side lacks is noticed only where the repetition ends: everything from that
    block on fits, and is wrong. Of pairs that agree so far, only those count that no such shift explains.
    """
    sure = count
    for shift in range(1, len(signs) - count + 1):
        start = count
        while start and signs[start - 1] == signs[start - 1 + shift]:
            start -= 1
        sure = min(sure, start)
    return sure


# -- both


def _difference(key: str, source: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Difference | None:
    """Why a tensor of the file cannot stand for one of the network, or None if it can."""
    a, b = own[key], tensors[source]
    if a.shape != b.shape:
        return _differ(key, source, tensors, own, "shapes differ")
    if a.is_floating_point() != b.is_floating_point() or a.is_complex() != b.is_complex():
        return _differ(key, source, tensors, own, f"types differ, {a.dtype} and {b.dtype}")
    if _leaf(key) != _leaf(source) and {_leaf(key), _leaf(source)} <= LEAVES:
        return _differ(key, source, tensors, own, "kinds differ")
    return None


def _differ(key: str, source: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], why: str) -> Difference:
    return Difference(key, source, _shape(own, key), _shape(tensors, source), why)


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    return tuple(state[key].shape) if key else ()


def _match(
    pairs: Mapping[str, str],
    differing: Sequence[Difference],
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    how: str,
    stopped: str = "",
    skipped: Sequence[str] = (),
) -> Match:
    """The match of pairs, of which some differ; what is in no pair is missing or unexpected."""
    wrong = {difference.key for difference in differing}
    sources = {key: source for key, source in pairs.items() if key not in wrong}
    seen = {*sources.values(), *(difference.source for difference in differing)}
    missing = [key for key in own if key not in sources and key not in wrong]
    unexpected = [key for key in tensors if key not in seen]
    ignored = [key for key in (*missing, *unexpected) if _leaf(key) == COUNTER]
    ignored += [key for key in unexpected if key.partition(".")[0] in skipped and key not in ignored]
    return Match(
        {key: tensors[source] for key, source in sources.items()},
        sources,
        tuple(key for key in missing if key not in ignored),
        tuple(key for key in unexpected if key not in ignored),
        tuple(differing),
        tuple(ignored),
        how,
        stopped,
    )


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _joined(module: str | None, leaf: str) -> str:
    return leaf if not module else f"{module}.{leaf}"
