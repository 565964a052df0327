"""Settings of trackers: defaults, overridden by a YAML file, overridden by options such as ``start=0.6``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, Where, did_you_mean
from netbuild.grammar.nodes import Node, parse, read_text
from netbuild.prediction.trackers import find
from netbuild.prediction.trackers.base import Tracker
from netbuild.settings import check_setting, format_settings
from netbuild.tasks.view import FrameState

YAML = (".yaml", ".yml")


def prepare_tracker(
    tracker: str | Path | Callable[[], FrameState], options: Sequence[str] | Mapping[str, Any] = ()
) -> Callable[[], FrameState]:
    """Return a function that makes a tracker for each video.

    Args:
        tracker: the name of a tracker; a YAML file with its name as ``tracker:`` and its settings; or a function or
            class that makes one, which takes no options.
        options: settings that override the file's: texts such as ``start=0.6``, or values by name.

    Raises:
        NetbuildError: for a tracker that does not exist, or an unknown or wrong setting.
    """
    if not isinstance(tracker, (str, Path)):
        if options:
            raise NetbuildError("options are for trackers by name", hint="set them where the tracker is made")
        return tracker
    cls, nodes, keys = _open(tracker)
    owner, known = f"the tracker '{cls.name}'", list_settings(cls.settings_class)
    texts = dict(options) if isinstance(options, Mapping) else parse_texts(options, owner, known)
    values = {name: node.plain() for name, node in nodes.items()} | texts
    for name in values:
        if name not in known:
            raise unknown_error(name, owner, known, None if name in texts else keys[name].where)
    make: Callable[..., Tracker] = cls
    if cls.settings_class is None:
        return make
    for name, value in values.items():
        values[name] = check_setting(cls.settings_class, name, value, None if name in texts else nodes[name])
    return partial(make, cls.settings_class(**values))


def describe_tracker(tracker: str | Path) -> str:
    """Return a tracker's settings with their defaults, explained, as the text of a YAML file for `prepare_tracker`.

    Raises:
        NetbuildError: for a tracker that does not exist.
    """
    cls = _open(tracker)[0]
    listed = "" if cls.settings_class is None else f"\n{format_settings(cls.settings_class(), comments=True)}"
    return f"tracker: {cls.name}{listed}"


def _open(tracker: str | Path) -> tuple[type[Tracker], dict[str, Node], dict[str, Node]]:
    """Return the class of a tracker, and of its file the values of the settings and their names."""
    path = Path(tracker)
    if path.suffix.lower() not in YAML:
        return find(str(tracker)), {}, {}
    root = parse(read_text(path), str(path))
    if not isinstance(root.value, dict) or "tracker" not in root.value:
        hint = "its first line names the tracker: tracker: bytetrack"
        raise NetbuildError(f"{path}: not the settings of a tracker", hint=hint)
    nodes = dict(root.value)
    named = nodes.pop("tracker")
    return find(str(named.plain())), nodes, root.keys


def list_settings(cls: type[Any] | None) -> list[str]:
    """Return the names of a dataclass's settings; none for None."""
    return [] if cls is None else [field.name for field in fields(cls)]


def parse_texts(texts: Sequence[str], owner: str, known: Sequence[str]) -> dict[str, Any]:
    """Parse texts such as ``start=0.6``, whose values are YAML.

    Args:
        texts: the texts.
        owner: whose settings they are, for errors: "the tracker 'sort'".
        known: the names of its settings.

    Raises:
        NetbuildError: for an unknown name, or a text without a value.
    """
    values = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if name not in known:
            raise unknown_error(name, owner, known)
        if not equals:
            raise NetbuildError(f"--option {text}: the value is missing", hint=f"write -O {name}=VALUE")
        values[name] = parse(value or "''", f"--option {name}").plain()
    return values


def unknown_error(name: str, owner: str, known: Sequence[str], where: Where | None = None) -> NetbuildError:
    """Return the error for a setting that its owner does not have."""
    if not known:
        return NetbuildError(f"{owner} has no settings, and so no '{name}'", where)
    hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
    return NetbuildError(f"{owner} has no setting '{name}'", where, hint)
