"""Data sets on disk: reading them, one small file per format, and scanning them for errors before training."""

from netbuild.data.dataset import Dataset, Problem, Sample, Split
from netbuild.data.opening import open_data
from netbuild.data.scanning import Report, scan

__all__ = ["Dataset", "Problem", "Report", "Sample", "Split", "open_data", "scan"]
