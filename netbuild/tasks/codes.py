"""The codes of autoencoders: pictures to the numbers of the row ``code``, and back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netbuild.costs.outputs import first_tensor
from netbuild.costs.shape_rules import shape_text
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.runtime import Noise
from netbuild.tasks.sampling import Array, SampleOptions, Sampler

CODE_NAMES = ("code", "encoded")  # names of the row whose output is the code


class Coder:
    """Encodes pictures and decodes codes with an autoencoder, whose file names the row of the code.

    Args:
        network: the network in eval mode, on its device.

    Raises:
        NetbuildError: if no row has such a name, or rows behind it read what stands before it.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.row = self._find_row()
        shape = (2, network.card.ch, *network.card.imgsz)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.blank = torch.zeros(shape, device=device)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.code_shape = self.encode(noise).shape[1:]
        code = torch.zeros((2, *self.code_shape), device=device)
        if not torch.equal(self._decode(code, self.blank), self._decode(code, noise)):
            hint = "an autoencoder can be sampled only if all goes through its code"
            raise NetbuildError("rows behind the code also read rows before it", hint=hint)

    def _find_row(self) -> nn.Module:
        for number, (_, name) in enumerate(self.network.card.rows):
            if name in CODE_NAMES:
                return self.network.model[number]
        hint = "name it: [-1, 1, nn.Linear, {out_features: 32}, code]"
        raise NetbuildError("no row of the network is named 'code'", hint=hint)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the codes (B, ...) of pictures (B, C, H, W) with values from 0 to 1."""
        found: list[Any] = []
        handle = self.row.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            self.network(images)
        finally:
            handle.remove()
        code = first_tensor(found[0])
        if code is None or code.shape[0] != len(images):
            raise NetbuildError("the row 'code' gives no tensor with a code for each picture")
        return code

    def decode(self, codes: Tensor) -> Tensor:
        """Return the pictures (B, C, H, W), values from 0 to 1, of codes (B, ...).

        Raises:
            NetbuildError: for codes of another shape.
        """
        if codes.shape[1:] != self.code_shape:
            raise NetbuildError(f"a code is {shape_text(self.code_shape)}, not {shape_text(codes.shape[1:])}")
        return self._decode(codes, self.blank[:1].expand(len(codes), -1, -1, -1))

    @torch.no_grad()
    def _decode(self, codes: Tensor, images: Tensor) -> Tensor:
        """Run the network on pictures with the output of the code's row replaced."""
        handle = self.row.register_forward_hook(lambda module, inputs, output: codes)
        try:
            found = first_tensor(self.network(images))
        finally:
            handle.remove()
        assert found is not None
        return found.float().clamp(0, 1)

    def interpolate(self, first: Tensor, second: Tensor, count: int) -> Tensor:
        """Decode ``count`` codes, evenly spaced on the line between those of two pictures (C, H, W)."""
        start, end = self.encode(torch.stack((first, second)).to(self.blank.device))
        shares = torch.linspace(0, 1, count, device=start.device).view(-1, *[1] * start.ndim)
        return self.decode(start + (end - start) * shares)


class CodeSampler(Sampler):
    """A decoder of codes."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.coder = Coder(network)

    def run(self, noise: Noise, classes: Array | None, options: SampleOptions) -> Iterator[Array]:
        """Yield the pictures of codes from the normal distribution, to which the training drew them."""
        codes = torch.from_numpy(noise.draw(self.coder.code_shape)).to(self.coder.blank.device)
        yield self.coder.decode(codes).cpu().numpy()

    def decode_plane(self, side: int) -> Array:
        """Return the pictures (side * side, C, H, W) of a plane of codes, evenly spaced in probability, row by row.

        The places are the quantiles of the normal distribution, as in Figure 4 of arXiv 1312.6114; numbers of the code
        beyond the first two are 0.
        """
        quantiles = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        places = torch.special.ndtri(quantiles).float()
        codes = torch.zeros(side * side, int(np.prod(self.coder.code_shape)))
        codes[:, 0], codes[:, 1] = places.repeat(side), places.flip(0).repeat_interleave(side)
        return self.coder.decode(codes.view(-1, *self.coder.code_shape).to(self.coder.blank.device)).cpu().numpy()
