"""How weights begin, where a network's file says so."""

from torch import nn


def he(network: nn.Module) -> None:
    """Normal weights of variance 2 / fan-in for convolutions and linear layers, biases 0: signals keep their size
    through rectifiers, so that deep networks without norms learn. K. He and others, 2015, arXiv 1502.01852.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


INITIAL = {"he": he}
