"""netbuild export, inspect, benchmark: commands about files for other runtimes."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import (
    SHIP,
    Channels,
    Classes,
    Fuse,
    Modules,
    Scale,
    Set,
    Size,
    Trust,
    command,
    may_run,
    parse_image_size,
    print_random_weights_note,
    refuse_unused,
)
from netbuild.cli.terminal import show, spinner, write, write_json
from netbuild.errors import NetbuildError
from netbuild.grammar.locate import find_checkpoint


@command(SHIP)
def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX file, written by netbuild or another program.")],
    imgsz: Annotated[
        str | None, typer.Option(help="Image size where the file leaves it free: 640, or 640x384.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch size where the file leaves it free.")] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every node with its output, bytes and FLOPs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with every node.")] = False,
) -> None:
    """Show an ONNX file's inputs, outputs, operators, parameters, FLOPs, memory and metadata without running it."""
    size = parse_image_size(imgsz)
    refuse_unused("with --json, which has all nodes", **({"nodes": nodes or None} if json else {}))
    from netbuild.export.inspection.inspect import inspect as inspect_file

    found = inspect_file(file, size, batch)
    if json:
        write_json(found.to_dict())
    else:
        write(found.text(nodes))


OutFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The file to write; unless given, beside the checkpoint or in this folder."),
]
Target = Annotated[
    str, typer.Option(help="onnx, onnx-int8, openvino, ncnn, coreml, executorch, litert, torch-export or torchscript.")
]
Nms = Annotated[
    bool, typer.Option("--nms", help="Include non-maximum suppression: outputs boxes, scores, classes, index.")
]
Conf = Annotated[float | None, typer.Option(help="With --nms: lowest confidence of a box, 0.25 unless given.")]
IoU = Annotated[float | None, typer.Option(help="With --nms: IoU above which a box is suppressed, 0.7 unless given.")]
InputNames = Annotated[str | None, typer.Option(help="Names of the inputs instead of images, comma-separated.")]
OutputNames = Annotated[str | None, typer.Option(help="Names of the outputs instead of output0,..., comma-separated.")]
Calibrate = Annotated[
    str | None,
    typer.Option(help="onnx-int8: the data set or folder of pictures for calibration."),
]
Pictures = Annotated[int | None, typer.Option(min=1, help="Most pictures used for calibration: 128 unless given.")]
Tolerance = Annotated[
    float | None,
    typer.Option(help="Largest difference from torch, of max(1, |torch|): 1e-4 unless given, 2e-2 for half."),
]
Unproven = Annotated[
    bool, typer.Option("--unproven", help="coreml outside macOS: accept a file that cannot be verified here.")
]


@command(SHIP)
def export(
    file: Annotated[str, typer.Argument(help="A checkpoint, or a network's file (random weights).")],
    sizes: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    out: OutFile = None,
    target: Target = "onnx",
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, 640x384 or 640 384 for height x width.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=65_536, help="Batch size: 1 unless given.")] = None,
    dynamic: Annotated[str | None, typer.Option(help="Dynamic axes: batch, size or both.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Weights in float16; inputs and outputs stay float32.")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set, 18 to 23: 20 unless given.")] = None,
    simplify: Annotated[bool, typer.Option("--simplify", help="Rewrite the graph where that removes nodes.")] = False,
    nms: Nms = False,
    conf: Conf = None,
    iou: IoU = None,
    max_det: Annotated[int | None, typer.Option(help="With --nms: most boxes per picture, 300 unless given.")] = None,
    fuse: Fuse = True,
    input_names: InputNames = None,
    output_names: OutputNames = None,
    calibrate: Calibrate = None,
    pictures: Pictures = None,
    tolerance: Tolerance = None,
    unproven: Unproven = False,
    seed: Annotated[int | None, typer.Option(help="Seed of random weights: 0 unless given.")] = None,
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Export a network to another runtime's format and compare its outputs with torch's. Exit code 1: they differ."""
    size = _size_of(imgsz, sizes)
    from netbuild.export import export as write_file
    from netbuild.system.tables import terminal_width

    if seed is None and not find_checkpoint(file):
        seed = 0  # a network's file has random weights: the same command writes the same file
    with spinner(f"exporting {file}"):
        done = write_file(
            file, out, target=target, imgsz=size, batch=batch, dynamic=dynamic, half=half, opset=opset,
            simplify=simplify, nms=nms, conf=conf, iou=iou, max_det=max_det, fuse=fuse, input_names=_split(input_names),
            output_names=_split(output_names), calibrate=calibrate, pictures=pictures, tolerance=tolerance,
            unproven=unproven, seed=seed, scale=scale, nc=nc, ch=ch, set=set or (), modules=modules or (),
            trusted=may_run(trust),
        )  # fmt: skip
    print_random_weights_note(file)
    if json:
        write_json(done.to_dict())
    else:
        write(done.text(terminal_width(sys.stdout)))


@command(SHIP)
def benchmark(
    file: Annotated[str, typer.Argument(help="A checkpoint, a network's file (random weights), or an ONNX file.")],
    files: Annotated[list[str] | None, typer.Argument(help="Files already exported from it, to be timed too.")] = None,
    target: Annotated[str, typer.Option(help="all, or comma-separated names; none if files are given.")] = "all",
    imgsz: Size = None,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Batch size.")] = 1,
    data: Annotated[str | None, typer.Option(help="A data set to measure accuracy on and to calibrate int8.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each form, taken in turn.")] = 50,
    tolerance: Tolerance = None,
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Time a network on the CPU in torch and in each exported format; compare sizes, outputs and accuracy.

    Exit code 1: the file of a target named by --target differs from torch.
    """
    size = parse_image_size(imgsz)
    import torch

    from netbuild.export.benchmark import benchmark as measure
    from netbuild.training.progress import progress_bar

    torch.manual_seed(0)
    with progress_bar(None) as step:
        rows = measure(
            file, files or (), target=target, imgsz=size, batch=batch, data=data, threads=threads, rounds=rounds,
            tolerance=tolerance, step=step, scale=scale, nc=nc, ch=ch, set=set or (), modules=modules or (),
            trusted=may_run(trust),
        )  # fmt: skip
    print_random_weights_note(file)
    if json:
        write_json([row.to_dict() for row in rows])
    else:
        show(rows)
    if target != "all" and any(row.failed for row in rows):
        raise typer.Exit(1)


def _size_of(imgsz: str | None, more: list[str] | None) -> tuple[int, int] | None:
    """Return the image size, also from ``--imgsz 96 160``, where the second number arrives as an argument."""
    if not more:
        return parse_image_size(imgsz)
    if imgsz is None or len(more) > 1 or not (imgsz.isdecimal() and more[0].isdecimal()):
        raise NetbuildError(f"unexpected argument '{more[0]}'", hint="netbuild export FILE; see --help")
    return parse_image_size(f"{imgsz}x{more[0]}")


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]
