"""Checkpoints of whole models as another program pickles them: objects of classes that are not here."""

import sys
import types

import torch
from torch import nn

PACKAGE = "elsewhere"


def convert(module):
    """A copy of a network's module tree: torch's classes stay, others become classes of `PACKAGE` with their names.

    Numbers, texts and flags are copied, for these a foreign module of the same kind has under the same name.
    """
    cls = type(module)
    if not cls.__module__.startswith("torch."):
        cls = _foreign_class(cls.__name__)
    copy = cls.__new__(cls)
    nn.Module.__init__(copy)
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, (int, float, str, tuple, type(None))):
            setattr(copy, name, value)
    for name, value in module._parameters.items():
        copy.register_parameter(name, value)
    for name, value in module._buffers.items():
        copy.register_buffer(name, value)
    for name, child in module.named_children():
        copy.add_module(name, convert(child))
    return copy


def _foreign_class(name):
    package = sys.modules.setdefault(PACKAGE, types.ModuleType(PACKAGE))
    if not hasattr(package, name):
        cls = type(name, (nn.Module,), {"__module__": PACKAGE})
        cls.__qualname__ = name
        setattr(package, name, cls)
    return getattr(package, name)


def save_model(network, rows, path, change=None, wrap=None):
    """Pickle a network as a foreign model with its rows, and forget the foreign classes.

    ``change`` is called with the model first; ``wrap`` is the class of a wrapper and the name of its child.
    """
    model = _foreign_class("Model")()
    model.model = nn.Sequential(*(convert(child) for child in network.model.children()))
    model.yaml, model.names = rows, {i: f"class {i}" for i in range(rows["nc"])}
    if change:
        change(model)
    if wrap:
        inner, model = model, _foreign_class(wrap[0])()
        model.add_module(wrap[1], inner)
    torch.save({"model": model, "train_args": {"imgsz": 64, "task": "detect"}}, path)
    del sys.modules[PACKAGE]
