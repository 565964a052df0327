"""Heads beyond plain detection: their outputs in training and in eval, and what these mean."""

import math
from copy import deepcopy

import pytest
import torch

import netbuild.layers as L
from netbuild.costs.outputs import shape_of, tensors_of
from netbuild.layers.fuse import fuse
from netbuild.layers.heads.denoise import add_noise
from netbuild.layers.heads.pose import RealNVP
from netbuild.layers.heads.rtdetr import MSDeformAttn, logit

CH, STRIDES, CELLS = [16, 32], [8.0, 16.0], 8 * 4 + 4 * 2
FEATS = [torch.linspace(-2, 2, 1024).sin().view(2, 16, 8, 4), torch.linspace(-3, 2, 512).cos().view(2, 32, 4, 2)]
LEVELS = {"ch": CH, "stride": STRIDES}
# head, what its raw outputs have beside boxes, scores and feats, and how many channels follow box and classes
KINDS = {
    "Segment": (lambda **o: L.Segment(3, 5, 8, **LEVELS, **o), {"mask_coefficient", "proto"}, 5),
    "Segment26": (lambda **o: L.Segment26(3, 5, 8, **LEVELS, **o), {"mask_coefficient", "proto"}, 5),
    "Pose": (lambda **o: L.Pose(3, (4, 3), **LEVELS, **o), {"kpts"}, 12),
    "Pose-2": (lambda **o: L.Pose(3, (4, 2), **LEVELS, **o), {"kpts"}, 8),
    "Pose26": (lambda **o: L.Pose26(3, (4, 3), **LEVELS, **o), {"kpts", "kpts_sigma"}, 12),
    "OBB": (lambda **o: L.OBB(3, **LEVELS, **o), {"angle"}, 1),
    "OBB26": (lambda **o: L.OBB26(3, **LEVELS, **o), {"angle"}, 1),
}


def first_tensor(value):
    return next(tensors_of(value))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end2end", [False, True])
def test_kinds_of_detection(kind, end2end):
    make, extra, channels = KINDS[kind]
    head = make(end2end=end2end, reg_max=4)
    feats = [f.clone().requires_grad_() for f in FEATS]
    raw = head(feats)
    branches = raw.values() if end2end else [raw]
    assert all(set(branch) == {"boxes", "scores", "feats", *extra} for branch in branches)
    learnt = [t for t in tensors_of(raw) if t.requires_grad and not any(t is f for f in feats)]
    sum(t.square().sum() for t in learnt).backward()
    still = [n for n, p in head.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith("flow_model.") for name in still)
    head.eval()
    with torch.no_grad():
        assert first_tensor(head(FEATS)).shape == (2, 4 + 3 + channels, CELLS)
        if end2end:
            head.end2end = True
            assert first_tensor(head(FEATS)).shape == (2, CELLS, 6 + channels)
        before = first_tensor(head(FEATS))
        head.fuse()
        torch.testing.assert_close(first_tensor(head(FEATS)), before)


def test_the_second_branch_has_no_gradient_to_maps_and_prototypes():
    head = L.Segment26(3, 5, 8, end2end=True, **LEVELS)
    feats = [f.clone().requires_grad_() for f in FEATS]
    one = head(feats)["one2one"]
    masks, semantic = one["proto"]
    assert not masks.requires_grad
    assert not semantic.requires_grad
    sum(one[key].sum() for key in ("boxes", "scores", "mask_coefficient")).backward()
    assert all(f.grad is None for f in feats)


def test_a_box_without_rotation_equals_a_plain_one():
    head = L.OBB(3, **LEVELS).eval()
    plain = L.Detect(3, CH, stride=STRIDES).eval()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith("cv4")})
    for branch in head.cv4:
        torch.nn.init.zeros_(branch[-1].weight)
        torch.nn.init.constant_(branch[-1].bias, -math.log(3))  # sigmoid 1/4: no angle
    with torch.no_grad():
        torch.testing.assert_close(head(FEATS)[0][:, :7], plain(FEATS)[0])
        for branch in head.cv4:
            torch.nn.init.constant_(branch[-1].bias, math.log(3))  # 3/4: a right angle
        turned, straight = head(FEATS)[0], plain(FEATS)[0]
    offset = straight[:, :2] - head.cells({"feats": FEATS})[0] * head.cells({"feats": FEATS})[1]
    quarter = torch.stack((-offset[:, 1], offset[:, 0]), 1)
    moved = turned[:, :2] - head.cells({"feats": FEATS})[0] * head.cells({"feats": FEATS})[1]
    torch.testing.assert_close(moved, quarter, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned[:, 7], torch.full_like(turned[:, 7], math.pi / 2))


@pytest.mark.slow
def test_a_flow_is_a_density():
    flow = RealNVP().double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, 0, 0.15)
    side = torch.linspace(-12, 12, 481, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = flow.float().log_prob(points).double().exp().sum() * (side[1] - side[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=0.01)


def test_pixels():
    depth, classes = L.Depth(8, ch=CH), L.SemanticSegment(5, CH)
    assert shape_of(depth(FEATS)) == {"depth": [2, 1, 16, 8]}
    assert shape_of(classes(FEATS)) == [[2, 5, 8, 4], [2, 5, 4, 2]]
    depth.eval(), classes.eval()
    with torch.no_grad():
        plain = depth(FEATS)
        depth.cal_b.fill_(math.log(2))
        torch.testing.assert_close(depth(FEATS), 2 * plain)
        before = classes(FEATS)
        classes.fuse()
        assert torch.equal(classes(FEATS), before)


@pytest.mark.parametrize("with_bn", [False, True])
def test_the_number_of_classes_is_that_of_texts(with_bn):
    head = L.WorldDetect(3, 24, with_bn, **LEVELS).eval()
    text = torch.randn(2, 7, 24)
    with torch.no_grad():
        y, _ = head(FEATS, text)
        assert y.shape == (2, 4 + 7, CELLS)
        torch.testing.assert_close(head(FEATS, text.flip(1))[0][:, 4:], y[:, 4:].flip(1))
        torch.testing.assert_close(head(FEATS, 3 * text)[0], y)  # only the direction of a text counts


def test_prompts_of_texts_and_of_examples():
    feats = [*FEATS, torch.rand(2, 48, 2, 1)]
    head = L.YOLOESegment(3, 4, 8, 64, ch=[16, 32, 48], stride=[8.0, 16.0, 32.0]).eval()
    text = torch.randn(2, 5, 64)
    masks = torch.zeros(2, 2, 8, 4)
    masks[:, 0, :4], masks[:, 1, 4:] = 1, 1
    with torch.no_grad():
        torch.testing.assert_close(head.text_prompts(text), torch.nn.functional.normalize(text, dim=-1))  # untrained
        prompts = head.visual_prompts(feats, masks)
        assert prompts.shape == (2, 2, 64)
        torch.testing.assert_close(prompts.norm(dim=-1), torch.ones(2, 2))
        elsewhere = [feats[0].clone(), *feats[1:]]
        elsewhere[0][:, :, 6:] += 1  # far from the first example, which ends at row 4
        changed = head.visual_prompts(elsewhere, masks)
        assert not torch.allclose(changed[:, 1], prompts[:, 1])
        (y, proto), _ = head(feats, prompts)
        assert y.shape == (2, 4 + 2 + 4, CELLS + 2)
        assert proto.shape == (2, 4, 16, 8)
    with pytest.raises(ValueError, match="embed at least"):
        L.YOLOEDetect(3, 8, **LEVELS)


@pytest.fixture(scope="module")
def prompted():
    """A head as after training, its maps and the prompts of seven texts."""
    torch.manual_seed(0)
    head = L.YOLOESegment(3, 4, 8, 24, ch=CH, stride=STRIDES, end2end=True).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.normal_(module.weight)
    return head, torch.nn.functional.normalize(torch.randn(7, 24), dim=-1)


@pytest.mark.parametrize("end2end", [False, True])
@pytest.mark.parametrize("fused_first", [False, True])
def test_merged_texts_replace_prompts(prompted, end2end, fused_first):
    head, prompts = deepcopy(prompted[0]), prompted[1]
    head.end2end = end2end
    with torch.no_grad(), pytest.raises(ValueError, match="needs prompts"):
        head(FEATS)
    with torch.no_grad():
        before = first_tensor(head(FEATS, prompts.expand(2, -1, -1)))
        if fused_first:
            head.fuse()
            torch.testing.assert_close(
                first_tensor(head(FEATS, prompts.expand(2, -1, -1))), before, rtol=1e-4, atol=1e-4
            )
        head.fuse_text(prompts)
        torch.testing.assert_close(first_tensor(head(FEATS)), before, rtol=1e-4, atol=1e-4)
    assert not any(name.startswith(("cv4", "one2one_cv4", "reprta")) for name in head.state_dict())


@pytest.mark.parametrize("end2end", [False, True])
def test_only_cells_that_pass_the_filter_are_classified(prompted, end2end):
    head, prompts = deepcopy(prompted[0]), prompted[1]
    head.end2end = end2end
    with torch.no_grad():
        every = first_tensor(head(FEATS, prompts.expand(2, -1, -1)))
        head.drop_prompts(prompts, [torch.nn.Conv2d(16, 1, 1) for _ in CH])
        head.conf = 0
        torch.testing.assert_close(first_tensor(head(FEATS)), every, rtol=1e-4, atol=1e-4)
        # The first map's filter keeps what is above the median of the first image; the second image rejects some of it.
        prefix = "one2one_" if end2end else ""
        lrpc, inner = getattr(head, f"{prefix}lrpc"), getattr(head, f"{prefix}cv3")
        found = [h.pf(branch(f))[:, 0].flatten(1).sigmoid() for h, branch, f in zip(lrpc, inner, FEATS)]
        head.conf = found[0].median().item()
        y, raw = head(FEATS)
        wanted = torch.cat([f > head.conf for f in found], 1)
        kept = wanted.any(0)
        assert 0 < kept.sum() < CELLS
        assert (raw["one2one" if end2end else "one2many"]["selected"] == kept).all()
        if not end2end:
            scores = every[:, 4:11] * wanted[:, None]
            expected = torch.cat((every[:, :4], scores, every[:, 11:]), 1)[:, :, kept]
            torch.testing.assert_close(y[0], expected, rtol=1e-4, atol=1e-4)
    head = L.YOLOEDetect(3, 24, ch=[16, 16, 16], stride=[8.0, 16.0, 32.0])
    head.drop_prompts(prompts, [torch.nn.Conv2d(16, 1, 1) for _ in range(3)])
    assert [type(lrpc.vocab).__name__ for lrpc in head.lrpc] == ["Linear", "Linear", "Conv2d"]
    maps = [torch.randn(1, 16, side, side) for side in (8, 4, 2)]
    with torch.no_grad():
        raw = head.eval()(maps)[1]
    assert raw["selected"][-4:].all()  # the coarsest map is never filtered


def test_norms_before_comparisons_and_decoder_are_merged():
    text = torch.randn(2, 5, 24)
    heads = [
        (L.WorldDetect(3, 24, True, **LEVELS), (FEATS, text)),
        (L.WorldDetect(3, 24, False, **LEVELS), (FEATS, text)),
        (L.RTDETRDecoder(3, CH, hd=16, nq=CELLS, nh=2, ndl=2, d_ffn=32), (FEATS,)),
    ]
    for head, inputs in heads:
        for module in head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
                torch.nn.init.normal_(module.running_mean)
        with torch.no_grad():
            before = first_tensor(head.eval()(*inputs))
            fuse(head)
            torch.testing.assert_close(first_tensor(head(*inputs)), before, rtol=1e-4, atol=1e-4)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in head.modules())


def test_guided_blocks():
    x, text = torch.randn(2, 8, 6, 4), torch.randn(2, 3, 16)
    block = L.C2fAttn(8, 12, 2, 6, 2, 16)
    assert block(x, text).shape == (2, 12, 6, 4)
    torch.testing.assert_close(block.eval()(x, text), block(x, text.flip(1)))  # the best text counts, in any order
    pooling = L.ImagePoolingAttn(16, ch=CH, ct=24, nh=4)
    assert pooling(FEATS, torch.randn(2, 3, 24)).shape == (2, 3, 24)
    still = L.ImagePoolingAttn(16, ch=CH, ct=24, nh=4, scale=True)
    features = torch.randn(2, 3, 24)
    assert torch.equal(still(FEATS, features), features)  # a learnt scale begins at nothing
    with pytest.raises(ValueError, match="must be multiples of the number of heads"):
        L.MaxSigmoidAttnBlock(8, 9, 2, 6)


def test_the_decoder_returns_every_layer_in_training_and_one_in_eval():
    head = L.RTDETRDecoder(3, CH, hd=16, nq=20, nh=2, ndl=3, d_ffn=32)
    boxes, scores, enc_boxes, enc_scores, extra, proposals = head(FEATS)
    assert [list(t.shape) for t in (boxes, scores)] == [[3, 2, 20, 4], [3, 2, 20, 3]]
    assert [list(t.shape) for t in (enc_boxes, enc_scores)] == [[2, 20, 4], [2, 20, 3]]
    assert extra is proposals is None
    sum(t.square().sum() for t in (boxes, scores, enc_boxes, enc_scores)).backward()
    still = {name.split(".")[0] for name, p in head.named_parameters() if p.grad is None}
    assert still == {"denoising_class_embed"}  # which only noised boxes use
    head.eval()
    with torch.no_grad():
        y, raw = head(FEATS)
    assert y.shape == (2, 20, 6)
    assert (y[:, :-1, 4] >= y[:, 1:, 4]).all()
    assert ((y[..., :4] >= 0) & (y[..., :4] <= 1)).all()
    assert raw[0].shape == (1, 2, 20, 4)
    assert L.RTDETRDecoder(3, CH, hd=16, nq=20, nh=2, ndl=1, learnt_init_query=True)(FEATS)[0].shape == (1, 2, 20, 4)


OBJECTS = {  # three in the first image, none in the second, one in the third
    "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.2], [0.6, 0.6, 0.3, 0.1], [0.5, 0.2, 0.1, 0.3], [0.7, 0.3, 0.2, 0.4]]),
    "classes": torch.tensor([2, 0, 1, 1]),
    "index": torch.tensor([0, 0, 0, 2]),
}


def test_denoising_queries():
    torch.manual_seed(0)
    clean = add_noise(OBJECTS, 3, 20, nc=3, limit=10, label_noise=0, box_noise=0)
    assert clean.groups == 3  # of ten, three objects each
    assert clean.boxes.shape == (3, 18, 4)
    torch.testing.assert_close(clean.boxes[clean.image, clean.slot].sigmoid(), OBJECTS["boxes"][clean.target])
    assert (clean.classes[clean.image, clean.slot] == OBJECTS["classes"][clean.target]).all()
    assert (clean.image == OBJECTS["index"][clean.target]).all()
    assert sorted(clean.slot[clean.image == 0].tolist()) == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert clean.slot[clean.image == 2].tolist() == [0, 6, 12]
    empty = clean.classes < 0
    assert empty.sum(1).tolist() == [0, 18, 12]
    assert (clean.boxes[empty] == 0).all()

    noisy = add_noise(OBJECTS, 3, 20, nc=3, limit=3000, label_noise=0.5, box_noise=1.0)
    corners = cxcywh_to_corners(noisy.boxes.double().sigmoid()[0].view(-1, 2, 3, 4))  # (groups, kind, object, 4)
    truth, half = cxcywh_to_corners(OBJECTS["boxes"][:3]), OBJECTS["boxes"][:3, 2:].repeat(1, 2) / 2
    inside = (
        (corners > 1e-4).all(-1) & (corners < 1 - 1e-4).all(-1) & (corners[..., 2:] - corners[..., :2] > 1e-4).all(-1)
    )
    shift = (corners - truth).abs() / half
    near, far = shift[:, 0][inside[:, 0]], shift[:, 1][inside[:, 1]]
    assert near.max() < 1 + 1e-3
    assert near.mean() == pytest.approx(0.5, abs=0.02)
    assert far.min() > 1 - 1e-3
    assert far.max() < 2 + 1e-3
    wrong = noisy.classes[0].view(-1, 3) != OBJECTS["classes"][:3]
    assert wrong.double().mean() == pytest.approx(0.25 * 2 / 3, abs=0.02)  # a third of those drawn anew are right

    many = {"boxes": torch.rand(9, 4), "classes": torch.zeros(9), "index": torch.zeros(9)}
    few = add_noise(many, 1, 20, nc=3, limit=4, label_noise=0, box_noise=0)
    assert few.groups == 1
    assert len(set(few.target.tolist())) == 4  # four of the nine, each once
    nothing = {key: value[:0] for key, value in OBJECTS.items()}
    assert add_noise(nothing, 3, 20, nc=3, limit=10, label_noise=0, box_noise=0) is None


def cxcywh_to_corners(boxes):
    centre, size = boxes.split(2, -1)
    return torch.cat((centre - size / 2, centre + size / 2), -1)


def test_denoising_queries_are_hidden_from_the_others():
    torch.manual_seed(0)
    head = L.RTDETRDecoder(3, CH, hd=16, nq=20, nh=2, ndl=3, d_ffn=32, nd=10)
    feats = [f[:1].expand(3, -1, -1, -1) for f in FEATS]
    head.eval()
    for layer in head.decoder.layers:
        layer.cross_attn.sampling_offsets.weight.data.normal_(0, 0.1)
    head.training = head.decoder.training = True  # norms as in eval, so that two passes can be compared
    plain, (boxes, scores, _, _, noise, _) = head(feats), head(feats, OBJECTS)
    assert boxes.shape == (3, 3, 18 + 20, 4)
    torch.testing.assert_close(boxes[:, :, 18:], plain[0])
    torch.testing.assert_close(scores[:, :, 18:], plain[1])
    assert noise.mask[18:, :18].all()
    assert not noise.mask[:, 18:].any()
    groups = torch.block_diag(*[torch.ones(6, 6)] * 3).bool()
    assert (noise.mask[:18, :18] == ~groups).all()
    (boxes[:, noise.image, noise.slot].sum() + scores[:, noise.image, noise.slot].sum()).backward()
    assert head.denoising_class_embed.weight.grad.abs().sum() > 0
    assert head.eval()(feats, OBJECTS)[1][-1] is None


def test_deformable_attention_starts_with_all_directions():
    attention = MSDeformAttn(8, 1, 4, 2)
    for p in (attention.value_proj, attention.output_proj):
        torch.nn.init.eye_(p.weight)
    ramp = torch.linspace(0, 1, 9).expand(9, 9)  # its value is the place from left to right
    value = ramp.reshape(1, 81, 1).expand(1, 81, 8)
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.4]]])
    with torch.no_grad():
        out = attention(torch.zeros(1, 1, 8), box, value, [(9, 9)])[0, 0].view(4, 2).mean(1)
    right, down, left, up = out.tolist()
    assert right > 0.55
    assert left < 0.45
    assert down == pytest.approx(0.5, abs=1e-5)
    assert up == pytest.approx(0.5, abs=1e-5)
    assert logit(torch.tensor([0.0, 0.5, 1.0])).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *[(lambda shape=shape: L.Pose(3, shape, **LEVELS), "kpt_shape is") for shape in ([17], [17, 5], 17, [0, 3])],
        *[
            (lambda wrong=wrong: L.RTDETRDecoder(3, CH, hd=16, nh=2, **wrong), "must be at least 1")
            for wrong in ({"nq": 0}, {"ndp": 0}, {"ndl": 0}, {"ndl": 2, "eval_idx": 2})
        ],
        (lambda: L.RTDETRDecoder(3, CH, hd=30), r"30 channels \(hd\) a multiple of the number of heads, 8"),
        (lambda: L.ImagePoolingAttn(100, ch=CH), "100 dimensions must be a multiple of the number of heads, 8"),
        (lambda: L.C2fAttn(8, 8, ec=4, nh=0), "number of heads, 0"),
        (lambda: L.WorldDetect(3, 24, **LEVELS)(FEATS, torch.randn(2, 5, 16)), r"shape \(B, K, 24\), not"),
        (lambda: L.WorldDetect(3, 24, **LEVELS)(FEATS, torch.randn(5, 24)), r"not \[5, 24\]"),
    ],
)
def test_wrong_arguments_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("levels", [2, 4])
def test_examples_are_seen_on_any_number_of_maps(levels):
    head = L.YOLOEDetect(3, 32, ch=[16] * levels, stride=[8.0 * 2**i for i in range(levels)]).eval()
    maps = [torch.randn(1, 16, 16 >> i, 16 >> i) for i in range(levels)]
    with torch.no_grad():
        assert head.visual_prompts(maps, torch.ones(1, 2, 16, 16)).shape == (1, 2, 32)
