"""The tasks of several heads of one network, and what each of them learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
from torch import nn

from netbuild.data.dataset import Dataset, Sample
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.samples import BOX_KINDS, feed_scenes
from netbuild.feed.targets import MapTarget, OptionalMapKind, TargetKind, TruthTarget
from netbuild.feed.targets.partial import TRUTHS
from netbuild.graph.card import NetworkCard
from netbuild.graph.heads import HeadCard, HeadGroup
from netbuild.graph.network import takes_targets
from netbuild.settings import Settings
from netbuild.tasks import find
from netbuild.tasks.base import Task
from netbuild.tasks.head_data import Source, extra_of, find_source, merge_kind, view_dataset

SAVES = ("pictures", "txt", "labels", "json", "crops")


class HeadTasks(Task):
    """The tasks of several heads, and the samples that each of them learns from; the base class of `SeveralTask`.

    Args:
        head: the group of the heads.
        names: names of the classes of the data set.
        facts: for each head by name what its data set states: "names", "source", and "options" of its task.
        learning: for each head by name the options of its task that follow from the settings of a run.

    Attributes:
        cards: descriptions of the heads; `for_heads` sets them, and what follows from them, in a subclass.
        classes: the class of each head's task, by the head's name.
    """

    name = "several"
    trainable = False  # without heads
    embedded = "shapes"
    summed = True
    partial_labels = True
    cards: ClassVar[tuple[HeadCard, ...]] = ()
    classes: ClassVar[Mapping[str, type[Task]]] = {}

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        learning: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(head, names)
        self.sources, parts = dict[str, Source](), dict[str, Task]()
        for card, module in zip(self.cards, cast(HeadGroup, head).members, strict=True):
            known = (facts or {}).get(card.name, {})
            default = list(card.names) if card.names is not None else names if card.nc is None else None
            options = {**known.get("options", {}), **(learning or {}).get(card.name, {})}
            named = known.get("names", default) if self.classes[card.name].counts_classes else None
            task = self.classes[card.name](module, named, **options)
            task.fitting = self.fitting
            # A run of several processes replaces `self.normaliser` later, so it must be looked up at each call.
            task.normaliser = lambda total, least: self.normaliser(total, least)
            parts[card.name], self.sources[card.name] = task, known.get("source", Source(extra=card.data or ""))
        self.parts = parts
        self.fits_anchors = any(task.fits_anchors for task in parts.values())

    @classmethod
    def for_heads(cls, heads: Sequence[HeadCard]) -> type[Task]:
        """Return the subclass for a network with these heads.

        Raises:
            NetbuildError: if there are none, or a task of theirs does not exist or trains several networks.
        """
        if not heads:
            raise NetbuildError("the task 'several' is that of heads", hint="name them: heads: {boxes: {row: detect}}")
        classes = {card.name: _find_task(card) for card in heads}
        tasks = list(classes.values())
        fittings = {task.fitting for task in tasks}
        measures = [f"{card.name}/{name}" for card in heads for name in classes[card.name].measures[:2]]
        facts = {
            "cards": tuple(heads),
            "classes": classes,
            "trainable": all(task.trainable for task in tasks),
            "counts_classes": any(task.counts_classes for task in tasks),
            "learns_from": (),  # each head checks its own data set
            "fitting": fittings.pop() if len(fittings) == 1 else "letterbox",
            "saves": tuple(form for form in SAVES if any(form in task.saves for task in tasks)),
            "measures": tuple(measures),
            "__doc__": cls.__doc__,
        }
        return type(cls.__name__, (cls,), facts)

    # -- data ---------------------------------------------------------------------------------------------------------

    @classmethod
    def find_sources(cls, dataset: Dataset) -> dict[str, Source]:
        """Return the source of each head in a data set.

        Raises:
            NetbuildError: at a head whose data is not there.
        """
        found = {}
        for card in cls.cards:
            task = cls.classes[card.name]
            source = find_source(card, task, dataset.parts, dataset.extras)
            wanted = getattr(task.target_kinds.get(extra_of(task)), "kind", "")
            if source.extra and (kind := dataset.extras[source.extra].kind) != wanted:
                message = f"the head '{card.name}' learns from {wanted}, '{source.extra}' has {kind}"
                raise NetbuildError(message, card.where, "name another extra, or its kind in the data file")
            extra = view_dataset(dataset, source, task).extras.get(extra_of(task))
            found[card.name] = source if extra is None else replace(source, scale=extra.scale, has_maps=True)
        return found

    @classmethod
    def view_datasets(cls, dataset: Dataset) -> dict[str, Dataset]:
        """Return the data set as the task of each head sees it."""
        sources = cls.find_sources(dataset)
        return {name: view_dataset(dataset, sources[name], task) for name, task in cls.classes.items()}

    @classmethod
    def prepare_dataset(cls, dataset: Dataset) -> tuple[Dataset, str]:
        """Return the data set, and the notes of the heads' tasks on it.

        Raises:
            NetbuildError: at a head whose data is not there, or of a kind that its task does not learn from.
        """
        notes, sources = [], cls.find_sources(dataset)
        for card, view in zip(cls.cards, cls.view_datasets(dataset).values(), strict=True):
            task = cls.classes[card.name]
            if task.learns_from and view.task not in task.learns_from:
                message = f"the head '{card.name}': {view.name} is a data set for '{view.task}'"
                raise NetbuildError(f"{message}, its task is '{card.task}'", card.where)
            inner = dataset.parts[sources[card.name].part] if dataset.parts else dataset
            notes.append(task.prepare_dataset(inner)[1])
        return dataset, "\n".join(dict.fromkeys(filter(None, notes)))

    @classmethod
    def network_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return the data set's number of classes, and that of each head whose data has another."""
        options: dict[str, Any] = {}
        own = {}
        for card, view in zip(cls.cards, cls.view_datasets(dataset).values(), strict=True):
            wanted = cls.classes[card.name].network_options(view)
            nc = wanted.pop("nc", None)
            if nc is not None and (card.nc is not None or nc != dataset.nc):
                own[card.name] = nc
            options |= wanted
        options |= {"nc": dataset.nc} if cls.counts_classes and dataset.nc else {}
        return options | ({"head_nc": own} if own else {})

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return settings that suit the data sets of all heads, adapted by the tasks one after the other."""
        for name, view in cls.view_datasets(dataset).items():
            settings = cls.classes[name].adapt_settings(settings, view)
        return settings

    @classmethod
    def data_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return for each head the names of its classes, its source, and what its task takes from its data set."""
        sources = cls.find_sources(dataset)
        facts = {
            name: {"names": list(view.names), "source": sources[name], "options": cls.classes[name].data_options(view)}
            for name, view in cls.view_datasets(dataset).items()
        }
        return {"facts": facts}

    @classmethod
    def card_options(cls, card: NetworkCard) -> dict[str, Any]:
        """Return for each head what its task takes from a network's card, for prediction."""
        return {"facts": {name: {"options": task.card_options(card)} for name, task in cls.classes.items()}}

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return for each head what its task takes from the settings of a run and from its own samples."""
        parts = dict.fromkeys(sample.part for sample in samples if sample.part)
        extras = dict.fromkeys(name for sample in samples for name in sample.extras)
        learning = {}
        for card in cls.cards:
            task = cls.classes[card.name]
            source = find_source(card, task, parts, extras)
            of_head = [source.view(s, extra_of(task)) for s in samples if source.has(s) and task.has_truth(s)]
            learning[card.name] = task.options_of(settings, of_head, card.nc or nc)
        return {"learning": learning}

    def fit_head(self, samples: Sequence[Sample], size: tuple[int, int], settings: Settings) -> str:
        """Fit values of the heads to the samples that have their truth, and return the notes on that."""
        notes = [task.fit_head(self.samples_of(name, samples), size, settings) for name, task in self.parts.items()]
        return "\n".join(filter(None, notes))

    def find_unused_settings(self, settings: Settings) -> dict[str, str]:
        """Return the settings without effect for any head, each with the reason."""
        found = [task.find_unused_settings(settings) for task in self.parts.values()]
        common = set.intersection(*map(set, found))
        return {name: reason for name, reason in found[0].items() if name in common}

    @classmethod
    def default_rate(cls, nc: int) -> float | None:
        """Return the smallest default rate of the heads' tasks that have one."""
        rates = [cls.classes[card.name].default_rate(card.nc or nc) for card in cls.cards]
        return min((rate for rate in rates if rate is not None), default=None)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the options of `decode` for each head."""
        return {"heads": {name: task.decode_options(settings) for name, task in cls.classes.items()}}

    def complete_card(self, card: NetworkCard) -> NetworkCard:
        """Return the card with the names of the classes of each head, and what the heads' tasks know of their data."""
        for part in self.parts.values():
            card = part.complete_card(card)
        heads = [
            replace(head, names=None if part.names is None or part.names == self.names else tuple(part.names))
            for head, part in zip(card.heads, self.parts.values(), strict=True)
        ]
        return replace(card, heads=tuple(heads))

    def has_truth_of(self, name: str, sample: Sample) -> bool:
        """Whether a picture has the truth of a head; where the data have maps of it, only pictures with one do."""
        task, source = self.parts[name], self.sources[name]
        extra = extra_of(type(task))
        view = source.view(sample, extra)
        return source.has(sample) and (extra in view.extras or not source.has_maps) and task.has_truth(view)

    def samples_of(self, name: str, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that have the truth of a head, as its task sees them."""
        extra = extra_of(type(self.parts[name]))
        return [self.sources[name].view(sample, extra) for sample in samples if self.has_truth_of(name, sample)]

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str:
        """Check that each head has samples that suit its task, and return the notes of the tasks.

        Raises:
            NetbuildError: at a head that has none, or whose samples do not suit its task.
        """
        notes = []
        for card, view in zip(self.cards, self.view_datasets(dataset).values(), strict=True):
            task, chosen = self.parts[card.name], self.samples_of(card.name, samples)
            if not chosen:
                lacking = f"'{extra_of(type(task))}'" if extra_of(type(task)) else "label files of objects"
                message = f"the head '{card.name}' has nothing to learn from: no picture of {view.name} has {lacking}"
                raise NetbuildError(message, card.where, "name its truth in the data file, or leave the head out")
            if takes_targets(task.head) and len(chosen) < len(samples):
                message = f"the head '{card.name}' needs its truth in every picture"
                raise NetbuildError(message, card.where, "its module takes the targets of the whole batch")
            notes.append(task.check_samples(view, chosen) or "")
        return "\n".join(filter(None, notes))

    def check_loss(self) -> None:
        """Check that each head can be trained beside others.

        Raises:
            NetbuildError: at one that cannot.
        """
        for card, task in zip(self.cards, self.parts.values(), strict=True):
            task.check_loss()
            if not task.target_kinds and task.learns_from:
                message = f"the head '{card.name}': the task '{task.name}' cannot be trained beside others"
                raise NetbuildError(message, card.where, "its pictures have one class each, not marks on the picture")

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of samples with the targets of all heads; only pictures with the same truths are mixed."""
        known = np.array([[self.has_truth_of(name, sample) for name in self.parts] for sample in samples])
        kinds: dict[str, TargetKind] = {}
        extras: list[dict[str, Any]] = [{n: s.extras[n] for n in options.pictures if n in s.extras} for s in samples]
        for number, (name, task) in enumerate(self.parts.items()):
            views = task.complete_samples(self.samples_of(name, samples))
            for target, kind in task.make_kinds(options.learning).items():
                if not kind.needs_extra:
                    merge_kind(kinds, target, kind, name)
                    continue
                key, maps = self.sources[name].key(target), cast(type[MapTarget], kind)
                merge_kind(kinds, key, OptionalMapKind(maps, self.sources[name].scale), name)
                for i, view in zip(known[:, number].nonzero()[0], views, strict=True):
                    extras[i][key] = view.extras[target]
        if options.learning and options.settings.copy_paste:  # it cuts objects out along their polygons
            kinds = {**BOX_KINDS, **kinds}
        maps_of_all = tuple(name for name, kind in kinds.items() if isinstance(kind, OptionalMapKind))
        groups = np.unique(known, axis=0, return_inverse=True)[1].reshape(-1)
        complete = [
            replace(sample, extras={**more, TRUTHS: flags}, keypoints=self.fill_keypoints(sample, kinds))
            for sample, more, flags in zip(samples, extras, known, strict=True)
        ]
        kinds[TRUTHS] = TruthTarget
        mixed = groups.tolist() if groups.any() else ()
        return feed_scenes(complete, options, kinds, self.stride, originals=maps_of_all, groups=mixed)

    def fill_keypoints(self, sample: Sample, kinds: Mapping[str, TargetKind]) -> Any:
        """Return a sample's keypoints; where a head learns some and the sample has none, points that are unknown."""
        if sample.keypoints is not None or "keypoints" not in kinds:
            return sample.keypoints
        count = next(part.extra[0] for part in self.parts.values() if "keypoints" in part.target_kinds)
        return np.zeros((0 if sample.boxes is None else len(sample.boxes), count, 3))


def _find_task(card: HeadCard) -> type[Task]:
    """Return the class of a head's task.

    Raises:
        NetbuildError: at the head, if there is no such task or it trains several networks.
    """
    try:
        found = find(card.task)
    except NetbuildError as error:
        raise NetbuildError(f"the head '{card.name}': {error.message}", card.where, error.hint) from None
    if found.networks or found.learner or issubclass(found, HeadTasks):
        raise NetbuildError(f"the head '{card.name}': the task '{card.task}' is that of a whole network", card.where)
    return found
