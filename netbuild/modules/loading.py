"""Load the custom modules of a network from all their origins: flags, the file's imports, checkpoints, packages.

Modules that a file or a checkpoint brings are foreign code, which runs only if ``trusted`` returns True for its path.
"""

import atexit
import importlib
import importlib.util
import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from torch import nn

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.checkpoint_header import CheckpointInfo, CodeFile
from netbuild.grammar.rows import Row
from netbuild.grammar.spec import Import, Spec
from netbuild.modules.custom import content_hash, load_code, load_modules, read_codes
from netbuild.modules.factory import Factory, from_class
from netbuild.modules.registry import is_known_path
from netbuild.modules.source import FINDER, Code, carried_code, holding, read_package
from netbuild.system.files import writing

Trusted = Callable[[Path], bool]  # whether the code of a path may run


def load_custom_modules(spec: Spec, paths: Sequence[str | Path], trusted: Trusted) -> dict[str, Factory]:
    """Load all custom modules of a network; where names collide, those of ``paths`` win.

    The code that a checkpoint carries is ignored if ``paths`` has any modules.

    Args:
        spec: the network file.
        paths: Python files or folders that the user named, which run without being asked about, also where the file
            imports them.
        trusted: whether code of the file's imports, of a checkpoint or of another package may run, by path.

    Raises:
        NetbuildError: see `load_modules`, `load_imports`, `load_carried` and `load_packages`.
    """
    codes = read_codes(paths)
    packages, named = load_packages(spec, trusted, codes), load_code(codes)
    return {**packages, **load_imports(spec, trusted, codes), **(named or load_carried(spec, trusted))}


def _may_run(code: Code, trusted: Trusted, named: Sequence[Code]) -> bool:
    """Whether code may run: the user named all its files, or trusts its path with these bytes."""
    if code.is_covered_by(named):
        return True
    with holding(code):
        return trusted(code.path)


def load_imports(spec: Spec, trusted: Trusted, named: Sequence[Code] = ()) -> dict[str, Factory]:
    """Load the modules of a network file's ``imports:``; those whose files are all ``named`` run without being asked.

    Raises:
        NetbuildError: at an import that is not trusted, is missing, or does not define its class.
    """
    found: dict[str, Factory] = {}
    for item in spec.imports:
        # Relative to the file with the import, which may be one that this file extends.
        path = Path(item.node.source.name).parent / item.path
        try:
            path = path.resolve()
            if not path.exists():
                hint = "paths are relative to this file"
                raise item.node.error(f"'{item.path}' does not exist (looked at {path})", hint)
            (code,) = read_codes([path])
            if not _may_run(code, trusted, named):
                raise _untrusted_import_error(item, code)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise item.node.error(f"'{shorten(item.path)}' cannot be read: {reason}") from None
        except NetbuildError as error:
            raise error if error.where else item.node.error(error.message, error.hint) from None
        found.update(_load_import(item, code))
    return found


def _load_import(item: Import, code: Code) -> dict[str, Factory]:
    classes = load_code([code])
    if item.name is None:
        return classes
    if item.name not in classes:
        raise item.node.error(f"{item.path} defines no module '{item.name}'", f"it has {', '.join(classes)}")
    return {item.name: classes[item.name]}


def _untrusted_import_error(item: Import, code: Code) -> NetbuildError:
    prints = code.fingerprints()
    lines = "\n".join(
        f"  would run {file} ({len(data.splitlines())} lines, {prints[str(file)][:12]})"
        for file, data in code.files.items()
    )
    return item.node.error(
        f"this file imports code, which runs only if you trust it\n{lines}",
        f"read it, then add --trust; or name it yourself: --modules {code.path}",
    )


def load_carried(spec: Spec, trusted: Trusted) -> dict[str, Factory]:
    """Load the custom modules whose source a checkpoint carries.

    Raises:
        NetbuildError: if the checkpoint is not trusted, or a file's text does not match its stored hash.
    """
    if spec.checkpoint_info is None or spec.checkpoint is None or not spec.checkpoint_info.modules:
        return {}
    for file in (file for files in spec.checkpoint_info.modules for file in files):
        _check_carried(file, spec.checkpoint)
    code = carried_code(spec.checkpoint, spec.checkpoint_info)
    with holding(code):
        may_run = trusted(spec.checkpoint)
    if not may_run:
        raise _untrusted_checkpoint_error(spec.checkpoint, spec.checkpoint_info)
    # The files stay until the process ends: tracebacks and `inspect` read them.
    folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return load_modules(_write_sources(folder / str(i), files) for i, files in enumerate(spec.checkpoint_info.modules))


def _check_carried(file: CodeFile, checkpoint: Path) -> None:
    if content_hash(file.text) != file.sha256:
        raise NetbuildError(
            f"{checkpoint}: the module file {file.path} was changed after it was stored: its SHA-256 differs"
        )


def _untrusted_checkpoint_error(checkpoint: Path, facts: CheckpointInfo) -> NetbuildError:
    lines = "\n".join(
        f"  would run {file.path} ({len(file.text.splitlines())} lines, {file.sha256[:12]})"
        for files in facts.modules
        for file in files
    )
    message = f"{checkpoint}: it carries the code of custom modules, which runs only if you trust it\n{lines}"
    hint = f"read it: netbuild show {checkpoint} --code; then add --trust, or name your own copy with --modules"
    return NetbuildError(message, hint=hint)


def _write_sources(folder: Path, files: Sequence[CodeFile]) -> Path:
    """Write module files into a folder; return the path to load, which is the only file or the package.

    The paths were checked when the checkpoint was read: none leads out of the folder.
    """
    for file in files:
        target = folder / file.path
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text, encoding="utf-8", newline="")
    return folder / PurePosixPath(files[0].path).parts[0]


def load_packages(spec: Spec, trusted: Trusted, named: Sequence[Code] = ()) -> dict[str, Factory]:
    """Load the classes that rows name by a dotted path into an installed package.

    Packages that `is_known_path` covers are left to the registry.

    Raises:
        NetbuildError: at a row whose package is not trusted, does not load, or has no such class.
    """
    found: dict[str, Factory] = {}
    for row in spec.all_rows():
        if "." not in row.module or row.module in found or is_known_path(row.module):
            continue
        package = row.module.split(".")[0]
        roots = _find_package(package)
        if not roots or package in sys.stdlib_module_names:
            continue  # resolving the row reports the unknown module
        code = _read_package(row, roots)
        if not _may_run(code, trusted, named):
            message = f"row {row.index}: '{row.module}' would run code of {roots[0]}, which runs only if you trust it"
            raise row.module_node.error(message, "add --trust; torch's, torchvision's and timm's layers need none")
        FINDER.register(package, roots, code, installed=True)
        found[row.module] = _import_class(row)
    return found


def _find_package(package: str) -> list[Path]:
    """Find the folders or the file of an installed package without running any of its code; empty if there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    return [Path(place).resolve() for place in places if Path(place).exists()]


def _read_package(row: Row, roots: Sequence[Path]) -> Code:
    try:
        return read_package(roots)
    except NetbuildError as error:
        raise row.module_node.error(f"row {row.index}: {error.message}", error.hint) from None
    except OSError as error:
        raise row.module_node.error(f"row {row.index}: {roots[0]} cannot be read: {error.strerror}") from None


def _import_class(row: Row) -> Factory:
    home, _, name = row.module.rpartition(".")
    try:
        cls = getattr(importlib.import_module(home), name, None)
    except Exception as error:  # the package's code may raise anything
        raise row.module_node.error(
            f"row {row.index}: {home} does not load: {type(error).__name__}: {error}"
        ) from error
    if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
        raise row.module_node.error(f"row {row.index}: '{row.module}' is not an nn.Module class")
    return from_class(row.module, cls, foreign=False)
