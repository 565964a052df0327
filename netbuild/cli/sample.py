"""netbuild sample."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netbuild.cli.flags import SHIP, Modules, Trust, command, may_run, print_random_weights_note, refuse_unused
from netbuild.cli.terminal import say, spinner, write, write_json
from netbuild.errors import NetbuildError

if TYPE_CHECKING:
    from netbuild.graph.network import Network
    from netbuild.prediction.judging import Verdict
    from netbuild.prediction.sampling import Samples
    from netbuild.tasks.base import Task

MAX_COUNT = 1_000_000

Count = Annotated[int, typer.Option("-n", "--count", min=1, max=MAX_COUNT, help="Number of pictures.")]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The picture to write, a grid; samples.png unless given or others are written."),
]
ClassNames = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="Only these classes: names or numbers, comma-separated.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**31, help="Of the random numbers: the same gives the same pictures.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of a diffusion model: 50 unless given.")]
Method = Annotated[str | None, typer.Option(help="Of a diffusion model: ddim (the default), or ancestral.")]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="How strongly a diffusion model keeps to the class; 0 unless given.")
]
Single = Annotated[Path | None, typer.Option(help="A folder, which must be new, for each picture as a file.")]
Animate = Annotated[Path | None, typer.Option(help="Write the way from noise: a .gif, or a .png (APNG).")]
Between = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="Two pictures: decode the codes between theirs, with an autoencoder."),
]
JudgeFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="A classifier of the same classes: how sure it is of the pictures.")
]
RealData = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="With --judge: the Fréchet distance to this data's held-out pictures."),
]
Columns = Annotated[int, typer.Option(min=0, help="Pictures in a row of the grid; 0: a square.")]
Json = Annotated[bool, typer.Option("--json", help="Print files, classes and settings as JSON.")]


@command(SHIP)
def sample(
    file: Annotated[str, typer.Argument(help="A checkpoint of a network that makes pictures.")],
    count: Count = 16,
    out: OutFile = None,
    class_names: ClassNames = None,
    seed: Seed = 0,
    steps: Steps = None,
    method: Method = None,
    guidance: Guidance = None,
    single: Single = None,
    animate: Animate = None,
    between: Between = None,
    judge: JudgeFile = None,
    data: RealData = None,
    columns: Columns = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    json: Json = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Make new pictures with a network: a variational autoencoder, a generator or a diffusion model."""
    options = {"steps": steps, "method": method, "guidance": guidance}
    if between is not None:
        unused = {"class": class_names, "seed": seed or None, **options, "animate": animate, "judge": judge}
        refuse_unused("with --between", **unused)
        if count < 2:
            raise NetbuildError("--between needs at least the two pictures themselves", hint="-n 8")
    if judge is None:
        refuse_unused("without --judge", data=data)
    if out is None and single is None and animate is None and judge is None:
        out = Path("samples.png")
    if out is None:
        refuse_unused("where no grid is written: name one by -o", columns=columns or None)
    _check_paths(out, single, animate)
    from netbuild.prediction.sampling import open_network

    with spinner(f"opening {file}"):
        network, task = open_network(file, device, modules or (), may_run(trust))
    print_random_weights_note(file)
    made = (
        _interpolate(network, task, between, count)
        if between is not None
        else _sample(network, task, count, class_names, seed, animate is not None, options)
    )
    verdict = None if judge is None else _judge(made, judge, data, device, modules, trust)
    written = _save(made, network, out, single, animate, columns or (count if between is not None else 0))
    if json:
        names = network.card.names
        classes = None if made.classes is None else [int(number) for number in made.classes]
        facts = {"task": task.name, "count": count, "seed": seed, "names": names, "classes": classes}
        given = {name: value for name, value in options.items() if value is not None}
        judged = {} if verdict is None else {"judge": verdict.to_dict()}
        write_json({**facts, **given, "files": [str(path) for path in written], **judged})
    else:
        for line in [] if verdict is None else verdict.lines():
            write(line)
        for path in filter(None, (out, animate, single)):
            say(f"saved {path}")


def _check_paths(out: Path | None, single: Path | None, animate: Path | None) -> None:
    """Refuse files and folders that cannot be written, before anything is computed."""
    from netbuild.drawing.grids import check_animation
    from netbuild.prediction.saving import check_folder
    from netbuild.system.files import check_parent

    if animate is not None:
        check_animation(animate)
    for path in filter(None, (out, animate)):
        check_parent(path)
        if path.is_dir():
            raise NetbuildError(f"{path}: is a folder", hint=f"name a file in it, such as {path / 'samples.png'}")
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise NetbuildError(f"{out}: a grid is written as .png or .jpg", hint=f"-o {out.with_suffix('.png')}")
    if out is not None and out == animate:
        raise NetbuildError(f"{out}: is named for the grid and for the animation")
    if single is not None:
        check_folder(single)


def _sample(
    network: "Network",
    task: "Task",
    count: int,
    class_names: str | None,
    seed: int,
    animated: bool,
    options: dict[str, Any],
) -> "Samples":
    """Make the pictures.

    Raises:
        NetbuildError: if the network makes none, or an option has no effect.
    """
    from netbuild.prediction import sampling
    from netbuild.tasks.sampling import SampleOptions

    sampler = sampling.make_sampler(network, task)
    if animated and "animate" not in sampler.takes:
        hint = "leave it out; diffusion models have a way from noise"
        raise NetbuildError("--animate has no effect: the network makes its pictures in one step", hint=hint)
    numbers = sampling.find_class_numbers(class_names or (), sampler, network.card.names)
    with spinner(f"making {count} pictures"):
        return sampling.make_samples(sampler, count, SampleOptions(**options), numbers, seed, animated)


def _judge(
    made: "Samples", judge: str, data: str | None, device: str, modules: list[str] | None, trust: bool
) -> "Verdict":
    """Judge pictures by a classifier, and compare them with real ones if there is data."""
    from netbuild.prediction.judging import Judge, read_real

    with spinner(f"judging {len(made.pictures)} pictures"):
        classifier = Judge(judge, device, modules or (), may_run(trust))
        height, width = made.pictures[0].shape[:2]
        real = None if data is None else read_real(data, (height, width))
        return classifier.judge(made.pictures, made.classes, real)


def _interpolate(network: "Network", task: "Task", between: tuple[Path, Path], count: int) -> "Samples":
    from netbuild.prediction.sampling import Samples, interpolate

    return Samples(interpolate(network, task, *between, count))


def _save(
    made: "Samples", network: "Network", out: Path | None, single: Path | None, animate: Path | None, columns: int
) -> list[Path]:
    """Write the pictures and return the paths."""
    from netbuild.drawing.encoding import save
    from netbuild.drawing.grids import make_grid, save_animation

    written = []
    if out is not None:
        save(make_grid(made.pictures, columns), out)
        written.append(out)
    if animate is not None:
        save_animation(made.way, animate)
        written.append(animate)
    digits = len(str(len(made.pictures) - 1))
    for number, picture in enumerate(made.pictures if single is not None else ()):
        assert single is not None
        kind = "" if made.classes is None else f"-{made.classes[number]}"
        save(picture, single / f"{number:0{digits}}{kind}.png")
        written.append(single / f"{number:0{digits}}{kind}.png")
    return written
