"""Data formats by name: how data sets are laid out on disk. One small file each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from netbuild.system.plugins import Registry

if TYPE_CHECKING:
    from netbuild.data.formats.base import Format

# In the order in which they are tried on a path. A folder of folders can be anything, so that format is the last.
FORMATS: "Registry[Format]" = Registry(
    "format",
    "netbuild.data.formats.base:Format",
    {
        "several": "netbuild.data.formats.several:SeveralFormat",
        "pictures": "netbuild.data.formats.pictures:PicturesFormat",
        "yolo": "netbuild.data.formats.yolo:YoloFormat",
        "voc": "netbuild.data.formats.voc:VocFormat",
        "coco": "netbuild.data.formats.coco:CocoFormat",
        "idx": "netbuild.data.formats.idx:IdxFormat",
        "csv": "netbuild.data.formats.tables:CsvFormat",
        "pairs": "netbuild.data.formats.pairs:PairsFormat",
        "mot": "netbuild.data.formats.mot:MotFormat",
        "dota": "netbuild.data.formats.dota:DotaFormat",
        "yolo-folders": "netbuild.data.formats.yolo_layout:YoloFoldersFormat",
        "picture-folders": "netbuild.data.formats.pictures:PictureFoldersFormat",
        "folders": "netbuild.data.formats.folders:FoldersFormat",
    },
)

data_format = FORMATS.decorate  # class decorator


def all_formats() -> "Iterator[Format]":
    """Yield an object of each format: first those of plug-ins (group ``netbuild.formats``), then the built-in ones.

    Raises:
        NetbuildError: if a format of an installed package does not load.
    """
    plugins = [name for name in FORMATS.names() if name not in FORMATS.built_in]
    for name in (*plugins, *FORMATS.built_in):
        yield FORMATS.get(name)()
