"""Measure tracks against the truth: CLEAR MOT, IDF1 and HOTA, by sequence and over all."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.system.tables import Table
from netbuild.tracking.clear_metric import count_clear
from netbuild.tracking.frames import Sums, prepare_sequence
from netbuild.tracking.hota_metric import sum_hota
from netbuild.tracking.identity_metric import count_identities
from netbuild.tracking.mot_files import TrackRows, read_rows

OVERALL = "all"
SHARES = ("HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1")  # columns of the table, in percent
NUMBERS = ("switches", "fragments", "FP", "FN")


@dataclass(frozen=True)
class TrackReport:
    """The measures of tracks.

    Attributes:
        sequences: the measures of each sequence by name; shares are from 0 to 1.
        overall: those over all sequences: all boxes weigh the same.
    """

    sequences: dict[str, dict[str, float]]
    overall: dict[str, float]

    def table(self) -> Table:
        """Return a table with a row for each sequence, shares in percent; with several also one over all."""
        several = {OVERALL: self.overall} if len(self.sequences) > 1 else {}
        rows = [
            [name, *(f"{100 * found[key]:.1f}" for key in SHARES), *(f"{found[key]:.0f}" for key in NUMBERS)]
            for name, found in {**self.sequences, **several}.items()
        ]
        return Table([["sequence", *SHARES, *NUMBERS], *rows], left={0})

    def to_dict(self) -> dict[str, Any]:
        """Return all measures as JSON data."""
        return {"sequences": self.sequences, "overall": self.overall}


def evaluate(pairs: Mapping[str, tuple[TrackRows, TrackRows]]) -> TrackReport:
    """Measure the tracks of several sequences.

    Args:
        pairs: true and found tracks of each sequence by its name.
    """
    sums = {name: _sum_up(name, truth, found) for name, (truth, found) in pairs.items()}
    return TrackReport({name: _measures(found) for name, found in sums.items()}, _measures(reduce(_add, sums.values())))


def _sum_up(name: str, truth: TrackRows, found: TrackRows) -> tuple[Sums, ...]:
    sequence = prepare_sequence(name, truth, found)
    return sum_hota(sequence), count_clear(sequence), count_identities(sequence)


def _add(a: tuple[Sums, ...], b: tuple[Sums, ...]) -> tuple[Sums, ...]:
    return tuple(map(add, a, b))


def _measures(sums: tuple[Sums, ...]) -> dict[str, float]:
    return {name: value for part in sums for name, value in part.measures().items()}


def read_truth(files: Mapping[str, Path], names: Mapping[str, Any]) -> dict[str, TrackRows]:
    """Read the true tracks of each of the sequences that are named.

    Args:
        files: the file of each sequence; a single one is that of a single sequence, whatever it is called.
        names: the sequences that were tracked, as keys.

    Raises:
        NetbuildError: if a sequence is in one of both only, or a file cannot be read.
    """
    if len(files) == len(names) == 1:
        files = dict.fromkeys(names, next(iter(files.values())))
    for name in names:
        if name not in files:
            hint = did_you_mean(name, files) or f"there are {', '.join(files)}"
            raise NetbuildError(f"--truth: no file for the sequence '{name}'", hint=hint)
    for name in files:
        if name not in names:
            raise NetbuildError(f"--truth: the sequence '{name}' was not tracked", hint="name its tracks, too")
    return {name: _check_truth(files[name]) for name in names}


def _check_truth(file: Path) -> TrackRows:
    truth = read_rows(file)
    if not (truth.scores != 0).any():
        raise NetbuildError(f"{file}: has no row that counts", hint="the seventh column of rows that count is not 0")
    return truth
