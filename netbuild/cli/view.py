"""netbuild view: draws kernels, feature maps and activation functions."""

from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import (
    SHIP,
    Channels,
    Classes,
    Modules,
    Scale,
    Set,
    Trust,
    command,
    may_run,
    parse_image_size,
    print_random_weights_note,
    refuse_unused,
)
from netbuild.cli.terminal import say, spinner, write, write_json
from netbuild.errors import NetbuildError


@command(SHIP)
def view(
    file: Annotated[str, typer.Argument(help="A checkpoint, or a network's file (random weights).")],
    image: Annotated[Path | None, typer.Option(help="The picture whose feature maps are drawn.")] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="A row by number or name, or a module in it: 2.cv1.conv. May be repeated; all unless given."),
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(help="kernels, maps, curves (activation functions), comma-separated; all unless given."),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, max=4096, help="Most maps or kernels per picture.")] = 64,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint: rows of equal structure take its tensors.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A new folder (runs/view), NAME.png of one picture, or NAME.html: the page."),
    ] = None,
    imgsz: Annotated[str | None, typer.Option(help="Letterbox the picture to this size: 640, or 640x384.")] = None,
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    json: Annotated[bool, typer.Option("--json", help="Print the pictures' files and titles as JSON.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Draw a network's kernels, the feature maps of a picture, and its activation functions as curves."""
    size = parse_image_size(imgsz)
    refuse_unused("without --image", **({} if image else {"imgsz": imgsz}))
    import torch

    from netbuild.author.seeing import view
    from netbuild.training.progress import progress_bar
    from netbuild.weights.building import build_graph, transfer

    torch.manual_seed(0)
    destination = view.check_destination(out)
    with spinner(f"opening {file}"):
        graph = view.open_at_trained_size(
            file, size, scale=scale, nc=nc, ch=ch, modules=modules or (), trusted=may_run(trust), set=set or ()
        )
        network = build_graph(graph)
        report = transfer(network, weights) if weights else None
    if report is not None:
        say("\n".join([str(report), *(f"warning: {weights}: {text}" for text in report.warnings())]))
    else:
        print_random_weights_note(file)
    kinds = [kind.strip() for kind in what.split(",")] if what else []
    with progress_bar(None) as step:
        views = view.draw_views(network, image, row or (), kinds, channels, step)
    if not views:
        raise NetbuildError("there is nothing to show: no convolution in these rows, no activation function")
    files = destination.write(views, graph)
    if json:
        write_json([{**found.facts(), "file": str(path)} for found, path in zip(views, files, strict=True)])
    else:
        write("\n".join(found.title for found in views))
        say(f"saved in {destination.path}")
