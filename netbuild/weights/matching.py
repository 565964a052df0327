"""Match a foreign state dict to a network's: by equal keys, or by the order in which both define their tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from netbuild.errors import NetbuildError, did_you_mean, shorten

# Prefixes that wrappers put before all keys: DataParallel, torch.compile, and the attribute that holds the network.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
# A batch norm's step counter. Files written before torch 0.4.1 lack it, and with a fixed momentum no output depends on
# it, so its absence is no mismatch.
COUNTER = "num_batches_tracked"
# Parameter names with a fixed meaning: a tensor called by one of them never matches one called by another.
LEAVES = {"weight", "bias", "running_mean", "running_var"}
# First key parts of the auxiliary heads of torchvision's networks, which are used in training only.
AUXILIARY = ("aux1", "aux2", "AuxLogits", "aux_classifier")


@dataclass(frozen=True)
class Difference:
    """Two tensors that do not match.

    Args:
        key: the network's key; empty if the network has no more tensors.
        source: the file's key; empty if the file has no more tensors.
        shape, source_shape: their shapes, () for an empty key.
        why: the reason.
    """

    key: str
    source: str
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        network_side = f"{self.key} {list(self.shape)}" if self.key else "nothing more"
        file_side = f"{self.source} {list(self.source_shape)}" if self.source else "nothing more"
        return f"{self.why}: the network has {network_side}, the file {file_side}"


@dataclass(frozen=True)
class Match:
    """Which tensors of a file match which of a network.

    Args:
        tensors: network key to the file's tensor, for ``load_state_dict(..., strict=False)``.
        sources: network key to the file's key.
        missing: keys of the network without a tensor in the file.
        unexpected: keys of the file without a place in the network.
        mismatched: pairs of equal keys, or the first pair in order, whose tensors do not match.
        ignored: unmatched keys that no output depends on: ``num_batches_tracked`` of batch norms, and the auxiliary
            heads in files of torchvision and timm.
        how: how keys were paired, for the report.
        stopped: why a match in order ended early; empty if it did not.
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
    def weights(self) -> list[str]:
        """The matched keys without those of counters, which say nothing about a network."""
        return [key for key in self.tensors if not is_counter(key)]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of either side is matched or ignored."""
        return not (self.missing or self.unexpected or self.mismatched or self.stopped)

    def require(self, file: object) -> None:
        """Raise unless the match is complete.

        Args:
            file: the file's name, for the message.

        Raises:
            NetbuildError: with the first keys that do not match.
        """
        if self.is_complete:
            return
        raise NetbuildError(
            f"{file}: the weights do not fit the network: {len(self.tensors)} fit, " + "; ".join(self._problems()),
            hint="is it the same network, at the same scale and number of classes?",
        )

    def __str__(self) -> str:
        lines = [f"{len(self.tensors)} tensors loaded, {self.how}", *self._problems()]
        if len(self.mismatched) > 3:
            lines.append(f"... {len(self.mismatched)} mismatched tensors in total")
        return "\n".join(lines)

    def report(self) -> dict[str, Any]:
        """The match as JSON data, without the tensors."""
        return {
            "how": self.how,
            "loaded": dict(self.sources),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": [asdict(pair) for pair in self.mismatched],
            "ignored": list(self.ignored),
            "stopped": self.stopped,
        }

    def _problems(self) -> list[str]:
        """One text each for the missing keys, the unexpected keys, and the first three mismatches."""
        sides = ("missing in the file", self.missing), ("unexpected in the file", self.unexpected)
        problems = [f"{len(keys)} {problem}: {_abbreviate(keys)}" for problem, keys in sides if keys]
        return problems + ([self.stopped] if self.stopped else [str(pair) for pair in self.mismatched[:3]])


def _abbreviate(keys: Sequence[str]) -> str:
    return ", ".join(shorten(key) for key in keys[:4]) + (", ..." if len(keys) > 4 else "")


def match(tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor], mapping: str | None = None) -> Match:
    """Match a file's tensors to those of a network.

    Without a mapping, tensors are matched by key, after prefixes common to all keys of the file (``module.``,
    ``_orig_mod.``, ``model.``, ...) are removed or ``model.`` is added, whichever matches most tensors.

    With ``order``, the n-th tensor of the file is matched to the network's n-th, as long as shapes, modules and
    parameter names (weight, bias, ...) agree. The match stops at the first pair that disagrees, and drops the pairs
    before it that would also agree if they were shifted by some tensors: they might be wrong.

    ``torchvision`` and ``timm`` are for files of these libraries: ``order`` without the auxiliary heads.

    Args:
        tensors: the file's tensors by key, in its order.
        network_state: the network's state dict.
        mapping: None, ``order``, ``torchvision`` or ``timm``.

    Raises:
        NetbuildError: if the mapping does not exist.
    """
    if mapping is None:
        return _match_by_keys(tensors, network_state)
    if mapping not in ("order", "torchvision", "timm"):
        hint = did_you_mean(mapping, ("order", "torchvision", "timm")) or "there are order, torchvision and timm"
        raise NetbuildError(f"there is no mapping '{mapping}'", hint=hint)
    return _match_in_order(tensors, network_state, AUXILIARY if mapping != "order" else ())


# -- by keys


def _match_by_keys(tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor]) -> Match:
    """Match under the renaming that matches most tensors; among equals, the one that changes keys least."""

    def count_matches(renaming: tuple[str, dict[str, str]]) -> int:
        return sum(
            key in network_state and network_state[key].shape == tensors[source].shape
            for key, source in renaming[1].items()
        )

    how, sources = max(_list_renamings(tensors), key=count_matches)
    pairs = {key: source for key, source in sources.items() if key in network_state}
    differences = [_compare(key, source, tensors, network_state) for key, source in pairs.items()]
    return _make_match(pairs, [d for d in differences if d], tensors, network_state, how)


def _list_renamings(keys: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """List ways to rename the file's keys: a description of each, and new key to the file's key."""
    removed, sources = "", {key: key for key in keys}
    renamings = [("equal keys", sources)]
    while prefix := _find_common_prefix(sources):
        removed += prefix
        sources = {key.removeprefix(prefix): source for key, source in sources.items()}
        renamings.append((f"keys without '{removed}'", sources))
    prefixed = [(how, {f"model.{key}": source for key, source in sources.items()}) for how, sources in renamings]
    return renamings + [(f"{how}, prefixed by 'model.'", sources) for how, sources in prefixed]


def _find_common_prefix(keys: Mapping[str, Any]) -> str:
    """The wrapper's prefix that all dotted keys share, or "".

    Keys without a dot are the wrapper's own, such as ``n_averaged`` of torch's AveragedModel.
    """
    dotted = [key for key in keys if "." in key]
    for prefix in PREFIXES:
        if dotted and all(key.startswith(prefix) for key in dotted):
            # If removing the prefix makes a key equal to another, it is part of the network's own names.
            return "" if any(key.removeprefix(prefix) in keys for key in dotted) else prefix
    return ""


# -- in order


def _match_in_order(
    tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor], skipped: Sequence[str]
) -> Match:
    """Match the n-th tensor of the file to the network's n-th; first key parts in `skipped` are left out."""
    # Batch norm counters are left out at first, since either side may lack them.
    sources = [key for key in tensors if not is_counter(key) and key.partition(".")[0] not in skipped]
    keys = [key for key in network_state if not is_counter(key)]
    count, stop = _count_agreeing(keys, sources, tensors, network_state)
    stopped, differences = "", []
    if stop:
        unambiguous = min(
            _count_unambiguous(side, count) for side in _signatures(keys, sources, tensors, network_state)
        )
        dropped = count - unambiguous
        note = f"; {dropped} pairs before it are left out, since they also fit when shifted" if dropped else ""
        stopped, count = f"in order {stop}{note}", unambiguous
        differences = [stop] if stop.key and stop.source else []
    pairs = dict(zip(keys[:count], sources[:count], strict=True))
    modules = {_module(key): _module(source) for key, source in pairs.items()}
    for key in network_state:  # add the counters of the batch norms that were paired
        source = _join(modules.get(_module(key)), COUNTER)
        if is_counter(key) and source in tensors and not _compare(key, source, tensors, network_state):
            pairs[key] = source
    pairs = {key: pairs[key] for key in network_state if key in pairs}
    return _make_match(pairs, differences, tensors, network_state, "in order", stopped, skipped)


def _count_agreeing(
    keys: Sequence[str], sources: Sequence[str], tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor]
) -> tuple[int, Difference | None]:
    """Count the pairs that agree from the start, and return the first that does not."""
    # Tensors of one module must be paired with tensors of one module, in both directions.
    source_module: dict[str, str] = {}
    network_module: dict[str, str] = {}
    for i, (key, source) in enumerate(zip(keys, sources, strict=False)):
        difference = _compare(key, source, tensors, network_state)
        a, b = _module(key), _module(source)
        if not difference and (source_module.setdefault(a, b) != b or network_module.setdefault(b, a) != a):
            difference = _difference(key, source, tensors, network_state, "modules have other tensors")
        if difference:
            return i, difference
    count = min(len(keys), len(sources))
    if len(keys) == len(sources):
        return count, None
    key, source = (keys[count], "") if len(keys) > count else ("", sources[count])
    return count, _difference(key, source, tensors, network_state, "one has more tensors")


def _signatures(
    keys: Sequence[str], sources: Sequence[str], tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor]
) -> tuple[list[Any], list[Any]]:
    """For each side, what two tensors must have in common to be paired: the shape, and the name if it is in LEAVES.

    Names count only if all names of both sides are in LEAVES; otherwise a name such as "gamma" may mean any of them.
    """
    names_count = {_leaf(key) for key in (*keys, *sources)} <= LEAVES
    a, b = ([(_leaf(key) if names_count else "", tuple(state[key].shape)) for key in side]
            for side, state in ((keys, network_state), (sources, tensors)))  # fmt: skip
    return a, b


def _count_unambiguous(signatures: Sequence[Any], count: int) -> int:
    """Count the leading tensors, of `count` that agree, which would not agree if one side were shifted.

    Where equal blocks repeat and one side lacks a block, the disagreement shows only at the end of the repetition:
    everything after the missing block agrees and is wrong. Only pairs that no such shift explains are safe.
    """
    unambiguous = count
    for shift in range(1, len(signatures) - count + 1):
        start = count
        while start and signatures[start - 1] == signatures[start - 1 + shift]:
            start -= 1
        unambiguous = min(unambiguous, start)
    return unambiguous


# -- both


def _compare(
    key: str, source: str, tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor]
) -> Difference | None:
    """Why a tensor of the file cannot be loaded into one of the network, or None if it can."""
    a, b = network_state[key], tensors[source]
    if a.shape != b.shape:
        return _difference(key, source, tensors, network_state, "shapes differ")
    if not is_same_kind(a, b):
        return _difference(key, source, tensors, network_state, f"types differ, {a.dtype} and {b.dtype}")
    if _leaf(key) != _leaf(source) and {_leaf(key), _leaf(source)} <= LEAVES:
        return _difference(key, source, tensors, network_state, "kinds differ")
    return None


def _difference(
    key: str, source: str, tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor], why: str
) -> Difference:
    return Difference(key, source, _shape(network_state, key), _shape(tensors, source), why)


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    return tuple(state[key].shape) if key else ()


def _make_match(
    pairs: Mapping[str, str],
    differences: Sequence[Difference],
    tensors: Mapping[str, Tensor],
    network_state: Mapping[str, Tensor],
    how: str,
    stopped: str = "",
    skipped: Sequence[str] = (),
) -> Match:
    """The match of the pairs without those in `differences`; keys in neither are missing, unexpected or ignored."""
    wrong = {difference.key for difference in differences}
    sources = {key: source for key, source in pairs.items() if key not in wrong}
    seen = {*sources.values(), *(difference.source for difference in differences)}
    missing = [key for key in network_state if key not in sources and key not in wrong]
    unexpected = [key for key in tensors if key not in seen]
    ignored = [key for key in (*missing, *unexpected) if is_counter(key)]
    ignored += [key for key in unexpected if key.partition(".")[0] in skipped and key not in ignored]
    return Match(
        {key: tensors[source] for key, source in sources.items()},
        sources,
        tuple(key for key in missing if key not in ignored),
        tuple(key for key in unexpected if key not in ignored),
        tuple(differences),
        tuple(ignored),
        how,
        stopped,
    )


def is_same_kind(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are both of floating-point numbers, or complex ones, or whole ones."""
    return a.is_floating_point() == b.is_floating_point() and a.is_complex() == b.is_complex()


def is_counter(key: str) -> bool:
    """Whether a key is that of a batch norm's step counter."""
    return _leaf(key) == COUNTER


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _join(module: str | None, leaf: str) -> str:
    return leaf if not module else f"{module}.{leaf}"
