"""The activations of a network, for the line above its table."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from netbuild.graph.layers import Graph, Layer

# Operators of activations that a module calls as functions, such as `torch.nn.functional.relu`, and their names.
OPERATORS = {
    "relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU", "silu": "SiLU", "mish": "Mish",
    "tanh": "Tanh", "sigmoid": "Sigmoid", "hardtanh": "ReLU6", "hardswish": "Hardswish", "hardsigmoid": "Hardsigmoid",
    "softplus": "Softplus", "celu": "CELU", "selu": "SELU", "_prelu_kernel": "PReLU",
    "log_sigmoid_forward": "LogSigmoid",
}  # fmt: skip
# Modules whose operator has the name of another activation.
_SAME_OPERATOR = {"SELU": "ELU", "CELU": "ELU", "Hardtanh": "ReLU6"}
# As a function a sigmoid is mostly part of a gate or a head.
_UNCERTAIN = {"Sigmoid"}


def describe_activation(graph: Graph) -> str:
    """Return the network's activation in a few words: the default one if a module takes it, else those there are."""
    written = "activation" in graph.spec.settings
    if graph.uses_activation:
        return f"activation {graph.activation}{'' if written else ' (default)'}"
    names = find_activations(graph.layers)
    text = f"activation{'s' * (len(names) > 1)} {', '.join(names)}" if names else "no activation"
    return f"{text} (no module takes the file's {graph.activation})" if written else text


def activation_in_use(graph: Graph) -> str:
    """Return the network's default activation if a module takes it, else the class names of those there are."""
    if graph.uses_activation:
        return str(graph.activation)
    return ", ".join(find_activations(graph.layers)) or "none"


def find_activations(layers: Sequence[Layer]) -> list[str]:
    """List the class names of all activations in a network, the most frequent first."""
    counts: Counter[str] = Counter()
    for layer in layers:
        for module in layer.module.modules():
            if _is_activation(module):
                counts[type(module).__name__] += 1
    covered = {*counts, *(_SAME_OPERATOR[name] for name in counts if name in _SAME_OPERATOR), *_UNCERTAIN}
    for layer in layers:
        for operator in layer.tally.operators:
            name = OPERATORS.get(operator.name.rstrip("_"), "")
            if name and name not in covered:
                counts[name] += 1
    return [name for name, _ in counts.most_common()]


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is one of torch's activations, among which torch counts attention too."""
    in_torch = type(module).__module__ == "torch.nn.modules.activation"
    return in_torch and not isinstance(module, nn.MultiheadAttention)
