"""netbuild track."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
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
from netbuild.cli.predict import ClassAgnostic, Rectangular
from netbuild.cli.terminal import say, show, spinner, write, write_json
from netbuild.errors import NetbuildError

if TYPE_CHECKING:
    from netbuild.tracking.api import TrackingPredictor
    from netbuild.tracking.counting import Marks
    from netbuild.tracking.following import ObjectFollower
    from netbuild.tracking.mot_files import TrackRows
    from netbuild.tracking.saving import TrackWriter
    from netbuild.tracking.video import VideoTracks

DEFAULT = "bytetrack"

NetworkFile = Annotated[
    str | None, typer.Argument(metavar="NETWORK", help="A checkpoint, an .onnx file, or a network's file.")
]
Videos = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        help="Videos, cameras (0, rtsp://...); folders or patterns of pictures, each the frames of one.",
    ),
]
Detections = Annotated[
    list[str] | None,
    typer.Option(help="Instead of a network: a file or pattern of detections (MOTChallenge). May be repeated."),
]
Tracks = Annotated[
    list[str] | None,
    typer.Option(help="Only measure the tracks in this file or pattern, with --truth. May be repeated."),
]
Truth = Annotated[
    list[str] | None, typer.Option(help="A file or pattern of true tracks (gt.txt) to measure by. May be repeated.")
]
TrackerChoice = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="sort, bytetrack (default), ocsort, botsort, or a .yaml.")
]
TrackerOption = Annotated[
    list[str] | None, typer.Option("--option", "-O", help="A setting of the tracker: NAME=VALUE. May be repeated.")
]
FollowedBox = Annotated[
    str | None,
    typer.Option(metavar="X,Y,WIDTH,HEIGHT", help="Follow this one thing of the first frame, with siamfc.yaml."),
]
Lines = Annotated[
    list[str] | None, typer.Option("--line", help="Count crossings of the line x1,y1,x2,y2. May be repeated.")
]
Zones = Annotated[
    list[str] | None, typer.Option("--zone", help="Count in the polygon x1,y1,x2,y2,x3,y3,... May be repeated.")
]
SavedKinds = Annotated[
    str | None,
    typer.Option(help="What to save, comma-separated: video (default), mot (default of --detections), json; or none."),
]
OutFolder = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder to write, which must be new; runs/track unless given."),
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the tracker's settings, explained.")]
PrintJson = Annotated[
    bool, typer.Option("--json", help="Print all results as JSON; save only what --save or --out ask for.")
]


@command(SHIP)
def track(
    file: NetworkFile = None,
    sources: Videos = None,
    detections: Detections = None,
    tracks: Tracks = None,
    truth: Truth = None,
    box: FollowedBox = None,
    tracker: TrackerChoice = None,
    option: TrackerOption = None,
    line: Lines = None,
    zone: Zones = None,
    imgsz: Annotated[str | None, typer.Option(help="Letterbox pictures to this size: 640, or 640x384.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Largest batch size: 8 unless given.")] = None,
    conf: Annotated[
        float | None, typer.Option(help="Lowest confidence of a box that the tracker gets: 0.1 unless given.")
    ] = None,
    iou: Annotated[float | None, typer.Option(help="IoU above which NMS drops a box: 0.7 unless given.")] = None,
    max_det: Annotated[int | None, typer.Option(help="Most boxes per picture: 300 unless given.")] = None,
    agnostic: ClassAgnostic = False,
    classes: Annotated[str | None, typer.Option(help="Only these classes: names or numbers, comma-separated.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto (default).")] = None,
    rect: Rectangular = None,
    save: SavedKinds = None,
    out: OutFolder = None,
    json: PrintJson = False,
    print_config: PrintConfig = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Follow the objects of videos, count them, and measure tracks. Exit code 1: a video could not be read."""
    if print_config:
        from netbuild.prediction.trackers.options import describe_tracker

        return write(describe_tracker(tracker or DEFAULT))
    network_flags = {
        "imgsz": imgsz, "batch": batch, "conf": conf, "iou": iou, "max_det": max_det, "agnostic": agnostic or None,
        "classes": classes, "device": device, "rect": rect, "modules": modules, "trust": trust or None,
    }  # fmt: skip
    _check_inputs(file, sources, detections, tracks)
    output = _Output(save, out, json, truth or [])
    if box and not (detections or tracks):
        unused = {name: value for name, value in network_flags.items() if name not in ("device", "modules", "trust")}
        refuse_unused("with --box", tracker=tracker, **unused)
        return _follow(str(file), sources or [], box, _Tracker("", option or [], _parse_marks(line, zone)),
                       network_flags, output)  # fmt: skip
    if tracks:
        refuse_unused("with --tracks, which are measured only", box=box, tracker=tracker, option=option, line=line,
                      zone=zone, save=save, out=out, **network_flags)  # fmt: skip
        return _measure_files(tracks, output)
    chosen = _Tracker(tracker or DEFAULT, option or [], _parse_marks(line, zone))
    if detections:
        refuse_unused("with --detections", box=box, **network_flags)
        return _track_detections(detections, chosen, output)
    raise typer.Exit(_track_videos(str(file), sources or [], chosen, network_flags, output))


def _parse_marks(lines: list[str] | None, zones: list[str] | None) -> "Marks":
    from netbuild.tracking.counting import parse_marks

    return parse_marks(lines or (), zones or ())


def _check_inputs(
    file: str | None, sources: list[str] | None, detections: list[str] | None, tracks: list[str] | None
) -> None:
    """Check that exactly one of a network with sources, detections and tracks is given."""
    if detections and tracks:
        raise NetbuildError("--detections and --tracks exclude each other")
    for flag, given in (("--detections", detections), ("--tracks", tracks)):
        if given and file:
            raise NetbuildError(f"{flag} needs no network, but there is '{file}'", hint="leave it out")
    if not (detections or tracks) and not (file and sources):
        missing = "a source: a video, or a folder of frames" if file else "a network and a source"
        hint = "netbuild track best.safetensors clip.mp4, or --detections det.txt"
        raise NetbuildError(f"track needs {missing}", hint=hint)


@dataclass(frozen=True)
class _Tracker:
    """The tracker that flags choose, its settings as texts, and the lines and zones to count at."""

    name: str
    settings: list[str]
    marks: "Marks"


@dataclass
class _Output:
    """Flags of the output, and the results so far."""

    save: str | None
    out: Path | None
    json: bool
    truth: list[str]
    videos: "list[VideoTracks]" = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    measure: "Callable[[Mapping[str, TrackRows]], Any] | None" = None  # of the tracks of each video; None for the usual
    draw: Callable[[Any, Path], object] | None = None  # draws charts of the measures into a folder
    keeps_frames: bool = False  # for a document: a video may have more of them than fit into memory

    def open(self, default: str, has_pictures: bool) -> "TrackWriter":
        """Check what is to be saved and return its writer."""
        from netbuild.prediction.saving import check_folder
        from netbuild.system.files import new_folder
        from netbuild.tracking.saving import TrackWriter, parse_kinds

        nothing = self.json and self.save is None and self.out is None
        kinds = () if nothing else parse_kinds(self.save, default, has_pictures)
        refuse_unused("where nothing is saved", **({} if kinds else {"out": self.out}))
        folder = self.out or new_folder("track")
        check_folder(folder)
        self.keeps_frames = self.json or "json" in kinds
        return TrackWriter(folder, kinds)

    def add(self, tracks: "VideoTracks", frame: Mapping[str, Any]) -> None:
        """Note a frame; when it is the first of its video, print the line of the video before it."""
        if tracks not in self.videos:
            self.end_video()
            self.videos.append(tracks)
        if self.keeps_frames:
            self.frames.append(dict(frame))

    def end_video(self) -> None:
        """Print the line of the last video."""
        if self.videos and not self.json:
            write(self.videos[-1].line())

    def finish(self, writer: "TrackWriter", head: Mapping[str, Any]) -> None:
        """Measure by the truth, write the document, and print what was asked for."""
        found = {tracks.name: tracks.to_rows() for tracks in self.videos}
        if len(found) < len(self.videos) and self.truth:
            raise NetbuildError("--truth: two videos have the same name, so their truth is not known")
        measures = (self.measure or partial(measure, truth=self.truth))(found) if self.truth else None
        document = {
            **head,
            "videos": [tracks.to_dict() for tracks in self.videos],
            "frames": self.frames,
            "failed": self.failed,
            **({} if measures is None else {"measures": measures.to_dict()}),
        }
        writer.end(document)
        if self.draw is not None and measures is not None and writer.kinds:
            self.draw(measures, writer.folder)
        if self.json:
            write_json(document)
            return
        if measures is not None:
            show(measures.table())
        if writer.kinds and writer.folder.exists():
            say(f"saved in {writer.folder}")


def measure(found: "Mapping[str, TrackRows]", truth: list[str]) -> Any:
    """Return the report on the tracks of each sequence; ``truth`` are names and patterns of files."""
    from netbuild.tracking.evaluation import evaluate, read_truth
    from netbuild.tracking.mot_files import list_paths, name_sequences

    true = read_truth(name_sequences(list_paths(truth, "truth")), found)
    return evaluate({name: (true[name], found[name]) for name in found})


def _measure_files(names: list[str], output: _Output) -> None:
    """Measure the tracks of files, and print a table or JSON."""
    from netbuild.tracking.mot_files import list_paths, name_sequences, read_rows

    if not output.truth:
        raise NetbuildError("--tracks needs the true tracks", hint="give them as --truth gt.txt")
    files = name_sequences(list_paths(names, "tracks"))
    with spinner("measuring"):
        report = measure({name: read_rows(path) for name, path in files.items()}, output.truth)
    if output.json:
        write_json(report.to_dict())
    else:
        show(report.table())


def _track_detections(names: list[str], chosen: _Tracker, output: _Output) -> None:
    """Track the objects of files of detections."""
    from netbuild.prediction.trackers.options import prepare_tracker
    from netbuild.tracking.api import read_detections, track_detections
    from netbuild.tracking.mot_files import list_paths, name_sequences
    from netbuild.training.progress import progress_bar

    make = prepare_tracker(chosen.name, chosen.settings)
    paths = name_sequences(list_paths(names, "detections"))
    files = [read_detections(path, name) for name, path in paths.items()]
    with progress_bar(sum(file.length for file in files)) as step, output.open("mot", False) as writer:
        for file in files:
            for tracks, records in track_detections(file, make, chosen.marks):
                writer.add(tracks)
                output.add(tracks, {"path": str(file.path), "frame": tracks.frame, "records": records})
                step()
    output.end_video()
    output.finish(writer, {"tracker": chosen.name})


def _track_videos(file: str, sources: list[str], chosen: _Tracker, flags: Mapping[str, Any], output: _Output) -> int:
    """Track the objects of videos by a network; return the exit code."""
    size = parse_image_size(flags["imgsz"])
    refuse_code(file, flags["modules"], bool(flags["trust"]))
    import torch

    from netbuild.tracking.api import find_videos, prepare_tracking

    videos = find_videos(sources)
    torch.manual_seed(0)
    options = {name: value for name, value in flags.items() if name not in ("imgsz", "modules", "trust")}
    options |= {"imgsz": size, "batch": flags["batch"] or 8, "device": flags["device"] or "auto"}
    options |= {"modules": flags["modules"] or (), "trusted": may_run(bool(flags["trust"]))}
    with spinner(f"opening {file}"):
        ready = prepare_tracking(file, chosen.name, chosen.settings, chosen.marks, **options)
    print_random_weights_note(file)

    _write_frames(ready, videos, output, {"tracker": chosen.name})
    return int(bool(output.failed))


def _follow(
    file: str, sources: list[str], box: str, chosen: _Tracker, flags: Mapping[str, Any], output: _Output
) -> None:
    """Follow one thing through a video."""
    refuse_code(file, flags["modules"], bool(flags["trust"]))
    import torch

    from netbuild.tracking.api import find_videos
    from netbuild.tracking.following import parse_box, prepare_following
    from netbuild.tracking.mot_files import list_paths
    from netbuild.tracking.success_metric import measure_followed

    place, videos = parse_box(box), find_videos(sources)
    torch.manual_seed(0)
    with spinner(f"opening {file}"):
        ready = prepare_following(
            file, videos, place, chosen.settings, chosen.marks, device=flags["device"],
            modules=flags["modules"] or (), trusted=may_run(bool(flags["trust"])),
        )  # fmt: skip
    print_random_weights_note(file)
    output.measure = lambda found: measure_followed(found, list_paths(output.truth, "truth"))
    output.draw = lambda report, folder: list(report.save_plots(folder))
    _write_frames(ready, videos, output, {"box": list(place)})
    raise typer.Exit(int(bool(output.failed)))


def _write_frames(
    ready: "TrackingPredictor | ObjectFollower", videos: Any, output: _Output, head: Mapping[str, Any]
) -> None:
    """Track the objects of videos, print a line for each frame, and save and measure what was asked for."""
    from netbuild.training.progress import progress_bar

    def unreadable(path: Path, error: NetbuildError) -> None:
        output.failed.append({"path": str(path), "reason": error.message})
        say(str(error))

    with progress_bar(None) as step, output.open("video", True) as writer:
        for result in ready.run(videos, unreadable):
            writer.add(result.tracks, result)
            output.add(result.tracks, result.to_dict() if output.keeps_frames else {})
            if not output.json:
                write(result.line())
            step()
    output.end_video()
    task = ready.task
    output.finish(writer, {"task": task.name, "names": task.names, **head})
