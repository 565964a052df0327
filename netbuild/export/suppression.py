"""Non-maximum suppression inside an ONNX graph: `netbuild.tasks.nms` written in ONNX's own operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from netbuild.tasks.nms import Filter

# raw is (B, 4 + nc, A). Each cell keeps only the score of its best class, then NonMaxSuppression runs for each picture
# and class. The remaining boxes are sorted by cell, by descending score and by picture, each time stably, so that they
# end up picture by picture, best first, with ties in the order of cells. At most max_det of a picture stay.
_BODY = """
suppression (float[b, c, a] raw) => (float[n, 4] boxes, float[n] scores, int64[n] classes, int64[n] index)
{
    centre, size, probability = Split <axis = 1> (raw, parts)
    half = Div (size, two)
    low = Sub (centre, half)
    high = Add (centre, half)
    joined = Concat <axis = 1> (low, high)
    corners = Transpose <perm = [0, 2, 1]> (joined)
    best = ArgMax <axis = 1, keepdims = 1> (probability)
    top = ReduceMax <keepdims = 1> (probability, axis_one)
    is_best = Equal (best, numbers)
    single = Where (is_best, top, zero)
    kept = NonMaxSuppression (corners, single, most, iou, conf)
    picture, kind, cell = Split <axis = 1, num_outputs = 3> (kept)
    where_score = Concat <axis = 1> (picture, cell)
    all_scores = Squeeze (top, axis_one)
    score = GatherND (all_scores, where_score)
    picture1 = Squeeze (picture, axis_one)
    kind1 = Squeeze (kind, axis_one)
    cell1 = Squeeze (cell, axis_one)
    count = Shape (score)
    ignored0, by_cell = TopK <largest = 0> (cell1, count)
    score2 = Gather (score, by_cell)
    ignored1, by_score = TopK (score2, count)
    order2 = Gather (by_cell, by_score)
    picture2 = Gather (picture1, order2)
    ignored2, by_picture = TopK <largest = 0> (picture2, count)
    order = Gather (order2, by_picture)
    picture3 = Gather (picture1, order)
    shape = Shape <start = 0, end = 1> (raw)
    pictures = Squeeze (shape)
    every = Range (zero_int, pictures, one_int)
    row = Unsqueeze (every, axis_zero)
    column = Unsqueeze (picture3, axis_one)
    same_all = Equal (row, column)
    same_number = Cast <to = 7> (same_all)
    running = CumSum (same_number, zero_int)
    own = Mul (running, same_number)
    rank = ReduceSum <keepdims = 0> (own, axis_one)
    wanted = LessOrEqual (rank, most)
    final = Compress <axis = 0> (order, wanted)
    index = Gather (picture1, final)
    classes = Gather (kind1, final)
    scores = Gather (score, final)
    cells = Gather (cell1, final)
    index_column = Unsqueeze (index, axis_one)
    cells_column = Unsqueeze (cells, axis_one)
    where_box = Concat <axis = 1> (index_column, cells_column)
    boxes = GatherND (corners, where_box)
}
"""


def append_suppression(model: Any, chosen: Filter, names: Sequence[str]) -> None:
    """Append suppression to a model's output "raw", in place.

    Args:
        model: its only output is (B, 4 + nc, A): centre, size, class probabilities.
        chosen: conf, iou and max_det are used.
        names: names of the outputs boxes (N, 4), scores (N,), classes (N,) and index (N,), the number of the picture.
    """
    import onnx
    from onnx import numpy_helper, parser

    body = parser.parse_graph(_BODY)
    outputs = dict(zip(("boxes", "scores", "classes", "index"), names, strict=True))
    nc = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value - 4

    def full_name(name: str) -> str:
        return name if name == "raw" else outputs.get(name, f"suppression_{name}")

    for node in body.node:
        node.input[:] = [full_name(name) for name in node.input]
        node.output[:] = [full_name(name) for name in node.output]
        node.name = f"suppression_{node.output[0]}"
        model.graph.node.append(node)
    for name, value in _constants(chosen, nc).items():
        model.graph.initializer.append(numpy_helper.from_array(value, full_name(name)))
    del model.graph.output[:]
    kinds = {"boxes": (onnx.TensorProto.FLOAT, ("detections", 4)), "scores": (onnx.TensorProto.FLOAT, ("detections",))}
    for name, final in outputs.items():
        kind, shape = kinds.get(name, (onnx.TensorProto.INT64, ("detections",)))
        model.graph.output.append(onnx.helper.make_tensor_value_info(final, kind, shape))


def set_conf(model: Any, conf: float) -> Any:
    """Replace the confidence threshold of the suppression in a model, in place, and return the model."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name == "suppression_conf":
            tensor.CopyFrom(numpy_helper.from_array(np.array([conf], np.float32), tensor.name))
    return model


def _constants(chosen: Filter, nc: int) -> dict[str, np.ndarray]:
    return {
        "parts": np.array([2, 2, nc], np.int64),
        "two": np.array(2, np.float32),
        "zero": np.array(0, np.float32),
        "zero_int": np.array(0, np.int64),
        "one_int": np.array(1, np.int64),
        "axis_zero": np.array([0], np.int64),
        "axis_one": np.array([1], np.int64),
        "numbers": np.arange(nc, dtype=np.int64)[None, :, None],
        "most": np.array([chosen.max_det], np.int64),
        "iou": np.array([chosen.iou], np.float32),
        "conf": np.array([chosen.conf], np.float32),
    }
