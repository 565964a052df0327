"""netbuild build, netbuild weights import: commands that write checkpoints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from netbuild.cli.flags import (
    TRAIN,
    WRITE,
    Channels,
    Classes,
    Modules,
    Scale,
    Set,
    Size,
    Trust,
    app,
    command,
    may_run,
    parse_image_size,
    refuse_unused,
)
from netbuild.cli.terminal import say, spinner, write, write_json
from netbuild.errors import NetbuildError


@command(WRITE)
def build(
    file: Annotated[str, typer.Argument(help="A YAML file, the name of a packaged network, or a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write: NAME.safetensors.")],
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="A checkpoint: rows of equal structure take its tensors, whatever their numbers."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights that are initialised at random.")] = 0,
    download: Annotated[
        bool, typer.Option("--download", help="Let rows with pretrained: true download their weights.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print which weights were loaded as JSON.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Build a network with weights and write a checkpoint, which includes the code of custom modules."""
    size = parse_image_size(imgsz)
    import torch

    from netbuild.graph.opening import open_graph
    from netbuild.weights.building import build_graph, transfer
    from netbuild.weights.checkpoint import check_path, save

    check_path(out)
    graph = open_graph(
        file, scale=scale, nc=nc, ch=ch, imgsz=size, modules=modules or (), trusted=may_run(trust), set=set or ()
    )
    for note in graph.notes:
        say(f"note: {note}")
    torch.manual_seed(seed)
    with spinner(f"building {graph.name}"):
        network = build_graph(graph, download)
        report = transfer(network, weights) if weights else None
        save(network, out)
    for text in report.warnings() if report else ():
        say(f"warning: {weights}: {text}")
    if json:
        write_json({"file": str(out), "weights": report.to_dict() if report else None})
    else:
        write("\n".join([*([str(report)] if report else []), f"{out}: {graph.name}"]))


weights_app = typer.Typer(help="Import weights of other programs.", no_args_is_help=True)


app.add_typer(weights_app, name="weights", rich_help_panel=TRAIN)


@command(TRAIN, "import", on=weights_app)
def import_(
    file: Annotated[
        Path, typer.Argument(help="A .pt or .pth file, a state dict, or safetensors. Its code is never run.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write: NAME.safetensors.")],
    model: Annotated[
        str | None, typer.Option(help="The network's file, if the checkpoint does not describe its rows.")
    ] = None,
    map: Annotated[
        str | None, typer.Option(help="Match by order of definition: torchvision, timm or order; by key unless given.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="With --model: an entry of its scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="With --model: number of classes.")] = None,
    ch: Annotated[int | None, typer.Option(min=1, help="With --model: image channels.")] = None,
    prefer: Annotated[
        str, typer.Option(help="ema: the averaged weights if there are any; model: the last weights.")
    ] = "ema",
    half: Annotated[bool, typer.Option("--half", help="Write float16 tensors, half the size.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at tensors that do not match instead of leaving them out.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print which tensors matched as JSON.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Convert another program's checkpoint to netbuild's format; every tensor is checked."""
    from netbuild.weights.checkpoint import check_path, save
    from netbuild.weights.importing import convert_to_half, import_weights

    check_path(out)
    if prefer not in ("ema", "model"):
        raise NetbuildError(f"--prefer {prefer}: must be ema or model")
    refuse_unused("without --model", **({} if model else {"scale": scale, "nc": nc, "ch": ch, "set": set}))
    options: dict[str, Any] = {"scale": scale, "nc": nc, "ch": ch, "set": set or ()}
    options |= {"modules": modules or (), "trusted": may_run(trust)}
    with spinner(f"reading {file}"):
        found = import_weights(
            file, model=model, mapping=map, strict=strict, prefer=prefer, **(options if model else {})
        )
        network = convert_to_half(found.network) if half else found.network
        save(network, out, names=found.names, training=found.origin)
    if json:
        report = {"name": found.network.card.name, "names": found.names, "notes": list(found.notes)}
        write_json({"file": str(out), **report, **found.match.report()})
    else:
        write("\n".join([str(found.match), *found.notes, f"{out}: {found.network.card.name}"]))
