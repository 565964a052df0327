"""Options of the pack's attention modules, besides the defaults that test_pack.py covers, and what they refuse."""

import pytest
import torch

from netbuild.modules.registry import MODULES

SIZE = (13, 18)


def make(call: str) -> torch.nn.Module:
    name, _, arguments = call.partition("(")
    return eval(f"module({arguments}", {"module": MODULES.find(name)}).eval()


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        ("ACmix(64, 7, 4, 3, 2)", (64, 7, 9)),
        ("ACmix(64, 3, 4, 5, 1, 2)", (64, *SIZE)),
        ("BiLevelRoutingAttention(64, 5, 4, 32, 3, 0)", (64, *SIZE)),
        ("ChannelAttention_HSFPN(64, 4, False)", (64, 1, 1)),
        ("DAttention(64, None, 8, 4, 2, 0)", (64, *SIZE)),
        ("DAttention(64, use_pe=False)", (64, *SIZE)),
        ("DAttention(64, (13, 18), stride=2, dwc_pe=False)", (64, *SIZE)),
        ("DoubleAttention(64, 32, 16, False)", (32, *SIZE)),
        ("EfficientAttention(64, 8, [8, 0])", (64, *SIZE)),
        ("EfficientAttention(64, 8, [2, 2, 4], [3, 5], 16)", (64, *SIZE)),
        ("EffectiveSEModule(64, True)", (64, *SIZE)),
        ("ELA(64, 5, True)", (64, *SIZE)),
        ("GAMAttention(64, 64, False)", (64, *SIZE)),
        ("GatherExcite(64, extent=4)", (64, *SIZE)),
        ("GatherExcite(64, 13, True)", (64, *SIZE)),
        ("GatherExcite(64, use_mlp=False)", (64, *SIZE)),
        ("GlobalContext(64, False, True, True)", (64, *SIZE)),
        ("LocalWindowAttention(64, 8, 2, 14, 5, [3, 7])", (64, *SIZE)),
        ("MHSA(64, 13, 18, 4, True)", (64, *SIZE)),
        ("MobileViTAttention(64, 32, 3, 2, 1, 64)", (64, *SIZE)),
        ("MultiDilatelocalAttention(64, 8, True, 3, [1, 2, 3, 4])", (64, *SIZE)),
        ("MultiSEAM(64, 64, 2, 5, [2, 4])", (64, *SIZE)),
        ("ResBlock_CBAM(64, 32, 2, True)", (128, 7, 9)),
        ("SKAttention(64, [3, 5], 8, 2, 16)", (64, *SIZE)),
        ("TripletAttention(True)", (64, *SIZE)),
    ],
)
def test_an_option_gives_a_map_of_the_right_shape(call, shape):
    output = make(call)(torch.randn(2, 64, *SIZE))
    assert output.shape == (2, *shape)
    assert output.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ACmix(64, 27)", "height and width must be above 13"),
        ("BiLevelRoutingAttention(64, auto_pad=False)", "multiples of n_win = 7: 13 x 18"),
        ("BiLevelRoutingAttention(64, 1)", "topk must be at most"),
        ("CA(64, 32)", "input and output channels must be equal: 64 and 32"),
        ("CascadedGroupAttention(64)", "7 x 7 positions: 13 x 18"),
        ("DAttention(64, dwc_pe=False)", "needs q_size"),
        ("ECAAttention(64, 4)", "must be odd: 4"),
        ("EfficientAttention(64, 8, [4, 2])", "must sum to 8 heads"),
        ("GAMAttention(72, 72)", "must be a multiple of 4: 18"),
        ("GatherExcite(64, extra_params=True)", "needs feat_size"),
        ("GatherExcite(64, extra_params=True, extent=3)", "power of 2"),
        ("LocalWindowAttention(64, num_heads=8)", "each of the 8 heads needs a kernel"),
        ("LSKA(64, 9)", "must be one of 7, 11"),
        ("MHSA(64, pos_emb=True)", "14 x 14 positions"),
        ("MultiDilatelocalAttention(64, dilation=[1, 2, 3])", "the number of heads.*multiple of 3: 8"),
        ("MultiSEAM(64, 64, 1, 3, [15])", "at least the patch of 15"),
        ("ResBlock_CBAM(64, 32)", "64 channels to 128"),
        ("ScConv(64, gate_treshold=1)", "between 0 and 1"),
        ("SEAttention(64, 100)", "at least the reduction of 100: 64"),
        ("SpatialGroupEnhance(5)", "multiple of 5: 64"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        make(call)(torch.randn(2, 64, *SIZE))


def test_second_order_attention_reads_the_middle_of_a_long_map():
    module = make("SOCA(8)")
    x = torch.randn(1, 8, 2, 1004)
    gate = (module(x) / x)[0, :, 0, 500]
    outside = torch.cat((x[..., :2] + 3, x[..., 2:-2], x[..., -2:] * 5), 3)
    assert torch.allclose((module(outside) / outside)[0, :, 0, 500], gate, atol=1e-5)
