"""Writes a commented starter file, which passes `check` as it is."""

from pathlib import Path

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.locate import packaged_architectures
from netbuild.system.files import writing

TEMPLATES = Path(__file__).parent / "templates"


def list_origins() -> list[str]:
    """Return the names that a file can start from: templates and the packaged architectures."""
    return [
        *sorted(p.stem for p in TEMPLATES.glob("*.yaml") if p.stem != "extends"),
        *(Path(n).stem for n in packaged_architectures()),
    ]


def write_starter(name: str, origin: str) -> Path:
    """Write ``name``.yaml from a template or as an extension of a packaged architecture.

    Raises:
        NetbuildError: for an unknown origin, a file that exists, or a folder that cannot be written.
    """
    path = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    origin = origin.removesuffix(".yaml")
    if origin not in list_origins():
        hint = did_you_mean(origin, list_origins()) or f"known: {', '.join(list_origins())}"
        raise NetbuildError(f"there is no template or packaged network '{origin}'", hint=hint)
    template = TEMPLATES / f"{origin}.yaml"
    text = (template if template.is_file() else TEMPLATES / "extends.yaml").read_text(encoding="utf-8")
    text = text.replace("NAME", path.stem).replace("BASE", f"{origin}.yaml")
    with writing(path):
        try:
            file = path.open("x", encoding="utf-8")  # "x": an existing file is never overwritten
        except FileExistsError:
            raise NetbuildError(f"{path} exists already", hint="choose another name") from None
        with file:
            file.write(text)
    return path
