"""Networks with several heads: outputs, classes of each head, checkpoints, freezing, costs, ejecting, comparing."""

import json

import pytest
import torch
from helpers.small_networks import TWO_HEADS

import netbuild
from netbuild.errors import NetbuildError
from netbuild.grammar.checkpoint_header import read_info
from netbuild.graph.heads import HeadGroup
from netbuild.settings import Settings
from netbuild.training.optimisers import freeze, make_plan

TEXT = """\
nc: 3
imgsz: 64
lr_factors: {lanes: 0.1}
heads:
  boxes: {row: detect}
  lanes: {row: semantic, weight: 0.5, data: lanes, nc: 2}
  far: {row: 5, task: depth, weight: 0.2}
"""
TEXT += TWO_HEADS + "  - [fine, 1, nn.Conv2d, [8, 1, 1]]\n"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "net.yaml").write_text(TEXT)
    return tmp_path / "net.yaml"


def test_a_network_gives_the_outputs_of_its_heads(file):
    network = netbuild.build(file).eval()
    boxes, lanes, far = network(torch.rand(1, 3, 64, 64))
    assert (boxes[0].shape[1], lanes.shape[1], far.shape[1]) == (7, 2, 1)
    assert isinstance(network.head, HeadGroup)
    assert [type(head).__name__ for head in network.heads] == ["Detect", "SemanticSegment", "Conv2d"]
    assert network.head.members == network.heads
    assert len(list(network.parameters())) == len({id(p) for p in network.parameters()})
    assert [head.name for head in network.card.heads] == ["boxes", "lanes", "far"]
    changed = netbuild.build(file, nc=4, head_nc={"lanes": 5}).eval()
    assert [x.shape[1] for x in (changed(torch.rand(1, 3, 64, 64))[i] for i in (1, 2))] == [5, 1]
    assert changed.head.members[0].nc == 4


def test_a_checkpoint_restores_heads_without_the_file(file, tmp_path):
    network = netbuild.build(file).eval()
    heads = [head if head.name != "lanes" else type(head)(**{**vars(head), "names": ("left", "right")})
             for head in network.card.heads]  # fmt: skip
    network.card = type(network.card)(**{**vars(network.card), "heads": tuple(heads)})
    path = netbuild.save(network, tmp_path / "net.safetensors", names=["a", "b", "c"])
    file.unlink()
    stored = read_info(path).heads
    assert stored["lanes"] == {
        "name": "lanes", "row": 4, "task": "semantic", "weight": 0.5, "data": "lanes", "nc": 2,
        "names": ["left", "right"],
    }  # fmt: skip
    again = netbuild.build(path).eval()
    assert again.card.heads == network.card.heads
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(x)[1], network(x)[1])


def test_heads_are_frozen_and_slowed_by_name(file):
    network = netbuild.build(file)
    assert freeze(network, "boxes,far") == [3, 5]
    assert not any(p.requires_grad for p in network.model[3].parameters())
    groups = make_plan(network, Settings(lr=1.0), 10).optimizer.param_groups
    slow = {id(p) for group in groups if group["factor"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in network.model[4].parameters()}
    with pytest.raises(NetbuildError, match="--freeze box: no row has this name") as caught:
        freeze(network, "box")
    assert "boxes" in caught.value.hint


def test_the_summary_shows_what_each_head_costs(cli, file):
    found = json.loads(cli("summary", file, "--json").out)
    heads = {head["name"]: head for head in found["heads"]}
    assert {name: head["rows"] for name, head in heads.items()} == {
        "boxes": [3], "lanes": [4], "far": [5], "shared": [0, 1, 2],
    }  # fmt: skip
    assert sum(head["params"] for head in heads.values()) == found["totals"]["params"]
    assert sum(head["flops"] for head in heads.values()) == found["totals"]["flops"]
    assert (
        "head lanes (row 4 SemanticSegment, task semantic, weight 0.5, data lanes): 1 row" in cli("summary", file).out
    )
    assert "heads" not in json.loads(cli("summary", "lenet5.yaml", "--json").out)


def test_ejected_and_compared(cli, file, tmp_path):
    done = cli("eject", file, "-o", tmp_path / "net.py")
    assert done.code == 0, done.err
    assert "return [" in (tmp_path / "net.py").read_text()
    other = tmp_path / "other.yaml"
    other.write_text(TEXT.replace("weight: 0.5", "weight: 0.7"))
    assert "0.7" in cli("diff", file, other).out
