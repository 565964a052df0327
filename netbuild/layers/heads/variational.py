"""The head of variational autoencoders."""

import torch

from netbuild.layers.heads.base import Head

LIKELIHOODS = ("bernoulli", "gaussian")


class Variational(Head):
    """Decoded logits and moments of the code: (B, C, H, W), (B, 2d, ...) -> picture (B, C, H, W) and the moments.

    Training: logits. Eval: their sigmoid, a picture from 0 to 1. Auto-Encoding Variational Bayes, arXiv 1312.6114. The
    likelihood of a pixel is `bernoulli`, or `gaussian` with the variance that fits best (arXiv 2006.13202). Raises
    ValueError for another one.
    """

    task = "vae"

    def __init__(self, likelihood: str = "bernoulli"):
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"the likelihood is {' or '.join(LIKELIHOODS)}, not {likelihood}")
        self.likelihood = likelihood

    def layout(self) -> str:
        """Describe the picture and the moments in one sentence."""
        return "output 0: the reconstruction from 0 to 1; output 1: mean, then log variance, of each number of the code"

    def forward(self, decoded: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (decoded if self.training else decoded.sigmoid()), moments
