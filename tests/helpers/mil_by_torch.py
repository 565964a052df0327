"""A written CoreML package done by torch, operator by operator, as the documentation of MIL has it.

CoreML itself runs on macOS only. What coremltools made of a network can be seen elsewhere too: its program is read from
the package again, so weights, types and arguments are those of the file. Only CoreML's own kernels are not tried.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "int32": torch.int32, "bool": torch.bool}
ONE = {
    "relu": F.relu, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp, "erf": torch.erf,
    "sqrt": torch.sqrt, "sin": torch.sin, "cos": torch.cos, "floor": torch.floor, "abs": torch.abs,
    "identity": lambda x: x, "logical_not": torch.logical_not, "square": torch.square,
}  # fmt: skip
TWO = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.true_divide, "pow": torch.pow,
    "floor_div": torch.floor_divide, "mod": torch.remainder, "maximum": torch.maximum, "minimum": torch.minimum,
    "less": torch.lt, "greater": torch.gt, "less_equal": torch.le, "greater_equal": torch.ge, "equal": torch.eq,
    "not_equal": torch.ne, "logical_and": torch.logical_and,
}  # fmt: skip
SAME_TYPE = {"add", "sub", "mul", "real_div", "pow", "maximum", "minimum", "matmul", "linear", "concat", "conv"}


def run(path, arrays):
    """The outputs of a package, for inputs in its order."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = coremltools.utils.load_spec(str(path))
    weights = str(Path(path, "Data/com.apple.CoreML/weights"))
    main = load(spec, spec.specificationVersion, weights).functions["main"]
    known = dict(zip(main.inputs, map(torch.from_numpy, arrays), strict=True))
    with torch.no_grad():
        for operation in main.operations:
            if operation.op_type == "const":
                continue
            given = {name: value(var, known) for name, var in operation.inputs.items() if var is not None}
            kinds = {x.dtype for x in given.values() if isinstance(x, torch.Tensor) and x.is_floating_point()}
            if operation.op_type in SAME_TYPE:
                assert len(kinds) <= 1, f"{operation.name}: {kinds}"
            found = done(operation.op_type, given)
            for var, x in zip(operation.outputs, found if isinstance(found, (tuple, list)) else [found], strict=True):
                assert tuple(x.shape) == tuple(var.shape), f"{operation.op_type} {var.name}: {x.shape}, not {var.shape}"
                known[var.name] = x.to(TYPES[type_of(var)])
    return [known[var.name].numpy() for var in main.outputs]


def type_of(var):
    from coremltools.converters.mil.mil import types

    return types.builtin_to_string(var.dtype)


def value(var, known):
    """What a variable holds: tensors, or numbers and texts of this language."""
    if isinstance(var, (list, tuple)):
        return [value(one, known) for one in var]
    if var.name in known:
        return known[var.name]
    held = var.val
    if isinstance(held, np.ndarray):
        return torch.from_numpy(held.copy())
    return torch.tensor(held.item()).to(TYPES[type_of(var)]) if isinstance(held, np.generic) else held


def done(kind, a):  # noqa: C901
    """One operator."""
    x, number = a.get("x"), {k: v.item() for k, v in a.items() if isinstance(v, torch.Tensor) and v.ndim == 0}
    many = {k: v.tolist() for k, v in a.items() if isinstance(v, torch.Tensor) and v.ndim == 1}
    if kind in ONE:
        return ONE[kind](x)
    if kind in TWO:
        return TWO[kind](x, a["y"])
    match kind:
        case "conv" | "conv_transpose" | "max_pool" | "avg_pool":
            return windowed(kind, a, number, many)
        case "linear":
            return F.linear(x, a["weight"], a.get("bias"))
        case "matmul":
            x, y = (a[n].mT if number.get(f"transpose_{n}") else a[n] for n in "xy")
            return x @ y
        case "batch_norm":
            return F.batch_norm(x, a["mean"], a["variance"], a.get("gamma"), a.get("beta"), eps=number["epsilon"])
        case "layer_norm":
            assert many["axes"] in ([-1], [x.ndim - 1])
            return F.layer_norm(x, x.shape[-1:], a.get("gamma"), a.get("beta"), number["epsilon"])
        case "softmax":
            return x.softmax(number["axis"])
        case "gelu":
            return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[a["mode"]])
        case "thresholded_relu":
            return torch.where(x >= a["alpha"], x, torch.zeros_like(x))
        case "leaky_relu":
            return F.leaky_relu(x, number["alpha"])
        case "sigmoid_hard":
            return (x * a["alpha"] + a["beta"]).clamp(0, 1)
        case "clip":
            return x.clamp(number["alpha"], number["beta"])
        case "rsqrt":
            return torch.rsqrt(x + number["epsilon"])
        case "reduce_mean" | "reduce_sum" | "reduce_max":
            how = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}[kind.split("_")[1]]
            return how(x, many.get("axes", list(range(x.ndim))), keepdim=number.get("keep_dims", False))
        case "concat":
            if number.get("interleave"):
                return torch.stack(a["values"], number["axis"] + 1).flatten(number["axis"], number["axis"] + 1)
            return torch.cat(a["values"], number["axis"])
        case "stack":
            return torch.stack(a["values"], number["axis"])
        case "split":
            return x.split(many.get("split_sizes") or x.shape[number["axis"]] // number["num_splits"], number["axis"])
        case "reshape":
            return x.reshape(many["shape"])
        case "transpose":
            return x.permute(many["perm"])
        case "expand_dims":
            for axis in sorted(many["axes"]):
                x = x.unsqueeze(axis)
            return x
        case "squeeze":
            return x.squeeze(many["axes"])
        case "cast":
            return x.to(TYPES[a["dtype"]])
        case "select":
            return torch.where(a["cond"], a["a"], a["b"])
        case "tile":
            return x.tile(many["reps"])
        case "slice_by_index":
            return sliced(x, many)
        case "gather":
            return torch.stack([x.select(number["axis"], i) for i in many["indices"]], number["axis"])
        case "gather_along_axis":
            return x.gather(number["axis"], a["indices"].long())
        case "topk":
            assert not number.get("ascending")
            return x.topk(number["k"], number["axis"])
        case "upsample_nearest_neighbor":
            return F.interpolate(x, scale_factor=(number["scale_factor_height"], number["scale_factor_width"]))
        case "upsample_bilinear":
            factors = (number["scale_factor_height"], number["scale_factor_width"])
            corners = number.get("align_corners", True)
            return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=corners)
        case "pad":
            pairs = [many["pad"][i : i + 2] for i in range(0, len(many["pad"]), 2)]
            flat = [side for pair in reversed(pairs) for side in pair]
            mode = {"reflect": "reflect", "constant": "constant", "replicate": "replicate"}[a["mode"]]
            return F.pad(x, flat, mode, number.get("constant_val", 0.0) if mode == "constant" else None)
    raise NotImplementedError(kind)


def windowed(kind, a, number, many):
    """Convolutions and pools over one to three axes."""
    x, weight, groups = a["x"], a.get("weight"), number.get("groups", 1)
    assert a["pad_type"] in ("valid", "custom"), a["pad_type"]
    axes = x.ndim - 2
    pad, strides = many.get("pad") or [0] * 2 * axes, many.get("strides") or [1] * axes
    pad = pad if a["pad_type"] == "custom" else [0] * 2 * axes
    sides = [side for i in reversed(range(axes)) for side in pad[2 * i : 2 * i + 2]]  # torch has the last axis first
    if kind == "conv":
        dilations = many.get("dilations") or [1] * axes
        return (F.conv1d, F.conv2d)[axes - 1](F.pad(x, sides), weight, a.get("bias"), strides, 0, dilations, groups)
    if kind == "conv_transpose":
        found = F.conv_transpose2d(x, weight, a.get("bias"), strides, groups=groups)
        return F.pad(found, [-side for side in sides])
    kernel, ceil = many["kernel_sizes"], number.get("ceil_mode", False)
    if kind == "max_pool":
        return (F.max_pool1d, F.max_pool2d)[axes - 1](
            F.pad(x, sides, value=-torch.inf), kernel, strides, ceil_mode=ceil
        )
    assert not ceil
    x = x.float()  # torch has no such pools of halves
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    total = pool(F.pad(x, sides), kernel, strides)
    if not number.get("exclude_padding_from_average"):
        return total
    return total / pool(F.pad(torch.ones_like(x), sides), kernel, strides)


def sliced(x, many):
    """x[begin:end:stride], masks with it."""
    axes, none = range(x.ndim), [False] * x.ndim
    begins, ends, steps = (many.get(name) or [1] * x.ndim for name in ("begin", "end", "stride"))
    masks = [many.get(f"{name}_mask") or none for name in ("begin", "end", "squeeze")]
    for i in axes:
        length = x.shape[i]
        if masks[2][i]:
            indices = [begins[i] % length]
        else:
            part = slice(None if masks[0][i] else begins[i], None if masks[1][i] else ends[i], steps[i])
            indices = list(range(length))[part]
        x = x.index_select(i, torch.tensor(indices, dtype=torch.long))
    return x.reshape([x.shape[i] for i in axes if not masks[2][i]])
