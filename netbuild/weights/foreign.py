"""Open a checkpoint of another program in the place of one of netbuild, as if it had been imported and saved."""

from functools import lru_cache
from pathlib import Path

from netbuild.errors import NetbuildError, print_note_once
from netbuild.grammar.checkpoint_header import CheckpointInfo, is_foreign
from netbuild.graph.network import Network
from netbuild.weights import checkpoint
from netbuild.weights.importing import ImportedWeights, import_weights


def read_foreign_info(path: Path) -> CheckpointInfo:
    """Make the metadata that a checkpoint of another program would have after `import_weights` and `checkpoint.save`.

    A note says that it is read so, and what was changed in its rows.

    Raises:
        NetbuildError: if it cannot be read, has no rows, or its tensors do not fit the network of its rows.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise NetbuildError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    info, notes = _describe(path, status.st_mtime_ns, status.st_size)
    print_note_once(f"{path}: read as an Ultralytics checkpoint; netbuild weights import keeps it")
    for note in notes:
        print_note_once(f"{path}: {note}")
    return info


@lru_cache(maxsize=8)
def _describe(path: Path, modified: int, size: int) -> tuple[CheckpointInfo, tuple[str, ...]]:
    """Return the metadata and the notes of an import; a command may open its file several times."""
    imported = _import_all(path)
    notes = list(imported.notes)
    if unused := imported.match.unexpected:
        more = ", ..." if len(unused) > 1 else ""
        notes.append(f"{len(unused)} of its tensors have no place in the network: {unused[0]}{more}")
    return checkpoint.make_info(imported.network, imported.names, imported.origin), tuple(notes)


def _import_all(path: Path) -> ImportedWeights:
    """Import a checkpoint, whose tensors must fill the network: nobody asked for a network that is partly random.

    Raises:
        NetbuildError: if a tensor of the network is missing in the file or has another shape there.
    """
    imported = import_weights(path)
    if imported.match.missing or imported.match.mismatched:
        imported.match.require(path)
    return imported


def load_weights(network: Network, path: Path) -> Network:
    """Load the tensors of a checkpoint of netbuild, or of another program, into the network that it describes.

    Raises:
        NetbuildError: if a tensor is missing, unexpected or has another shape.
    """
    if not is_foreign(path):
        return checkpoint.load_weights(network, path)
    return checkpoint.load_state(network, _import_all(path).network.state_dict(), path)
