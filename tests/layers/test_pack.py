"""The modules of the pack against figures that public copies printed, and what each of them must be able to do."""

import copy
import gzip
import hashlib
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from helpers.filled_weights import fill, samples
from torch import nn

from netbuild import NetbuildError, build
from netbuild.author.ejecting import eject
from netbuild.export import export
from netbuild.grammar.spec import load as load_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.layers import pack
from netbuild.layers.fuse import fuse
from netbuild.layers.heads.base import Head
from netbuild.modules.registry import MODULES

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden/pack.json.gz").read_bytes()))

# The call of netbuild's module for a measured variant, where it is not the public copy's own call.
CALLS = {
    "CARAFE_yoloair": "CARAFE_yoloair(64, 96, 3, 2)",
    "CoordConv_paddle": "CoordConv_paddle(64, 96, 3, 1)",
    "DCNv3": "DCNv3(64)",
    "GhostModule_Dynamic": "GhostModule_Dynamic(32, 48)",
    "MobileOneBlock_official": "MobileOneBlock_official(64, 64, 3, 1, 1, 4)",
    "ODConv2d_bnact": "ODConv2d_bnact(32, 48, 3, 2)",
    "RepVGGBlock_v6": "RepVGGBlockv6(64, 64)",
    "DySample_scope": 'DySample(64, 2, "lp", 4, True, True)',
    "GSConv_official": 'GSConv(64, 96, 3, 2, 1, "Mish", True)',
    "GSConv_yoloair": 'GSConv(64, 96, 3, 2, 1, "Mish")',
    "VoVGSCSP_yoloair": "VoVGSCSP_yoloair(64, 96, 1)",
    "BottleneckCSP2_silu": "BottleneckCSP2(64, 96, 2, act=True)",
    "C3STR_ultra": "C3STR(64, 128, 2, act=True)",
    "GhostBottleneck_v2": "GhostBottleneck_v2(32, 64, 32)",
    "LiteMLA": "LiteMLA(64, 64)",
    "RepViTBlock_stf_s2": "RepViTBlock(32, 48, True, 2)",
    "ConvNeXt_stage0": "ConvNeXt(3, 32, 0, [1, 1, 2, 1], 32)",
    "ConvNeXt_stage2": "ConvNeXt(64, 128, 2, [1, 1, 2, 1], 32)",
    "DilatedReparamBlock": "DilatedReparamBlock(64, 9)",
    "HorNet_stage0": "HorNet(3, 32, 0, 3, [1, 1, 1, 1], 32)",
    "HorNet_stage2": "HorNet(64, 128, 2, 3, [1, 1, 1, 1], 32)",
    "SPPCSP_silu": "SPPCSP(64, 96, act=True)",
    "SimAM": "SimAM()",
    "MultiSEAM_silu": "MultiSEAM(64, 64, 1, act='SiLU')",
    "S2Attention": "S2Attention(64)",
    "ASFFV5_level0": "ASFFV5([16, 32, 64], 0)",
    "ASFFV5_level1": "ASFFV5([16, 32, 64], 1)",
    "ASFFV5_level2": "ASFFV5([16, 32, 64], 2)",
    "MultiDilatelocalAttention": "MultiDilatelocalAttention(64, dilation=[1, 2])",
    "Conv_kindle": "KindleConv(32, 48, 3, 2)",
    "MV2Block_res": "MV2Block(32, 32, 1, 4, 'SiLU')",
    "BiFusion_v6": "BiFusion([64, 48, 32], 64, True)",
    "CGAFusion": "CGAFusion([64, 64])",
    "Concat_bifpn": "Concat_bifpn([64, 64], 96)",
    "Concat_bifpn_3in": "Concat_bifpn([64, 64, 64], 96)",
    "InjectionMultiSum_Auto_pool_down": "InjectionMultiSum_Auto_pool([48, 96], 64, [64, 32], 1)",
    "PyramidPoolAgg": "PyramidPoolAgg([32, 64], 64, 2)",
    "Partial_conv3": "Partial_conv3(64)",
}
# Variants of public copies that netbuild does not have, each with the reason.
LEFT_OUT: dict[str, str] = {}

# A module's row arguments, or (arguments, channels of each source), or (arguments, shapes of each source) where these
# are not [], one source of 64 channels. A module needs (channels, height, width) where it takes some sizes only.
PYRAMID = [(32, 16, 24), (64, 8, 12), (96, 4, 6)]  # shapes of three sources
WRAPPED = "RVB RVB_SE RVB_EMA Star iRMB DWR UniRepLKNetBlock".split()
ROWS: dict[str, object] = {
    **dict.fromkeys("BottleneckCSP2 BottleneckCSPA BottleneckCSPB BottleneckCSPC BottleneckCSPF C3C2".split(), "32"),
    **dict.fromkeys(
        "GhostCSPA GhostCSPB GhostCSPC Res ResCSPA ResCSPB ResCSPC C3HB CNeB CSPStage C3RFEM C3GC BoT3 CoT3".split(),
        "32",
    ),
    **dict.fromkeys("ASPP BasicRFB GhostSPPCSPC SPPCSP SPPCSPC_group SPPFCSPC SimCSPSPPF SimSPPF".split(), "32"),
    **dict.fromkeys((f"{c}_{x}" for c in ("C3", "C2f", "C3k2") for x in WRAPPED), "64"),
    **dict.fromkeys("ResXCSPA ResXCSPB ResXCSPC".split(), "64"),
    **dict.fromkeys("C2f_Faster C2f_Faster_CGLU C3_Faster C3_Faster_CGLU C3k2_Faster C3k2_Faster_CGLU".split(), "32"),
    **dict.fromkeys("Faster_Block Faster_Block_CGLU".split(), "32"),
    **dict.fromkeys("C2f_DCN C2f_DCNv2 C3_DCNv2 C3k2_DCNv2 DCNV3_YOLO VoVGSCSP VoVGSCSPC".split(), "32"),
    **dict.fromkeys("C2f_RFAConv C2f_RFCAConv C2f_RFCBAMConv C3_RFAConv C3_RFCAConv C3_RFCBAMConv".split(), "32"),
    **dict.fromkeys("C3k2_RFAConv C3k2_RFCAConv C3k2_RFCBAMConv GSBottleneck VoVGSCSP_yoloair".split(), "32"),
    **dict.fromkeys("CARAFE_yoloair Conv_maxpool Stem V7DownSampling".split(), "32"),
    **dict.fromkeys("DWConvblock GSConv RFAConv RFCAConv RFCBAMConv".split(), "32, 3, 2"),
    **dict.fromkeys("HWD SPDConv".split(), ("32", [(64, 12, 14)])),
    **dict.fromkeys("LAWDS space_to_depth".split(), ("", [(64, 12, 14)])),
    "DCNv2": ("32, 3", [2]),  # the offsets of many channels would point outside the map
    **dict.fromkeys("ContextGuidedBlock CoordConv_paddle GhostModule_Dynamic SimConv conv_bn_hswish".split(), "32"),
    **dict.fromkeys("BepC3 BottleRep C2f_DBB C3_DBB C3k2_DBB C2f_ODConv C3_ODConv C3k2_ODConv".split(), "32"),
    **dict.fromkeys("CBH ConvBNLayer CoordConv DiverseBranchBlock DynamicConv ODConv2d".split(), "32, 3, 2"),
    **dict.fromkeys("Dense MobileOne ODConv2d_bnact".split(), "32, 3"),
    **dict.fromkeys("Involution MobileOneBlock MobileOneBlock_official QARepVGGBlock".split(), "64, 3"),
    **dict.fromkeys("RepBlock RepVGGBlock RepVGGBlockv6 SCConv".split(), "64"),
    "LDConv": "32, 5, 2",
    "SAConv2d": "32, 3, 1, null, 1, 1, False",
    "WTConv2d": "64, 3, 1, True, 2",
    "ConvNeXt": "128, 1, [1, 1, 1, 1], 64",
    "CSPResNet": "96, 2, 2",
    "CSPResNet_CBS": "32",
    "DepthSepConv": "32, 5, 2, True",
    "DilatedReparamBlock": "9",
    "ES_Bottleneck": "64, 1",
    "HorNet": "128, 1, 3, [1, 1, 1, 1], 64",
    "C3STR": "128",
    "GhostBottleneck_v2": "32, 32, 3, 2",
    "GhostModuleV2": "32",
    "LiteMLA": "32",
    "PPConvBlock": "True, True",
    "RCSOSA": "32, True",
    "RepViTBlock": "64",
    "SwinTransformer": "128, 2",
    "SwinTransformerLayer": "4, 7, 3",
    "iRMB": "64",
    "LC_Block": "96, 2, 5, True",
    "MBConvBlock": "64, 5",
    "MobileNetV3_InvertedResidual": "32, 96, 5, 2",
    "ResSPP": "32, 3",
    "ShuffleNetV2_Model": "96, 2",
    "Shuffle_Block": "96, 2",
    "mobilev3_bneck": "32, 96, 5, 2",
    "UniRepLKNetBlock": "7",
    "KindleConv": "32, 3",
    "KindleDWConv": "32, 3",
    "MV2Block": "32",
    "MobileViTBlock": ("48, 96, 2", [(32, 12, 16)]),
    "ADD": ("0.5", [64, 64]),
    "ASFFV5": ("1", PYRAMID),
    "AdvPoolFusion": ("", PYRAMID[:2]),
    "BiFPN_Add2": ("96", [64, 64]),
    "BiFPN_Add3": ("96", [64, 64, 64]),
    "BiFusion": ("96", PYRAMID[::-1]),
    "CGAFusion": ("", [64, 64]),
    "Chuncat": ("1", [64, 32]),
    "Concat_bifpn": ("96", [64, 64]),
    "Foldcut": "1",
    "Fusion": ("adaptive", [64, 64]),
    "InjectionMultiSum_Auto_pool": ("64, [64, 32], 1", [(48, 4, 6), (96, 8, 12)]),
    "PyramidPoolAgg": ("64, 2", PYRAMID),
    "IFM": "[32, 16]",
    "SDI": ("", PYRAMID[1::-1]),
    "ScalSeq": ("48", PYRAMID),
    "Shortcut": ("1", [64, 64]),
    "SimFusion_3in": ("64", PYRAMID),
    "SimFusion_4in": ("", [(16, 32, 48), *PYRAMID]),
    "TopBasicLayer": "[32, 64]",
    "Zoom_cat": ("", PYRAMID),
    "asf_attention_model": ("", [64, 64]),
    "CA": "64",
    "GAMAttention": "64",
    "ResBlock_CBAM": "16",
    "SPPF_LSKA": "32",
    "SEAM": "64, 1",
    "CascadedGroupAttention": ("", [(64, 7, 7)]),
    "MultiSEAM": "64, 1",
    "MobileViTAttention": "48, 3, 4",
}
ODD = (11, 14)  # the size of a map whose module takes any size
# Modules with parameters that no output depends on: a pattern of the parameters' names.
UNUSED: dict[str, str] = {
    **dict.fromkeys(["VoVGSCSP", "VoVGSCSPC"], r"\.res\."),
    "SAConv2d": r"model\.0\.bias",
    "VoVGSCSP_yoloair": r"\.res\.|gsb\.conv\.",
    **dict.fromkeys(
        "C3GC GlobalContext ContextBlock2d ContextAggregation ParallelPolarizedSelfAttention "
        "SequentialPolarizedSelfAttention".split(),
        r"(conv_attn|conv_mask|k\.conv|ch_wq)\.bias$",  # the softmax after it is the same with any bias
    ),
    "BoT3": r"fc1|key\.bias",
    "Concat_bifpn": "w2_weight",
    "ConvNeXt": r"layers\.[023]|stages\.[023]",
    "ES_Bottleneck": r"branch[24]",
    "ResSPP": "spp4",
    "HorNet": r"layers\.[023]|stages\.[023]",
}
NO_ONNX: dict[str, str] = {}  # modules that cannot be exported: a part of the error, which names the operator


def get_call(name: str) -> str:
    return CALLS.get(name, GOLDEN[name]["constructor"])


def get_class(name: str):
    return MODULES.find(get_call(name).partition("(")[0])


def is_built(name: str) -> bool:
    cls = get_class(name)
    return cls is not None and not issubclass(cls, Head) and name not in LEFT_OUT


BUILT = [name for name in GOLDEN if is_built(name)]


def make(name: str) -> nn.Module:
    words = re.findall(r"[A-Za-z_]\w*(?=\()", get_call(name))
    return eval(get_call(name), {word: MODULES.find(word) for word in words})


def test_every_measured_variant_is_compared():
    others = {*GOLDEN} - {*BUILT} - {*LEFT_OUT}
    assert not [name for name in others if not issubclass(get_class(name), Head)]  # those are in test_pack_heads.py


@pytest.mark.parametrize("name", BUILT)
def test_parameters_keys_and_outputs_are_those_of_the_public_copy(name):
    wanted = GOLDEN[name]
    module = make(name)
    state = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
    assert sum(p.numel() for p in module.parameters()) == wanted["params"]
    text = "\n".join(f"{key}:{shape}" for key, shape in state.items())
    assert hashlib.sha256(text.encode()).hexdigest() == wanted["state_sha256"], text
    kept = {k: v.clone() for k, v in module.state_dict().items() if k.rpartition(".")[2] in wanted["keep"]}
    fill(module.eval(), wanted["gain"]).load_state_dict(kept, strict=False)
    for run in wanted["runs"]:
        inputs = [
            torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(run["inputs"])
        ]
        with torch.no_grad():
            output = module(inputs) if wanted["list"] else module(*inputs)
        for tensor, figures in zip(list_tensors(output), run["outputs"].values(), strict=True):
            tolerance = 1e-5 * figures["mean_abs"] + 10 * (figures["err64"] or 1e-5 * figures["mean_abs"])
            assert list(tensor.shape) == figures["shape"]
            assert samples(tensor) == pytest.approx(figures["samples"], abs=tolerance)
            assert tensor.abs().double().mean().item() == pytest.approx(figures["mean_abs"], rel=1e-4)


def list_tensors(output) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return [t for item in (output.values() if isinstance(output, dict) else output) for t in list_tensors(item)]


def read_row(name: str) -> tuple[str, list[tuple[int, ...]]]:
    """The arguments of a module's row, and the shapes (channels, height, width) of its sources."""
    row = ROWS.get(name, "")
    arguments, sources = row if isinstance(row, tuple) else (row, [64])
    return arguments, [(s, *ODD) if isinstance(s, int) else tuple(s) for s in sources]


def write_network(name: str, folder: Path, channels: int | None = None) -> tuple[Path, list[tuple[int, ...]]]:
    """Write a network of one row of the module; each source is an input of the network."""
    arguments, sources = read_row(name)
    sources = [(channels or c, *size) for c, *size in sources]
    inputs = ", ".join(f"x{i}: {list(shape)}" for i, shape in enumerate(sources))
    names = [f"x{i}" for i in range(len(sources))]
    source = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
    file = folder / f"{name}.yaml"
    file.write_text(f"inputs: {{{inputs}}}\nlayers:\n  - [{source}, 1, {name}, [{arguments}]]\n")
    return file, sources


def make_inputs(sources, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, *s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(sources)]


def randomise(network: nn.Module) -> nn.Module:
    """Zero gates and fresh norms would hide what is wrong behind them."""
    torch.manual_seed(0)
    for p in network.parameters():
        if (p.requires_grad and p.ndim < 2) or not p.any():
            nn.init.normal_(p, 0.5, 0.2)
    for m in network.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.normal_(m.running_mean, 0, 0.2)
    return network


pack_modules = pytest.mark.parametrize("name", pack.list_names())


@pack_modules
def test_a_row_of_the_module_works_in_every_way(name, tmp_path):
    file, sources = write_network(name, tmp_path)
    network = randomise(build(file)).train()
    inputs = make_inputs(sources)
    inputs[0].requires_grad_(True)
    output = network(*inputs)
    foreseen = resolve(load_spec(str(file)), Options()).layers[-1].out_shape
    assert [2, *foreseen[1:]] == list(output.shape)
    (output * torch.linspace(0.5, 2, output.numel()).view(output.shape)).sum().backward()
    unused = UNUSED.get(name, "$^")
    idle = [k for k, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [k for k in idle if not re.search(unused, k)]
    assert inputs[0].grad.isfinite().all()
    network.eval()
    with torch.no_grad():
        wanted = network(*inputs)
        one = network(*(x[:1] for x in inputs))
        fused = fuse(copy.deepcopy(network))(*inputs)
        half = copy.deepcopy(network).bfloat16()(*(x.bfloat16() for x in inputs)).float()
    scale = wanted.abs().max()
    assert torch.allclose(one, wanted[:1], atol=1e-5 * float(scale), rtol=1e-4)
    assert torch.allclose(fused, wanted, atol=1e-4 * float(scale), rtol=1e-3)
    assert half.isfinite().all()
    assert (half - wanted).abs().mean() < 0.1 * wanted.abs().mean() + 0.02 * scale


@pack_modules
def test_one_channel_works_or_is_refused_with_the_reason(name, tmp_path):
    file, sources = write_network(name, tmp_path, channels=1)
    try:
        network, refused = build(file).eval(), ""
    except NetbuildError as error:  # of the module, at its row
        network, refused = None, str(error)
    assert network or re.search(r"channels|groups|heads|width", refused), refused
    assert not network or network(*make_inputs(sources)).isfinite().all()


@pack_modules
def test_the_docstring_names_shapes_and_paper(name):
    cls = MODULES.find(name)
    assert re.search(r"arXiv \d{4}\.\d{4,5}|doi 10\.\d+|CVPR|ICML|ICLR|ECCV|YOLO|kindle|PP-LCNet|paper", cls.__doc__), (
        name
    )
    assert re.search(r"\(B, ", cls.__doc__), name
    parameters = inspect.signature(cls).parameters.values()
    assert all(p.annotation is not p.empty and not isinstance(p.annotation, str) for p in parameters)


@pytest.mark.slow
@pack_modules
def test_the_module_compiles_and_its_onnx_file_is_proven(name, tmp_path):
    file, sources = write_network(name, tmp_path)
    network = randomise(build(file)).eval()
    inputs = make_inputs(sources)
    torch.compiler.reset()  # each module is one more graph of the same code, and torch bounds their number
    with torch.no_grad():
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(*inputs)
        assert torch.allclose(compiled, network(*inputs), atol=1e-4, rtol=1e-3)
    if name in NO_ONNX:
        with pytest.raises(NetbuildError, match=NO_ONNX[name]):
            export(network, tmp_path / "net.onnx")
    else:
        assert export(network, tmp_path / "net.onnx").proven


@pytest.mark.slow
@pack_modules
def test_the_module_is_written_as_one_file_of_equal_outputs(name, tmp_path):
    file, _ = write_network(name, tmp_path)
    assert eject(file, tmp_path / "net.py")  # which compares them
