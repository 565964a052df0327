"""Darknet's .cfg and .weights files: published counts, an interpreter of our own, and what is refused.

Networks are written in a short form, a word for each section: `64,3,2` is a convolution of 64 filters 3x3 with stride
2, `r-1,8` a route, `g-1` the second half of a layer, `s-3` a shortcut, `m2,1` a pooling of size 2 with stride 1, `u` an
upsampling, `y3,4,5` a convolution for boxes with its [yolo].
"""

import json
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from netbuild import NetbuildError, build, summarize
from netbuild.author.converting import convert
from netbuild.weights.darknet import load_darknet_weights

ANCHORS = [10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319, 350, 60, 60, 350, 400, 400]


def sections(words, act="leaky", nc=80, **yolo):
    """Yield (kind, options) of the words; `mish` and `leaky` among them change the activation of what follows."""
    for word in words.split():
        kind, rest = (word[0], word[1:]) if word[0].isalpha() else ("c", word)
        if kind == "c":
            f, k, s = ([int(x) for x in rest.split(",")] + [1])[:3]
            yield "convolutional", {
                "batch_normalize": 1, "filters": f, "size": k, "stride": s, "pad": 1, "activation": act
            }  # fmt: skip
        elif kind == "y":
            count = rest.count(",") + 1
            linear = {"filters": count * (5 + nc), "size": 1, "stride": 1, "pad": 1, "activation": "linear"}
            yield "convolutional", linear
            texts = {"mask": rest, "anchors": ", ".join(map(str, ANCHORS)), "classes": nc, "num": 9}
            yield "yolo", {**texts, **yolo}
        elif kind == "m" and rest != "ish":
            yield "maxpool", dict(zip(("size", "stride"), rest.split(","), strict=True))
        elif kind == "u":
            yield "upsample", {"stride": 2}
        elif kind == "r":
            yield "route", {"layers": rest}
        elif kind == "g":
            yield "route", {"layers": rest, "groups": 2, "group_id": 1}
        elif kind == "s":
            yield "shortcut", {"from": rest, "activation": "linear"}
        else:
            act = word


def write(found, side=416):
    net = [("net", {"width": side, "height": side, "channels": 3})]
    lines = (f"[{kind}]\n" + "".join(f"{k} = {v}\n" for k, v in options.items()) for kind, options in [*net, *found])
    return "# comment\n" + "\n".join(lines)


def residual(c, n):
    return f"{c},3,2 " + f"{c // 2},1 {c},3 s-3 " * n


def csp(c, n):
    half = c // 2
    return f"{c},3,2 {half},1 r-2 {half},1 " + f"{half},1 {half},3 s-3 " * n + f"{half},1 r-1,-{3 * n + 4} {c},1 "


def turns(c, n):
    return f"{c},1 {2 * c},3 " * n


def tiny_csp(c):
    return f"{c},3 g-1 {c // 2},3 {c // 2},3 r-1,-2 {c},1 r-6,-1 m2,2 "


TINY3 = "".join(f"{c},3 m2,{1 if c == 512 else 2} " for c in (16, 32, 64, 128, 256, 512))
TINY3 += "1024,3 256,1 512,3 y3,4,5 r-4 128,1 u r-1,8 256,3 y0,1,2"
TINY4 = f"32,3,2 64,3,2 {tiny_csp(64)}{tiny_csp(128)}{tiny_csp(256)}"
TINY4 += "512,3 256,1 512,3 y3,4,5 r-4 128,1 u r-1,23 256,3 y1,2,3"
V3 = "32,3 " + "".join(residual(c, n) for c, n in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)))
V3 += f"{turns(512, 3)}y6,7,8 r-4 256,1 u r-1,61 {turns(256, 3)}y3,4,5 r-4 128,1 u r-1,36 {turns(128, 3)}y0,1,2"
V4 = "mish 32,3 64,3,2 64,1 r-2 64,1 32,1 64,3 s-3 64,1 r-1,-7 64,1 "
V4 += "".join(csp(c, n) for c, n in ((128, 2), (256, 8), (512, 8), (1024, 4)))
V4 += "leaky 512,1 1024,3 512,1 m5,1 r-2 m9,1 r-4 m13,1 r-1,-3,-5,-6 512,1 1024,3 512,1 "
V4 += f"256,1 u r85 256,1 r-1,-3 {turns(256, 2)}256,1 128,1 u r54 128,1 r-1,-3 {turns(128, 2)}128,1 "
V4 += f"256,3 y0,1,2 r-4 256,3,2 r-1,-16 {turns(256, 2)}256,1 512,3 y3,4,5 "
V4 += f"r-4 512,3,2 r-1,-37 {turns(512, 2)}512,1 1024,3 y6,7,8"


@pytest.mark.parametrize(
    ("name", "words", "count", "strides"),
    [
        ("yolov3", V3, 61_949_149, [8, 16, 32]),
        ("yolov3-tiny", TINY3, 8_852_366, [16, 32]),
        ("yolov4", V4, 64_363_101, [8, 16, 32]),
        ("yolov4-tiny", TINY4, 6_056_606, [16, 32]),
    ],
)
def test_published_counts(tmp_path, name, words, count, strides):
    (tmp_path / f"{name}.cfg").write_text(write(sections(words)))
    summary = summarize(tmp_path / f"{name}.cfg", flops="torch")
    assert sum(layer.params for layer in summary.graph.layers) == count
    assert summary.graph.layers[-1].strides == strides
    assert (summary.graph.name, summary.graph.spec.dialects, summary.graph.nc) == (name, ("Darknet",), 80)
    done = convert(tmp_path / f"{name}.cfg", tmp_path / "new.yaml")
    assert done.parameters == count
    rows = [row for row in (tmp_path / "new.yaml").read_text().splitlines() if row.startswith("  - [")]
    # Rows are read by name: no source is a number but -1, the row before.
    assert not [row for row in rows if any(part.strip("[ ").isdigit() for part in row[5:].split(", 1, ")[0].split(","))]


# Every section with an effect, over sides that are odd somewhere.
ACTIVATED = {"from": "-2", "activation": "relu"}
EVERY = [
    *sections("8,3,2 m2,2 mish 16,3 m2,1 16,3 s-3 leaky 16,1"),
    ("shortcut", ACTIVATED),
    *sections("g-1 r-1,-3 m5,1 m3,2 32,3"),
    ("convolutional", {"filters": 32, "size": 3, "groups": 4, "padding": 1, "activation": "swish"}),
    ("avgpool", {}),
    ("convolutional", {"filters": 32, "size": 1, "activation": "logistic"}),
    ("scale_channels", {"from": "-3", "activation": "linear"}),
    ("dropout", {"probability": "0.5"}),
    *sections("y3,4,5 r-3 16,1 u r-1,9 16,3 y0,1,2", nc=2, scale_x_y=1.05),
]
CLASSIFIER = [
    *sections("8,3,2 m2,2 m2,2"),
    ("connected", {"output": 12, "activation": "relu"}),
    ("dropout", {}),
    ("connected", {"output": 5, "activation": "linear"}),
    ("softmax", {}),
]


ACTS = {
    "linear": lambda x: x,
    "leaky": lambda x: torch.where(x > 0, x, 0.1 * x),
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "relu": lambda x: x.clamp(min=0),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "logistic": lambda x: 1 / (1 + torch.exp(-x)),
}


class Values:
    """Random weights, drawn in the order of the file; `all` is what was drawn."""

    def __init__(self):
        self.random, self.all = np.random.default_rng(0), []

    def draw(self, *shape, low=-0.2, high=0.2):
        self.all.append(self.random.uniform(low, high, shape).astype("f4"))
        return torch.from_numpy(self.all[-1])


def convolve(options, x, values):
    f, k, groups = options["filters"], options["size"], options.get("groups", 1)
    bias = values.draw(f)
    lowest = (0.5, -0.5, 0.5) if "batch_normalize" in options else ()  # of factors, means and variances
    norm = [values.draw(f, low=low, high=1.0).view(-1, 1, 1) for low in lowest]
    weight = values.draw(f, x.shape[1] // groups, k, k)
    padding = k // 2 if options.get("pad") else options.get("padding", 0)
    x = F.conv2d(x, weight, None if norm else bias, options.get("stride", 1), padding, 1, groups)
    if not norm:
        return x
    scale, mean, variance = norm
    return (x - mean) / (variance + 1e-5).sqrt() * scale + bias.view(-1, 1, 1)


def pool(k, s, x):
    """Maxima of windows that begin (k-1)//2 cells before the map."""
    before, sides = (k - 1) // 2, [(side - 1) // s + 1 for side in x.shape[2:]]
    padded = F.pad(x, (before, k + s, before, k + s), value=-1e30)
    return padded.unfold(2, k, s).unfold(3, k, s).amax((4, 5))[:, :, : sides[0], : sides[1]]


def interpret(found, x, values):
    """Run the sections as Darknet does; return the raw maps of [yolo], or the last output."""
    outputs, raw = [], []
    for i, (kind, options) in enumerate(found):
        act = ACTS[options.get("activation", "linear")]
        if kind == "convolutional":
            x = act(convolve(options, x, values))
        elif kind == "connected":
            bias, weight = values.draw(options["output"]), values.draw(options["output"], x[0].numel())
            x = act(x.flatten(1) @ weight.T + bias)
        elif kind == "maxpool":
            x = pool(int(options["size"]), int(options["stride"]), x)
        elif kind == "upsample":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif kind == "route":
            parts = [outputs[n if n >= 0 else i + n] for n in map(int, options["layers"].split(","))]
            if options.get("groups"):
                parts = [part.chunk(2, 1)[1] for part in parts]
            x = torch.cat(parts, 1)
        elif kind in ("shortcut", "scale_channels"):
            other = outputs[i + int(options["from"])]
            x = act(x + other if kind == "shortcut" else x * other)
        elif kind == "avgpool":
            x = x.mean((2, 3), keepdim=True)
        elif kind == "softmax":
            x = x.flatten(1).exp()
            x = x / x.sum(1, keepdim=True)
        elif kind == "yolo":
            raw.append(x)
        outputs.append(x)
    return raw or x


def write_weights(path, values, major=0, minor=2):
    header = struct.pack("<3i", major, minor, 5) + (b"\0" * (8 if major * 10 + minor >= 2 else 4))
    path.write_bytes(header + b"".join(part.tobytes() for part in values.all))


@pytest.mark.parametrize(
    ("found", "minor", "side"), [(EVERY, 2, 104), (CLASSIFIER, 1, 100)], ids=["every section", "classifier"]
)
def test_a_checkpoint_computes_what_an_interpreter_does(cli, tmp_path, found, minor, side):
    cfg, weights, out = (tmp_path / name for name in ("net.cfg", "net.weights", "net.safetensors"))
    cfg.write_text(write(found, side).replace("[convolutional]", "[conv]", 3))  # a short name, which Darknet takes too
    values = Values()
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = interpret(found, x, values)
        write_weights(weights, values, minor=minor)
        done = cli("convert", str(cfg), "-o", str(out), "--weights", str(weights), "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["dialects"] == ["Darknet"]
        network = build(out).eval()
        result = network(x)
    if found is CLASSIFIER:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
        return
    y, raw = result
    for mine, theirs in zip(raw, reversed(expected), strict=True):  # the finest level comes last in the file
        torch.testing.assert_close(mine, theirs.unflatten(1, (3, 7)).permute(0, 1, 3, 4, 2), atol=1e-4, rtol=1e-4)
    # The box of anchor 1 at column 3 and row 2 of the finest level.
    t = expected[-1].unflatten(1, (3, 7))[0, 1, :, 2, 3]
    stride, cells = network.head.stride[0], expected[-1].shape[2]
    wanted = [
        *((t[:2].sigmoid() * 1.05 - 0.025 + torch.tensor([3.0, 2.0])) * stride).tolist(),
        *(t[2:4].exp() * torch.tensor(ANCHORS[2:4])).tolist(),
        *t[4:].sigmoid().tolist(),
    ]
    torch.testing.assert_close(y[0, cells * cells + 2 * cells + 3], torch.tensor(wanted), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "module", "message"),
    [
        ({"new_coords": 1, "scale_x_y": 2.0}, "AnchorDetect", "activation must be logistic"),
        ({"new_coords": 1, "scale_x_y": 1.5}, "", "needs scale_x_y=2.0"),
    ],
)
def test_boxes_with_new_coordinates_are_those_of_anchor_detect(tmp_path, options, module, message):
    found = list(sections("8,3,2 y0 r-3 8,3,2 y1", nc=2, **options))
    logistic = [(kind, o | ({"activation": "logistic"} if o.get("size") == 1 else {})) for kind, o in found]
    (tmp_path / "net.cfg").write_text(write(logistic if module else found))
    (tmp_path / "bad.cfg").write_text(write(found if module else logistic))
    if module:
        assert summarize(tmp_path / "net.cfg").graph.layers[-1].row.module == module
    with pytest.raises(NetbuildError) as error:
        summarize(tmp_path / "bad.cfg")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-4], "it ends at layer 3"),
        (lambda data: data + b"\0" * 8, "it has 921 values, the network has 919"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: data[:10], "too few for the header"),
        (lambda data: b"PK\3\4" + data[4:], "none of Darknet"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    found = list(sections("8,3,2 8,3,2 m2,2 y0", nc=2))
    (tmp_path / "net.cfg").write_text(write(found, side=64))
    values = Values()
    interpret(found, torch.rand(1, 3, 64, 64), values)
    write_weights(tmp_path / "net.weights", values)
    network = build(tmp_path / "net.cfg")
    load_darknet_weights(network, tmp_path / "net.weights", tmp_path / "net.cfg")
    (tmp_path / "bad.weights").write_bytes(change((tmp_path / "net.weights").read_bytes()))
    with pytest.raises(NetbuildError) as error:
        load_darknet_weights(network, tmp_path / "bad.weights", tmp_path / "net.cfg")
    assert message in str(error.value)


NET = "[net]\nchannels=3\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (NET, 1, "the file has no layers"),
        (CONV, 1, "the first section of a Darknet file is [net]"),
        (f"{NET}{CONV}[lstm]\noutput=3\n", 10, "[lstm] is not supported"),
        (f"{NET}[convolutoinal]\nfilters=3\n", 3, "did you mean 'convolutional'"),
        (f"{NET}{CONV}filters\n", 10, "write key=value"),
        (f"{NET}{CONV}[route\n", 10, "a section is a name in brackets"),
        (NET + CONV.replace("=8", "=9999999"), 5, "filters must be a whole number from 1 to 65536"),
        (NET + CONV.replace("=8", "=1e9"), 5, "'1e9' is no number"),
        (NET + CONV.replace("leaky", "maxout"), 9, "activation=maxout is not supported"),
        (f"{NET}{CONV}xnor=1\n", 10, "xnor is not supported"),
        (f"{NET}{CONV}[route]\nlayers=-4\n", 11, "layer -3 is none before it"),
        (f"{NET}{CONV}[route]\n", 10, "[route] has no layers"),
        (f"{NET}{CONV}[route]\nlayers=-1\ngroups=3\n", 12, "8 channels cannot be split into 3 groups"),
        (f"{NET}{CONV}{CONV.replace('=8', '=9')}[shortcut]\nfrom=-2\n", 18, "adds 9 channels and 8"),
        (f"{NET}{CONV}[maxpool]\nsize=2\n[yolo]\n", 12, "must follow a [convolutional]"),
        (f"{NET}{CONV}{CONV}[yolo]\nmask=0\nanchors=3,4\nclasses=3\n", 13, "size must be 1"),
        (f"{NET}{CONV}[yolo]\nmask=4\nanchors=3,4\nclasses=3\n", 11, "are not all among the 1 anchors"),
    ],
)
def test_mistakes_are_shown_at_their_line(tmp_path, text, line, message):
    (tmp_path / "net.cfg").write_text(text)
    with pytest.raises(NetbuildError) as error:
        summarize(tmp_path / "net.cfg")
    assert message in str(error.value)
    assert f"net.cfg:{line}:" in str(error.value)


def test_a_darknet_file_is_a_base_of_others(tmp_path):
    (tmp_path / "net.cfg").write_text(write(sections("8,3,2 8,3 r-2 8,1 s-2 y0", nc=2), side=64))
    (tmp_path / "mine.yaml").write_text(
        "extends: net.cfg\nnc: 5\nedits: [{insert_after: 2, row: [-1, 1, nn.ReLU, []]}]\n"
    )
    layers = summarize(tmp_path / "mine.yaml").graph.layers
    assert [layer.row.module for layer in layers] == ["Conv", "Conv", "Conv", "nn.ReLU", "Add", "DarknetDetect"]
    assert layers[-1].arguments[0] == 5


DIALECT = """
nc: 2
anchors: [[10,13, 16,30], [30,61, 62,45]]
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2], kept]
  - [-1, 1, Conv, [32, 3, 2]]
  - {from: -1, module: CBLinear, args: [[16, 32]]}
head:
  - ["3[1]", 1, Conv, [32, 1, 1]]
  - {from: input, share: 0}
  - [[1, -2], 1, Detect, [nc, anchors]]
"""


def test_a_dialect_is_written_with_names(cli, tmp_path):
    (tmp_path / "old.yaml").write_text(DIALECT)
    done = cli("convert", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "new.yaml"))
    assert done.code == 0, done.err
    text = (tmp_path / "new.yaml").read_text()
    for part in ("cblinear_3[1]", "conv_0", "name: cblinear_3", "share: conv_0", "[[kept, conv_4], 1, AnchorDetect,"):
        assert part in text, text
    assert "no .cfg file" in cli("convert", "lenet5.yaml", "-o", "x.safetensors", "--weights", "x").err
    assert "ends in .yaml" in cli("convert", "lenet5.yaml", "-o", "x.safetensors").err
    assert "is converted" in cli("convert", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "old.yaml")).err
