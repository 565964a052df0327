"""Weight initialisations for the key `init` of a network file."""

from torch import nn


def init_he(network: nn.Module) -> None:
    """Initialise convolutions and linear layers with normal weights of variance 2 / fan-in and zero biases.

    The variance of activations is then the same in all layers of a ReLU network, so that deep networks without norms
    learn. He et al., 2015, arXiv 1502.01852.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


INITIAL = {"he": init_he}
