"""netbuild predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netbuild.cli.flags import (
    SHIP,
    Modules,
    Trust,
    command,
    may_run,
    parse_image_size,
    print_random_weights_note,
    refuse_code,
    refuse_unused,
)
from netbuild.cli.terminal import say, spinner, write, write_json
from netbuild.errors import NetbuildError

if TYPE_CHECKING:
    from netbuild.prediction.predictor import Predictor
    from netbuild.prediction.saving import Writer
    from netbuild.prediction.sources import Source


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Pictures, videos, folders, patterns in quotes ('a/**/*.jpg'), cameras (0, rtsp://...), - for stdin.",
    ),
]
ClassAgnostic = Annotated[
    bool, typer.Option("--agnostic", help="Class-agnostic NMS: boxes of different classes suppress each other.")
]
Rectangular = Annotated[
    bool | None,
    typer.Option("--rect/--no-rect", help="Pad to the picture's aspect ratio (default), or to a square."),
]
SavedKinds = Annotated[
    str | None,
    typer.Option(
        help="What to save, comma-separated: pictures (default), txt, labels (no scores), json, crops, "
        "beside (before and after restoration); or none."
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder to write, which must be new; runs/predict unless given."),
]
PrintJson = Annotated[
    bool, typer.Option("--json", help="Print all results as JSON; save only what --save or --out ask for.")
]


@command(SHIP)
def predict(
    file: Annotated[str, typer.Argument(help="A checkpoint, an .onnx file, or a network's file (random weights).")],
    pictures: Sources,
    imgsz: Annotated[str | None, typer.Option(help="Letterbox pictures to this size: 640, or 640x384.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Largest batch size.")] = 8,
    conf: Annotated[
        float | None, typer.Option(help="Lowest confidence of a box (0.25 unless given) or label (0.5).")
    ] = None,
    iou: Annotated[float | None, typer.Option(help="IoU above which NMS drops a box: 0.7 unless given.")] = None,
    max_det: Annotated[int | None, typer.Option(help="Most boxes per picture: 300 unless given.")] = None,
    agnostic: ClassAgnostic = False,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="A box may have several classes.")] = False,
    classes: Annotated[str | None, typer.Option(help="Only these classes: names or numbers, comma-separated.")] = None,
    tiles: Annotated[
        int | None, typer.Option(min=1, help="Restore pictures in tiles of this side; large ones in 512 anyway.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    rect: Rectangular = None,
    save: SavedKinds = None,
    out: OutFolder = None,
    json: PrintJson = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Run a network on pictures and videos. Exit code 1: some could not be read."""
    size = parse_image_size(imgsz)
    refuse_code(file, modules, trust)
    import torch

    from netbuild.prediction import saving
    from netbuild.prediction.predictor import prepare
    from netbuild.prediction.sources import find
    from netbuild.system.files import new_folder

    found = find(pictures)
    torch.manual_seed(0)
    options: dict[str, Any] = {"conf": conf, "iou": iou, "max_det": max_det, "classes": classes}
    options |= {"agnostic": agnostic or None, "multi_label": multi_label or None, "tiles": tiles}
    with spinner(f"opening {file}"):
        predictor = prepare(
            file, imgsz=size, batch=batch, rect=rect, device=device, modules=modules or (), trusted=may_run(trust),
            **options,
        )  # fmt: skip
    kinds = () if json and save is None and out is None else saving.parse_kinds(save, predictor.task)
    refuse_unused("where nothing is saved", **({} if kinds else {"out": out}))
    folder = out or new_folder("predict")
    saving.check_folder(folder)
    print_random_weights_note(file)
    document, failed = _save_results(predictor, found, saving.Writer(folder, kinds), as_json=json)
    if json:
        write_json(document)
    elif folder.exists():
        say(f"saved in {folder}")
    raise typer.Exit(int(failed))


def _save_results(
    predictor: "Predictor", sources: "Sequence[Source]", writer: "Writer", as_json: bool
) -> tuple[Any, bool]:
    """Predict, save each result and print its line; return the results as JSON data, and whether a source failed."""
    from netbuild.prediction import saving
    from netbuild.prediction.sources import is_video
    from netbuild.training.progress import progress_bar

    results, failed = [], []

    def unreadable(path: Path, error: NetbuildError) -> None:
        failed.append({"path": str(path), "reason": error.message})
        say(str(error))

    # The frames of a video are not counted beforehand, and those of a camera have no end.
    is_known = all(isinstance(source, Path) and not is_video(source) for source in sources)
    keeps_results = as_json or "json" in writer.kinds
    total = len(sources) if is_known else None
    with progress_bar(total) as step, writer:
        for result in predictor.run(sources, unreadable):
            writer.add(result)
            if keeps_results:
                results.append(result.to_dict())
            if not as_json:
                write(result.line())
            step()
        document = saving.make_document(predictor.task, results, failed)
        writer.end(document)
    return document, bool(failed)
