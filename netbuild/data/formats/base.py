"""The base class of data formats."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from netbuild.data.dataset import Dataset


class Format(ABC):
    """A way in which data sets are laid out on disk. One object without arguments is made for each data set."""

    name: ClassVar[str]

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Whether the file or folder is a data set of this format; it exists. The first format that says so reads it.

        It must be quick: look at names, and read no more than the beginning of a file.
        """

    @abstractmethod
    def open(self, path: Path) -> Dataset:
        """Return the data set. Labels and pictures are read later, by the functions in `Dataset.splits`.

        Raises:
            NetbuildError: if there is something wrong with it.
        """
