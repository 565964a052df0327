"""The last row that follows from a file's task, for files that leave it out."""

from dataclasses import replace

from netbuild.grammar.rows import Row
from netbuild.grammar.spec import Spec
from netbuild.layers.heads.labels import FINAL_HEADS


def add_final_row(spec: Spec, task: str | None) -> Spec:
    """Add the row ``[-1, 1, MultiLabel, [nc]]`` or ``[-1, 1, Regress, [nc]]`` to a file of such a task without it.

    So the key ``task`` alone makes a network of labels or numbers of any that classifies.
    """
    head = FINAL_HEADS.get(task or "")
    last = spec.rows[-1] if spec.rows else None
    if head is None or last is None or last.module == head.__name__:
        return spec
    anchor = spec.root.value.get("task", spec.root)  # errors of the row are shown at what demands it
    node = anchor.with_value(
        [
            *map(anchor.with_value, (-1, 1, head.__name__)),
            anchor.with_value([anchor.with_value("nc")]),
        ]
    )
    row = Row(
        last.index + 1, last.section, None, -1, (last.index,), (None,), False, 1, head.__name__,
        tuple(node.value[3].value), (), node, node.value[2],
    )  # fmt: skip
    section = spec.root.value[last.section]
    rows = section.with_value([*section.value, node])
    root = spec.root.with_value({**spec.root.value, last.section: rows})
    return replace(spec, root=root, rows=(*spec.rows, row))
