"""A data set by its path or name: which format it has is seen from what is there."""

from pathlib import Path

from netbuild.data import embedded
from netbuild.data.dataset import Dataset
from netbuild.data.formats.coco import annotation_files, open_coco
from netbuild.data.formats.folders import open_folders
from netbuild.data.formats.idx import is_idx, open_idx
from netbuild.data.formats.tables import is_tables, open_tables
from netbuild.data.formats.voc import is_voc, open_voc
from netbuild.data.formats.yolo import open_yolo
from netbuild.errors import NetbuildError, did_you_mean


def open_data(path: str | Path) -> Dataset:
    """The data set at a path, or an embedded one by its name (``digits``, ``digits-detect``).

    A ``.yaml`` file is YOLO's, ``.json`` COCO's, ``.csv`` a list for classification; a folder may hold any format.
    Labels and pictures are read when a split is asked for.

    Raises:
        NetbuildError: if there is nothing, or nothing that is known; or as the format's reader says.
        MissingExtraError: if an embedded data set needs a package that is not installed.
    """
    if str(path) in embedded.NAMES:
        return open_data(embedded.detection()) if str(path) == embedded.DETECTION else embedded.digits()
    place = Path(path).expanduser()
    if place.is_dir():
        return _open_folder(place)
    if not place.is_file():
        hint = did_you_mean(str(path), embedded.NAMES) or f"embedded data sets: {', '.join(embedded.NAMES)}"
        raise NetbuildError(f"there is no data set {place.absolute()}", hint=hint)
    return _open_file(place)


def _open_file(file: Path) -> Dataset:
    suffix = file.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return open_yolo(file)
    if suffix == ".json":
        return open_coco([file], str(file))
    if suffix == ".csv":
        return open_tables([file], str(file))
    if "ubyte" in file.name:
        return open_idx(file.parent)
    raise NetbuildError(f"{file}: no data set: a .yaml, .json or .csv file or a folder is wanted")


def _open_folder(folder: Path) -> Dataset:
    described = [path for path in (folder / "data.yaml", folder / "data.yml") if path.is_file()]
    if described:
        return open_yolo(described[0])
    if is_voc(folder):
        return open_voc(folder)
    if annotations := annotation_files(folder):
        return open_coco(annotations, str(folder))
    if is_idx(folder):
        return open_idx(folder)
    if is_tables(folder):
        tables = (folder / f"{split}.csv" for split in ("train", "val", "test"))
        return open_tables([path for path in tables if path.is_file()], str(folder))
    others = sorted(folder.glob("*.y*ml"))
    if (folder / "labels").is_dir() or others:
        named = f"name its file: {others[0]}" if others else "write data.yaml with train, val and names"
        raise NetbuildError(f"{folder.absolute()}: there is no data.yaml", hint=named)
    return open_folders(folder)
