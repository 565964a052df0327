"""Paths that no file can have, in the files that name pictures."""

import json

import pytest

from netbuild.data import open_data
from netbuild.errors import NetbuildError


def read_all(path):
    data = open_data(path)
    for split in data.splits:
        data.split(split)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "y/" * 3000], ids=["long", "null", "deep"])
def test_a_path_that_no_file_can_have_is_an_error_with_the_files_name(tmp_path, name):
    (tmp_path / "train").mkdir()
    (tmp_path / "data.yaml").write_text(f"train: {json.dumps(name)}\nval: train\nnames: [a]\n")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    image = {"id": 1, "file_name": name, "width": 4, "height": 4}
    coco = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    for file in ("data.yaml", "coco.json"):
        with pytest.raises(NetbuildError) as caught:
            read_all(tmp_path / file)
        assert file in str(caught.value) or str(tmp_path) in str(caught.value)
    with pytest.raises(NetbuildError):
        read_all(name)
