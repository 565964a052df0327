"""Shows a network file as written or resolved, or what a checkpoint contains."""

from netbuild.errors import NetbuildError
from netbuild.grammar import checkpoint_header
from netbuild.grammar.locate import locate
from netbuild.grammar.nodes import read_text
from netbuild.grammar.spec import load
from netbuild.grammar.writing import to_yaml


def show(file: str, resolved: bool = False, code: bool = False) -> str:
    """Return the text of a network file, or of the one stored in a checkpoint.

    Args:
        file: a path, or the name of a packaged network.
        resolved: apply ``extends`` and its edits.
        code: return the code of custom modules that is stored in a checkpoint instead.

    Raises:
        NetbuildError: if the file cannot be read, or if it has no code although ``code`` is True.
    """
    path, _ = locate(file)
    if code:
        return _stored_code(load(path).checkpoint_info, file)
    if resolved:
        return to_yaml(load(path).root)
    info = checkpoint_header.read_network(path)
    return info.yaml if info else read_text(path)


def _stored_code(facts: checkpoint_header.CheckpointInfo | None, file: str) -> str:
    files = [f for group in facts.modules for f in group] if facts else []
    if not files:
        raise NetbuildError(f"{file} contains no code", hint="--code shows the custom modules stored in a checkpoint")
    return "\n".join(f"# {f.path}, SHA-256 {f.sha256}\n{f.text}" for f in files)
