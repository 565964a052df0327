"""A transformer decoder that detects without suppression. RT-DETR, arXiv 2304.08069."""

import itertools
from copy import deepcopy
from math import log, pi
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.heads.base import Head
from netbuild.layers.heads.denoise import NoisyQueries, add_noise
from netbuild.roles import In


class MLP(nn.Module):
    """n linear layers with an activation between them: (..., c1) -> (..., c2)."""

    def __init__(self, c1: int, hidden: int, c2: int, n: int):
        super().__init__()
        widths = [c1, *[hidden] * (n - 1), c2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.act = nn.ReLU()
        self.out_norm = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *inner, last = self.layers
        for layer in inner:
            x = self.act(layer(x))
        return self.out_norm(last(x))


class MSDeformAttn(nn.Module):
    """Attention to a few positions of each map that the queries predict. Deformable DETR, arXiv 2010.04159.

    Queries (B, Q, d), boxes (B, Q, 4) as centre and size in 0..1, maps as tokens (B, N, d) of the shapes [(h, w), ...]
    -> (B, Q, d).

    Raises:
        ValueError: unless d is a multiple of n_heads.
    """

    def __init__(self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"{d_model} channels must be a multiple of the number of heads, {n_heads}")
        self.grid = (n_heads, n_levels, n_points)
        count = n_heads * n_levels * n_points
        self.sampling_offsets = nn.Linear(d_model, count * 2)
        self.attention_weights = nn.Linear(d_model, count)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Let each head start with a direction of its own, each of its points one step farther out."""
        heads, levels, points = self.grid
        angle = torch.arange(heads, dtype=torch.float32) * (2 * pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float32)
        bias = direction[:, None, None] * steps[:, None]
        self.sampling_offsets.bias.copy_(bias.expand(heads, levels, points, 2).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: torch.Tensor, boxes: torch.Tensor, value: torch.Tensor, shapes: list[tuple[int, int]]
    ) -> torch.Tensor:
        heads, levels, points = self.grid
        b, q, _ = query.shape
        offsets = self.sampling_offsets(query).view(b, q, heads, levels, points, 2)
        weights = self.attention_weights(query).view(b, q, heads, levels * points).softmax(-1)
        centre, size = boxes[:, :, None, None, None, :2], boxes[:, :, None, None, None, 2:]
        positions = 2 * (centre + offsets / points * size * 0.5) - 1
        maps = self.value_proj(value).view(b, -1, heads, query.shape[-1] // heads)
        if self.training and value.device.type in ("cpu", "meta"):  # on meta the costs of a CPU are counted
            return self.output_proj(gather_maps(maps, shapes, positions, weights))
        sampled = sample_maps(maps, shapes, positions)  # (B, heads, d / heads, Q, levels * points)
        mixed = (sampled * weights.transpose(1, 2)[:, :, None]).sum(-1)
        return self.output_proj(mixed.flatten(1, 2).transpose(1, 2))


def sample_maps(maps: torch.Tensor, shapes: list[tuple[int, int]], positions: torch.Tensor) -> torch.Tensor:
    """Interpolate tokens (B, N, m, d) at positions (B, Q, m, L, P, 2) in -1..1 -> (B, m, d, Q, L*P)."""
    b, _, m, d = maps.shape
    values = []
    for level, ((h, w), tokens) in enumerate(zip(shapes, maps.split([h * w for h, w in shapes], 1), strict=True)):
        image = tokens.permute(0, 2, 3, 1).reshape(b * m, d, h, w)
        grid = positions[:, :, :, level].transpose(1, 2).flatten(0, 1)
        values.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    return torch.cat(values, -1).view(b, m, d, positions.shape[1], -1)


def gather_maps(
    maps: torch.Tensor, shapes: list[tuple[int, int]], positions: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Interpolate tokens as `sample_maps` does and sum them by weights (B, Q, m, L*P): (B, Q, m*d).

    One weighted sum of rows does what is otherwise an interpolation, a product and a sum, with the largest tensors of
    training between them. On a CPU, forward and backward take three quarters of the time; exporters know only the
    other form.
    """
    b, n, m, d = maps.shape
    q, levels = positions.shape[1], len(shapes)
    h, w = (positions.new_tensor(sides)[:, None] for sides in zip(*shapes, strict=True))  # (L, 1)
    starts = torch.tensor([0, *itertools.accumulate(a * b for a, b in shapes[:-1])], device=maps.device)
    image = torch.arange(b, device=maps.device).view(b, 1, 1, 1, 1)
    first = (image * n + starts[:, None]) * m + torch.arange(m, device=maps.device).view(m, 1, 1)
    # Coordinates in cells, x and y apart: what follows reads them many times, and only whole blocks are read quickly.
    x, y = ((p + 1) / 2 * side - 0.5 for p, side in zip(positions.unbind(-1), (w, h), strict=True))
    left, top = x.detach().floor(), y.detach().floor()
    lower, right = y - top, x - left
    weights = weights.view(b, q, m, levels, -1)
    below = lower * weights
    above = weights - below
    factors = (above - above * right, above * right, below - below * right, below * right)
    rows, inside = [], []
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        cell = row.clamp(min=0).minimum(h - 1) * w + column.clamp(min=0).minimum(w - 1)
        rows.append(first + cell.long() * m)
        inside.append((row >= 0) & (row < h) & (column >= 0) & (column < w))
    factor = torch.cat(factors, -1) * torch.cat(inside, -1)
    index, factor = (part.view(b * q * m, -1) for part in (torch.cat(rows, -1), factor.to(maps.dtype)))
    summed = F.embedding_bag(index, maps.reshape(-1, d), per_sample_weights=factor, mode="sum")
    return summed.view(b, q, m * d)


class DeformableTransformerDecoderLayer(nn.Module):
    """Self-attention of queries (B, Q, d), deformable attention to maps, two linear layers; a norm after each."""

    def __init__(
        self,
        d_model: int = 256,
        n_heads: int = 8,
        d_ffn: int = 1024,
        dropout: float = 0.0,
        act: Act = None,
        n_levels: int = 4,
        n_points: int = 4,
    ):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.cross_attn = MSDeformAttn(d_model, n_levels, n_heads, n_points)
        self.dropout2 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(d_model)
        self.linear1 = nn.Linear(d_model, d_ffn)
        self.act = nn.ReLU() if act is None else resolve_activation(act)
        self.dropout3 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(d_ffn, d_model)
        self.dropout4 = nn.Dropout(dropout)
        self.norm3 = nn.LayerNorm(d_model)

    def forward(
        self,
        x: torch.Tensor,
        boxes: torch.Tensor,
        value: torch.Tensor,
        shapes: list[tuple[int, int]],
        pos: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        q = (x + pos).transpose(0, 1)
        attended = self.self_attn(q, q, x.transpose(0, 1), attn_mask=mask, need_weights=False)[0].transpose(0, 1)
        x = self.norm1(x + self.dropout1(attended))
        x = self.norm2(x + self.dropout2(self.cross_attn(x + pos, boxes, value, shapes)))
        return self.norm3(x + self.dropout4(self.linear2(self.dropout3(self.act(self.linear1(x))))))


class DeformableTransformerDecoder(nn.Module):
    """A list of equal layers; the head runs them and refines the boxes after each."""

    def __init__(self, layer: nn.Module, n: int):
        super().__init__()
        self.layers = nn.ModuleList(deepcopy(layer) for _ in range(n))


def logit(x: torch.Tensor) -> torch.Tensor:
    """Invert sigmoid, with finite values at 0 and 1."""
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


class Proposals(NamedTuple):
    """Boxes and classes that the encoder predicts at all of its N positions.

    Attributes:
        boxes: (B, N, 4) as centre and size in 0..1.
        scores: (B, N, nc) class logits.
        points: (N, 2) x and y of the positions in 0..1.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    points: torch.Tensor


class RTDETRDecoder(Head):
    """At most nq objects from maps (B, ch[i], H_i, W_i), finest first, by ndl decoder layers; needs no suppression.

    Training: (boxes (ndl, B, Q, 4) as centre and size in 0..1, class logits (ndl, B, Q, nc), boxes (B, Q, 4) and logits
    (B, Q, nc) of the query selection, None, None). With `targets`, "boxes" (M, 4) as centre and size in 0..1, "classes"
    (M,) and "index" (M,), the image of each, denoising queries come first among the queries, `NoisyQueries` takes the
    place of the first None unless there are no objects, and `Proposals` that of the second. Eval: (y, the first five
    outputs of training with the layer `eval_idx` alone); y is (B, Q, 6): box, score, class.

    Raises:
        ValueError: for arguments that do not fit together.
    """

    task = "detect"
    learns = "queries"
    box_form = "parts"
    returns_raw = True
    fitting = "stretch"  # its boxes are fractions of the image, and the published networks saw pictures so

    def __init__(
        self,
        nc: int,
        ch: Annotated[list[int], In],
        hd: int = 256,
        nq: int = 300,
        ndp: int = 4,
        nh: int = 8,
        ndl: int = 6,
        d_ffn: int = 1024,
        dropout: float = 0.0,
        act: Act = None,
        eval_idx: int = -1,
        nd: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        learnt_init_query: bool = False,
    ):
        super().__init__()
        if min(nq, ndp, nh, ndl) < 1 or hd % nh or not -ndl <= eval_idx < ndl:
            raise ValueError(
                f"nq, ndp, nh and ndl must be at least 1, {hd} channels (hd) a multiple of the number of heads, {nh},"
                f" and eval_idx {eval_idx} the index of one of {ndl} layers"
            )
        self.nc, self.nq, self.eval_idx = nc, nq, eval_idx
        self.nd, self.label_noise_ratio, self.box_noise_scale = nd, label_noise_ratio, box_noise_scale
        self.input_proj = nn.ModuleList(nn.Sequential(nn.Conv2d(c, hd, 1, bias=False), nn.BatchNorm2d(hd)) for c in ch)
        layer = DeformableTransformerDecoderLayer(hd, nh, d_ffn, dropout, act, len(ch), ndp)
        self.decoder = DeformableTransformerDecoder(layer, ndl)
        self.denoising_class_embed = nn.Embedding(nc, hd)
        self.tgt_embed = nn.Embedding(nq, hd) if learnt_init_query else None
        self.query_pos_head = MLP(4, 2 * hd, hd, 2)
        self.enc_output = nn.Sequential(nn.Linear(hd, hd), nn.LayerNorm(hd))
        self.enc_score_head = nn.Linear(hd, nc)
        self.enc_bbox_head = MLP(hd, hd, 4, 3)
        self.dec_score_head = nn.ModuleList(nn.Linear(hd, nc) for _ in range(ndl))
        self.dec_bbox_head = nn.ModuleList(MLP(hd, hd, 4, 3) for _ in range(ndl))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start from low scores, and from boxes where the queries are."""
        for score, box in [(self.enc_score_head, self.enc_bbox_head), *zip(self.dec_score_head, self.dec_bbox_head)]:
            score.bias.fill_(-log(99))  # a probability of 1 %, however many classes there are
            nn.init.zeros_(box.layers[-1].weight)
            nn.init.zeros_(box.layers[-1].bias)
        for layer in (self.enc_output[0], *self.query_pos_head.layers, *(proj[0] for proj in self.input_proj)):
            nn.init.xavier_uniform_(layer.weight)
        if self.tgt_embed is not None:
            nn.init.xavier_uniform_(self.tgt_embed.weight)

    def forward(self, feats: list[torch.Tensor], targets: dict[str, torch.Tensor] | None = None) -> Any:
        maps = [proj(feat) for proj, feat in zip(self.input_proj, feats, strict=True)]
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        queries, boxes, enc_boxes, enc_scores, proposals = self.select(tokens, shapes, targets is not None)
        noise = self.make_noise(targets, tokens.shape[0], queries.shape[1])
        if noise:
            queries = torch.cat((self.embed_classes(noise), queries), 1)
            boxes = torch.cat((noise.boxes.to(boxes.dtype), boxes), 1)
        elif self.training and targets is not None:
            # Every process of a run must have gradients for the same weights, also one whose batch has no objects.
            queries = queries + 0 * self.denoising_class_embed.weight.sum()
        dec_boxes, dec_scores = self.refine(queries, boxes, tokens, shapes, noise.mask if noise else None)
        raw = (dec_boxes, dec_scores, enc_boxes, enc_scores, noise)
        return (*raw, proposals) if self.training else (self.predict(dec_boxes[0], dec_scores[0]), raw)

    def widen(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return boxes in float32 at least in training: half precision would round those of a large image to pixels."""
        return boxes.to(torch.promote_types(boxes.dtype, torch.float32)) if self.training else boxes

    def make_noise(self, targets: dict[str, torch.Tensor] | None, images: int, queries: int) -> NoisyQueries | None:
        """Make denoising queries; None in eval, without objects, and if ``nd`` is 0."""
        if targets is None or not self.training or not self.nd:
            return None
        return add_noise(targets, images, queries, self.nc, self.nd, self.label_noise_ratio, self.box_noise_scale)

    def embed_classes(self, noise: NoisyQueries) -> torch.Tensor:
        """Embed the classes of denoising queries: (B, D, hd), zero in empty slots."""
        embedded = self.denoising_class_embed(noise.classes.clamp(min=0))
        return embedded * (noise.classes >= 0)[..., None]

    def select(self, tokens: torch.Tensor, shapes: list[tuple[int, int]], learns_all: bool = False) -> tuple[Any, ...]:
        """Select the tokens of highest score: queries, box logits, and boxes and class logits for the loss.

        With ``learns_all`` the last value are, in training, the `Proposals` of all tokens; otherwise it is None.
        """
        anchors, outside = anchor_logits(shapes, self.widen(tokens[:1, :1]))
        memory = self.enc_output(tokens.masked_fill(outside, 0))
        scores = self.enc_score_head(memory)
        best = scores.amax(-1).topk(min(self.nq, tokens.shape[1])).indices[..., None]
        proposals = None
        if learns_all and self.training:
            all_boxes = (self.enc_bbox_head(memory) + anchors).sigmoid()
            # Positions at the border have no box, so they are placed where no object is.
            proposals = Proposals(all_boxes, scores, anchors[0, :, :2].sigmoid().masked_fill(outside[0], -1))
        content, scores = (t.gather(1, best.expand(-1, -1, t.shape[2])) for t in (memory, scores))
        boxes = self.enc_bbox_head(content) + anchors.expand(tokens.shape[0], -1, -1).gather(1, best.expand(-1, -1, 4))
        if self.tgt_embed is not None:
            queries = self.tgt_embed.weight[: content.shape[1]].expand_as(content)
        else:
            queries = content.detach() if self.training else content
        return queries, boxes.detach() if self.training else boxes, boxes.sigmoid(), scores, proposals

    def refine(
        self,
        x: torch.Tensor,
        boxes: torch.Tensor,
        tokens: torch.Tensor,
        shapes: list[tuple[int, int]],
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the layers: boxes (L, B, Q, 4), class logits (L, B, Q, nc); of all layers in training, of one in eval."""
        reference, before = boxes.sigmoid(), None
        all_boxes, all_scores = [], []
        last = range(len(self.decoder.layers))[self.eval_idx]
        for i, layer in enumerate(self.decoder.layers):
            x = layer(x, reference, tokens, shapes, self.query_pos_head(reference), mask)
            delta = self.widen(self.dec_bbox_head[i](x))
            refined = (delta + logit(reference)).sigmoid()
            if self.decoder.training:
                # "Look forward twice" (DINO): the loss of a layer also reaches the layer before it.
                all_boxes.append(refined if before is None else (delta + logit(before)).sigmoid())
                all_scores.append(self.dec_score_head[i](x))
            elif i == last:
                all_boxes.append(refined)
                all_scores.append(self.dec_score_head[i](x))
                break
            before, reference = refined, refined.detach()
        return torch.stack(all_boxes), torch.stack(all_scores)

    def predict(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Select the best (query, class) pairs, best first: (B, k, 6)."""
        best, pairs = scores.sigmoid().flatten(1).topk(min(self.nq, scores[0].numel()))
        boxes = boxes.gather(1, (pairs // self.nc)[..., None].expand(-1, -1, 4))
        return torch.cat((boxes, best[..., None], (pairs % self.nc)[..., None].to(boxes.dtype)), -1)

    def ranks(self) -> bool:
        """Return True: the prediction is always a list of detections."""
        return True

    def layout(self) -> str:
        """Describe the list of detections in one sentence."""
        return (
            "output 0: one row per detection, best first: centre x, centre y, width, height as fractions of the image,"
            " score, class"
        )

    def fuse(self) -> None:
        """Merge the batch norms after the projections into these."""
        for proj in self.input_proj:
            if isinstance(proj[1], nn.BatchNorm2d):
                set_weights(proj[0], *fold_bn(proj[0], proj[1]))
                proj[1] = nn.Identity()


def anchor_logits(shapes: list[tuple[int, int]], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a box around every position as logits (1, N, 4), and whether it is at the border (1, N, 1).

    The logits of boxes at the border are infinite.
    """
    parts = []
    for level, (h, w) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.arange(h, device=like.device, dtype=like.dtype),
            torch.arange(w, device=like.device, dtype=like.dtype),
            indexing="ij",
        )
        size = torch.full_like(x, 0.05 * 2.0**level)
        parts.append(torch.stack(((x + 0.5) / w, (y + 0.5) / h, size, size), -1).view(1, h * w, 4))
    anchors = torch.cat(parts, 1)
    outside = torch.minimum(anchors, 1 - anchors).amin(-1, keepdim=True) <= 0.01
    return (anchors / (1 - anchors)).log().masked_fill(outside, torch.inf), outside
