"""Opening a data set by its path or name; its format is recognised from what is there."""

from dataclasses import replace
from pathlib import Path

from netbuild.data import embedded
from netbuild.data.dataset import NOTE, Dataset, Problem
from netbuild.data.formats import all_formats
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.system.files import accessing


def open_data(path: str | Path) -> Dataset:
    """Open the data set at a path, or an embedded one by its name (of `embedded.NAMES`: ``digits``, ``shapes``).

    The first format of `netbuild.data.formats` that recognises the path reads it. Labels and pictures are read when a
    split is first used.

    Raises:
        NetbuildError: if there is nothing at the path, or no format recognises it; or for an error in the data set.
        MissingExtraError: if an embedded data set needs a package that is not installed.
    """
    if str(path) in embedded.NAMES:
        return _open_embedded(str(path))
    place = Path(path).expanduser()
    with accessing(shorten(str(path), 200)):
        is_there = place.exists()
    if not is_there:
        hint = did_you_mean(str(path), embedded.NAMES) or f"embedded data sets: {', '.join(embedded.NAMES)}"
        raise NetbuildError(f"there is no data set {place.absolute()}", hint=hint)
    with accessing(str(place)):
        for found in all_formats():
            if found.recognizes(place):
                return found.open(place)
    raise NetbuildError(f"{place}: not a data set: expected a .yaml, .json or .csv file, or a folder")


def _open_embedded(name: str) -> Dataset:
    """Open an embedded data set, with a note if there is a file or folder of this name, which may have been meant."""
    if name == embedded.CLASSIFICATION:
        dataset = embedded.open_digits()
    else:
        dataset = replace(open_data(embedded.make_data_file(name)), name=name)
    if not Path(name).exists():
        return dataset
    message = f"this is the embedded data set, not the path {Path(name).absolute()}"
    note = Problem("name", NOTE, message, Path(name), hint=f"write ./{name} for the path")
    return replace(dataset, notes=(*dataset.notes, note))
