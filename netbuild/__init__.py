"""netbuild: vision networks from YAML. Names are loaded when used, so that importing the package imports no torch."""

from typing import TYPE_CHECKING

from netbuild.system.plugins import lazy_attributes

__version__ = "0.1.0"

_HOMES = {
    "load": "grammar.spec",
    "build": "weights.building",
    "transfer": "weights.building",
    "eject": "author.ejecting",
    "predict": "prediction.predictor",
    "sample": "prediction.sampling",
    "track": "tracking.api",
    "Model": "model",
    "train": "training.api",
    "val": "training.api",
    "export": "export",  # the package, which can be called
    "benchmark": "export.benchmark",
    "check": "author.check",
    "diff": "author.diff",
    "save": "weights.checkpoint",
    "resolve": "graph.resolver",
    "Options": "graph.options",
    "summarize": "report.summary",
    "draw": "report.diagram",
    "Summary": "report.summary",
    "NetbuildError": "errors",
    "module": "modules.custom",
    **dict.fromkeys(("In", "Width", "Depth", "Size", "Stride", "Plain"), "roles"),
}
__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from netbuild.author.check import check as check
    from netbuild.author.diff import diff as diff
    from netbuild.author.ejecting import eject as eject
    from netbuild.errors import NetbuildError as NetbuildError
    from netbuild.export import export as export
    from netbuild.export.benchmark import benchmark as benchmark
    from netbuild.grammar.spec import load as load
    from netbuild.graph.options import Options as Options
    from netbuild.graph.resolver import resolve as resolve
    from netbuild.model import Model as Model
    from netbuild.modules.custom import module as module
    from netbuild.prediction.predictor import predict as predict
    from netbuild.prediction.sampling import sample as sample
    from netbuild.report.diagram import draw as draw
    from netbuild.report.summary import Summary as Summary
    from netbuild.report.summary import summarize as summarize
    from netbuild.roles import Depth as Depth
    from netbuild.roles import In as In
    from netbuild.roles import Plain as Plain
    from netbuild.roles import Size as Size
    from netbuild.roles import Stride as Stride
    from netbuild.roles import Width as Width
    from netbuild.tracking.api import track as track
    from netbuild.training.api import train as train
    from netbuild.training.api import val as val
    from netbuild.weights.building import build as build
    from netbuild.weights.building import transfer as transfer
    from netbuild.weights.checkpoint import save as save

__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)
