"""Measures of tracks: equal to those of TrackEval, at the edges, and files of MOTChallenge with mistakes."""

import re
from pathlib import Path

import pytest
from helpers.crowd import disturb, make_crowd, to_text

from netbuild.errors import NetbuildError
from netbuild.tracking.evaluation import evaluate, read_truth
from netbuild.tracking.mot_files import format_rows, name_sequences, read_rows, read_sequence_info

KEYS = "HOTA DetA AssA LocA MOTA MOTP switches fragments FP FN mostly-tracked mostly-lost IDF1 IDP IDR".split()
# Of TrackEval 1.3.0 on the rows below: for MOT15 each seventh object does not count; for MOT17 classes 2, 7 and 8 are
# distractors, and 4, 5, 6 and 9 do not count.
FACTS = {
    "MOT15": {
        "s0": (
            0.32132,
            0.60638,
            0.17057,
            0.82638,
            0.70389,
            0.80175,
            103,
            399,
            498,
            465,
            18,
            0,
            0.34066,
            0.33911,
            0.34222,
        ),
        "s1": (
            0.31239,
            0.60971,
            0.16026,
            0.82881,
            0.70306,
            0.80384,
            116,
            384,
            499,
            454,
            18,
            0,
            0.30642,
            0.30453,
            0.30833,
        ),
        "all": (
            0.31689,
            0.60804,
            0.1654,
            0.82758,
            0.70347,
            0.8028,
            219,
            783,
            997,
            919,
            36,
            0,
            0.32353,
            0.32179,
            0.32528,
        ),
    },
    "MOT17": {
        "s0": (
            0.26419,
            0.37779,
            0.18509,
            0.82468,
            0.00083,
            0.79966,
            32,
            138,
            1011,
            156,
            6,
            0,
            0.24516,
            0.19416,
            0.3325,
        ),
        "s1": (0.20558, 0.27914, 0.15153, 0.82246, -0.708, 0.8, 31, 108, 1552, 125, 5, 0, 0.16749, 0.11825, 0.287),
        "all": (
            0.23476,
            0.32511,
            0.16972,
            0.82368,
            -0.32136,
            0.79981,
            63,
            246,
            2563,
            281,
            11,
            0,
            0.20533,
            0.15306,
            0.31182,
        ),
    },
}


def write(path, rows):
    path.write_text(rows if isinstance(rows, str) else to_text(rows))
    return read_rows(path)


def truth_of(kind, seed):
    if kind == "MOT15":
        return [(*row[:6], int(row[1] % 7 != 0), -1, -1, -1) for row in make_crowd(seed)[0]]
    rows = make_crowd(seed, classes=9)[0]
    return [(*row[:6], int(row[7] in (1, 3)), 1 if row[7] == 3 else row[7], 0.5) for row in rows]


@pytest.mark.parametrize("kind", FACTS)
def test_measures_are_those_of_trackeval(kind, tmp_path):
    pairs = {}
    for seed in (0, 1):
        truth = truth_of(kind, seed)
        pairs[f"s{seed}"] = write(tmp_path / "gt.txt", truth), write(tmp_path / "x.txt", disturb(truth, seed))
    report = evaluate(pairs)
    for name, found in {**report.sequences, "all": report.overall}.items():
        assert [found[key] for key in KEYS] == pytest.approx(FACTS[kind][name], abs=1.1e-5), name
    assert len(report.table().rows) == 4


def test_perfect_and_missing_tracks(tmp_path):
    truth = write(tmp_path / "gt.txt", [row[:6] for row in make_crowd(0, 20, 5)[0]])
    names = ("HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1")
    perfect, none = (evaluate({"a": (truth, found)}).overall for found in (truth, write(tmp_path / "x.txt", "")))
    assert [perfect[name] for name in names] == pytest.approx([1] * 6)
    assert [none[name] for name in names] == [0] * 6
    assert (none["FN"], none["mostly-lost"], perfect["mostly-tracked"]) == (100, 5, 5)


def test_other_classes_do_not_match(tmp_path):
    truth = write(tmp_path / "gt.txt", "1,1,0,0,9,9,1,1,1\n1,2,50,0,9,9,1,2,1\n")
    found = write(tmp_path / "x.txt", "1,7,0,0,9,9,0.9,1,-1,-1\n1,8,50,0,9,9,0.9,3,-1,-1\n")
    overall = evaluate({"a": (truth, found)}).overall
    assert (overall["FP"], overall["FN"]) == (1, 1)
    again = write(tmp_path / "y.txt", format_rows(found))
    assert all((getattr(again, name) == getattr(found, name)).all() for name in ("ids", "boxes", "classes", "scores"))


def test_names_of_sequences(tmp_path):
    def names(*paths):
        return [*name_sequences([Path(path) for path in paths])]

    assert names("train/A/gt/gt.txt", "train/B/gt/gt.txt") == ["A", "B"]
    assert names("x/A.txt", "x/B.1.txt") == ["A", "B.1"]
    assert names("x/A/det/det.txt") == ["A"]
    assert names("x/clip.gt.txt") == ["clip"]
    with pytest.raises(NetbuildError, match="no names of their own"):
        names("x/A/1.txt", "x/B/1.txt", "x/A/2.txt", "x/B/2.txt")
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nimWidth=64\nimHeight=48\nframeRate=14\n")
    info = read_sequence_info(tmp_path / "det" / "det.txt")
    assert (info.size, info.length, info.fps) == ((48, 64), None, 14)
    truth = {"A": tmp_path / "gt.txt", "B": tmp_path / "gt.txt"}
    (tmp_path / "gt.txt").write_text("1,1,0,0,9,9,1\n")
    with pytest.raises(NetbuildError, match="no file for the sequence 'C'"):
        read_truth(truth, {"A": 0, "C": 0})
    with pytest.raises(NetbuildError, match="the sequence 'B' was not tracked"):
        read_truth(truth, {"A": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,0,0,9\n", r"x.txt:1:1: 5 columns; .*\n(.*\n)*hint: columns are separated by commas"),
        ("frame,id,x,y,w,h\n1,1,0,0,9,9", r"x.txt:1:1: a column is no number(.*\n)*.*no heading"),
        ("1,1,0,0,9,9\n\n0,1,0,0,9,9\n", r"x.txt:3:1: the frame 0 is no whole number from 1"),
        ("1,1.5,0,0,9,9\n", r"the id 1.5 is no whole number"),
        ("1,1,0,0,-9,9\n", r"the width or the height is negative"),
        ("1,1,0,0,nan,9\n", r"a column is NaN or infinite"),
        ("1,1,0,0,9,9,1,1.5,1\n", r"the class 1.5 is no whole number"),
        ("1,3,0,0,9,9\n2,3,0,0,9,9\n1,3,1,1,9,9\n", r"x.txt: the id 3 occurs twice in frame 1$"),
        ("1,-1,0,0,9,9\n1,-1,1,1,9,9\n", r"the id -1 occurs twice in frame 1\nhint: these are detections"),
        (b"\xff\xfe\x00", r"is no text file"),
    ],
)
def test_mistakes_in_files(text, message, tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(NetbuildError) as caught:
        read_rows(file)
    assert re.search(message, str(caught.value)), str(caught.value)
