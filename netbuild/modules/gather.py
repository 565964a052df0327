"""The own modules of a run, from wherever they come: the user's flags, the file's imports, a checkpoint, packages.

What a file or a checkpoint brings is code: it runs only if ``trusted`` says so of its path.
"""

import atexit
import importlib
import importlib.util
import inspect
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from torch import nn

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.header import CodeFile, Stored
from netbuild.grammar.rows import Row
from netbuild.grammar.spec import Import, Spec
from netbuild.modules.factory import Factory, from_class
from netbuild.modules.own import code_files, content_hash, fingerprint, load
from netbuild.modules.registry import is_known_path

Trusted = Callable[[Path], bool]  # whether the code of a path may run


def load_own_modules(spec: Spec, paths: Sequence[str | Path], trusted: Trusted) -> dict[str, Factory]:
    """All own modules of a run: those the user names, and those the file imports or names by path. The user's win.

    Code that a checkpoint carries is passed over where the user names code.

    Raises:
        NetbuildError: as `load`, `load_imports`, `load_carried` and `load_packages`.
    """
    packages, own = load_packages(spec, trusted), load(paths)
    return {**packages, **load_imports(spec, trusted), **(own or load_carried(spec, trusted))}


def load_imports(spec: Spec, trusted: Trusted) -> dict[str, Factory]:
    """What a network file's ``imports:`` bring, if ``trusted`` says of each path that its code may run.

    Raises:
        NetbuildError: at the import that is not trusted, missing, or does not define the name.
    """
    found: dict[str, Factory] = {}
    for item in spec.imports:
        # Relative to the file that says it: that may be one which this file extends.
        path = Path(item.node.source.name).parent / item.path
        try:
            path = path.resolve()
            if not path.exists():
                hint = "paths are relative to this file"
                raise item.node.error(f"'{item.path}' does not exist (looked at {path})", hint)
            if not trusted(path):
                raise _untrusted(item, path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise item.node.error(f"'{shorten(item.path)}' cannot be read: {reason}") from None
        found.update(_imported(item, path))
    return found


def _imported(item: Import, path: Path) -> dict[str, Factory]:
    classes = load([path])
    if item.name is None:
        return classes
    if item.name not in classes:
        raise item.node.error(f"{item.path} defines no module '{item.name}'", f"it has {', '.join(classes)}")
    return {item.name: classes[item.name]}


def _untrusted(item: Import, path: Path) -> NetbuildError:
    lines = "\n".join(
        f"  would run {f} ({len(f.read_bytes().splitlines())} lines, {fingerprint(f)[:12]})" for f in code_files(path)
    )
    return item.node.error(
        f"this file imports code, which runs only if you trust it\n{lines}",
        f"read it, then add --trust; or name it yourself: --modules {path}",
    )


def load_carried(spec: Spec, trusted: Trusted) -> dict[str, Factory]:
    """The own modules that the checkpoint of a network carries, if its code may run.

    Raises:
        NetbuildError: if it is not trusted, or not what was stored.
    """
    if spec.stored is None or spec.checkpoint is None or not spec.stored.modules:
        return {}
    for file in (file for files in spec.stored.modules for file in files):
        _check_carried(file, spec.checkpoint)
    if not trusted(spec.checkpoint):
        raise _untrusted_checkpoint(spec.checkpoint, spec.stored)
    folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return load(_write(folder / str(i), files) for i, files in enumerate(spec.stored.modules))


def _check_carried(file: CodeFile, checkpoint: Path) -> None:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w./ -]+\.py", file.path):
        raise NetbuildError(f"{checkpoint}: '{shorten(file.path)}' is no path for a module file")
    if content_hash(file.text) != file.sha256:
        raise NetbuildError(f"{checkpoint}: the module file {file.path} is not what was stored: its SHA-256 differs")


def _untrusted_checkpoint(checkpoint: Path, facts: Stored) -> NetbuildError:
    lines = "\n".join(
        f"  would run {file.path} ({len(file.text.splitlines())} lines, {file.sha256[:12]})"
        for files in facts.modules
        for file in files
    )
    message = f"{checkpoint}: it carries the code of own modules, which runs only if you trust it\n{lines}"
    hint = f"read it: netbuild show {checkpoint} --code; then add --trust, or name your own copy with --modules"
    return NetbuildError(message, hint=hint)


def _write(folder: Path, files: Sequence[CodeFile]) -> Path:
    """Write module files; what to load of them: the one file, or the package."""
    for file in files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.text, encoding="utf-8", newline="")
    return folder / PurePosixPath(files[0].path).parts[0]


def load_packages(spec: Spec, trusted: Trusted) -> dict[str, Factory]:
    """Module classes that rows name by the dotted path of another installed package, if its code may run.

    Raises:
        NetbuildError: at the row whose package is not trusted, does not load, or has no such class.
    """
    found: dict[str, Factory] = {}
    for row in spec.all_rows():
        if "." not in row.module or row.module in found or is_known_path(row.module):
            continue
        home = _home(row.module.split(".")[0])
        if home is None or row.module.split(".")[0] in sys.stdlib_module_names:
            continue  # not installed: resolving says that the name is unknown
        if not trusted(home):
            message = f"row {row.index}: '{row.module}' would run code of {home}, which runs only if you trust it"
            raise row.module_node.error(message, "add --trust; torch's, torchvision's and timm's layers need none")
        found[row.module] = _by_path(row)
    return found


def _home(package: str) -> Path | None:
    """Where an installed package's code lies; nothing of it is run."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return Path([*(spec.submodule_search_locations or ()), spec.origin or package][0])


def _by_path(row: Row) -> Factory:
    home, _, name = row.module.rpartition(".")
    try:
        cls = getattr(importlib.import_module(home), name, None)
    except Exception as error:  # whatever the package's code says
        raise row.module_node.error(
            f"row {row.index}: {home} does not load: {type(error).__name__}: {error}"
        ) from error
    if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
        raise row.module_node.error(f"row {row.index}: '{row.module}' is no nn.Module class")
    return from_class(row.module, cls, foreign=False)
