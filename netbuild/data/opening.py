"""Opening a data set by its path or name; its format is recognised from what is there."""

from pathlib import Path

from netbuild.data import embedded
from netbuild.data.dataset import Dataset
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
        name = str(path)
        return embedded.open_digits() if name == embedded.CLASSIFICATION else open_data(embedded.make_data_file(name))
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
