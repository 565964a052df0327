"""Data sets as they lie on disk, read as they are: one small file a format, one full scan before any training."""

from netbuild.data.dataset import Dataset, Part, Problem, Sample
from netbuild.data.opening import open_data
from netbuild.data.scanning import Report, scan

__all__ = ["Dataset", "Part", "Problem", "Report", "Sample", "open_data", "scan"]
