"""Shows a network file as written or resolved, or what a checkpoint contains."""

from netbuild.errors import NetbuildError
from netbuild.grammar import header
from netbuild.grammar.extends import to_yaml
from netbuild.grammar.locate import locate
from netbuild.grammar.nodes import read_text
from netbuild.grammar.spec import load


def text(file: str, resolved: bool = False, code: bool = False) -> str:
    """The text of a network file or a checkpoint's network.

    Args:
        file: a path, or the name of a packaged network.
        resolved: with what it extends read in and its edits done.
        code: the code of own modules that a checkpoint carries, instead.

    Raises:
        NetbuildError: if it cannot be read, or has no code although it is asked for.
    """
    path, _ = locate(file)
    if code:
        return _code(load(path).stored, file)
    if resolved:
        return to_yaml(load(path).root)
    return header.read(path).yaml if header.is_checkpoint(path) else read_text(path)


def _code(facts: header.Stored | None, file: str) -> str:
    files = [f for group in facts.modules for f in group] if facts else []
    if not files:
        raise NetbuildError(f"{file}: it carries no code", hint="--code shows the own modules of a checkpoint")
    return "\n".join(f"# {f.path}, SHA-256 {f.sha256}\n{f.text}" for f in files)
