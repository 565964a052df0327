"""Custom modules: ``nn.Module`` classes of the user's Python files, for use in rows.

Loading a file or folder runs its code.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from torch import nn

from netbuild.errors import NetbuildError, Where, shorten
from netbuild.grammar.checkpoint_header import CodeFile
from netbuild.modules.factory import Factory, from_class
from netbuild.roles import Role
from netbuild.system.plugins import register_again, registered_class

PREFIX = "netbuild_modules"  # of the names under which custom files are imported
Class = TypeVar("Class", bound=type[nn.Module])


def module(
    name: str | None = None, *, roles: dict[str, Role] | None = None, task: str | None = None, doc: str = ""
) -> Callable[[Class], Class]:
    """Describe an ``nn.Module`` class where its signature is not enough: a class decorator.

    Args:
        name: another name that rows may use.
        roles: roles of constructor parameters, by parameter name.
        task: the task of a head, such as ``detect``.
        doc: a one-line description.
    """

    def mark(cls: Class) -> Class:
        cls.__netbuild__ = {"name": name, "roles": roles or {}, "task": task, "doc": doc}  # type: ignore[attr-defined]
        return cls

    return mark


def load_modules(paths: Iterable[str | Path]) -> dict[str, Factory]:
    """Load the module classes of Python files, folders and packages, by the name that rows use.

    Raises:
        NetbuildError: if a path is missing, its code fails, or two paths define the same name.
    """
    found: dict[str, Factory] = {}
    for path in paths:
        try:
            classes = _load_path(Path(path))
        except (OSError, ValueError) as error:  # an invalid path, or one without permission
            raise NetbuildError(
                f"{shorten(path)}: cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
        for name, factory in classes.items():
            # One class under two paths, such as a file and its folder, is no conflict.
            if name in found and found[name].make is not factory.make:
                raise NetbuildError(f"'{name}' is defined twice: in {found[name].file} and in {factory.file}")
            found[name] = factory
    return found


def _load_path(path: Path) -> dict[str, Factory]:
    if not path.exists():
        raise NetbuildError(f"{path}: there is no such module file or folder")
    files = [path] if path.is_file() else _python_files(path)
    if not files:
        raise NetbuildError(f"{path}: no Python file in it")
    modules = [import_file(file) for file in files]
    factories = {name: f for module in modules for name, f in _find_classes(module)}
    has_plugins = [register_again(module.__name__) for module in modules]
    if not factories and not any(has_plugins):
        hint = "decorators register a task (netbuild.tasks.task), target (netbuild.export.base.target) or data format"
        raise NetbuildError(f"{path}: no nn.Module class in it", hint=hint)
    return factories


def _python_files(folder: Path) -> list[Path]:
    package = folder / "__init__.py"
    return [package] if package.is_file() else sorted(folder.glob("*.py"))


def import_file(file: Path) -> ModuleType:
    """Import a Python file under a unique name, once.

    The module stays in ``sys.modules``, so that its classes can be pickled and relative imports of a package work.

    Raises:
        NetbuildError: at the line of the file that fails.
    """
    file = file.resolve()
    stem = file.parent.name if file.name == "__init__.py" else file.stem
    # The fingerprint tells files of the same name apart, and a file from its earlier versions.
    name = f"{PREFIX}_{re.sub(r'[^0-9a-zA-Z]+', '_', stem)}_{fingerprint(file)[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    folders = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise NetbuildError(f"{file}: not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException as error:  # SystemExit, too: a module file must not end the program
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _code_error(file, error) from error
    return loaded


def _code_error(file: Path, error: BaseException) -> NetbuildError:
    """Make an error at the line of ``file`` that raised another."""
    line, column, text = 1, 1, ""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        line, column, text = error.lineno or 1, error.offset or 1, (error.text or "").rstrip("\n")
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == str(file):
                line, text = frame.lineno or 1, inspect.cleandoc(frame.line or "")
    message = f"the module file does not run: {type(error).__name__}: {error}"
    return NetbuildError(message, Where(str(file), line, column, text))


def _find_classes(loaded: ModuleType) -> Iterator[tuple[str, Factory]]:
    """Find the module classes of an imported file or package, with the names that rows may use."""
    package = getattr(loaded, "__path__", None) is not None
    for name, cls in list(vars(loaded).items()):
        if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
            continue
        # Of a package also the classes that it imports from its own files; of a file only those it defines.
        home = cls.__module__
        if home == loaded.__name__ or (package and home.startswith(f"{loaded.__name__}.")):
            factory = from_class(name, cls, foreign=False)
            yield name, factory
            alias = getattr(cls, "__netbuild__", {}).get("name")
            if alias:
                yield alias, factory


def unload_modules() -> None:
    """Forget all imported custom files, so that loading reads them again; existing objects keep their classes."""
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]
    importlib.invalidate_caches()


def code_files(path: Path) -> list[Path]:
    """List the Python files that importing a path may run: the file itself, or all in the folder and below."""
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of a file's path and content as hexadecimal digits."""
    return hashlib.sha256(str(file.resolve()).encode() + b"\0" + file.read_bytes()).hexdigest()


def collect_sources(factories: Iterable[Factory], task: str | None = None) -> tuple[tuple[CodeFile, ...], ...]:
    """Collect the source files that a checkpoint must carry: those of custom modules and of a custom task.

    Args:
        factories: factories of the custom modules that the network's rows use.
        task: the name of the network's task.

    Returns:
        Each file or package once; a package as all its files.
    """
    task_class = registered_class("task", task) if task else None
    homes = [*(f.make.__module__ for f in factories), *([task_class.__module__] if task_class else [])]
    tops = dict.fromkeys(home.split(".")[0] for home in homes if home.startswith(PREFIX))
    return tuple(_read_sources(sys.modules[top]) for top in tops)


def _read_sources(top: ModuleType) -> tuple[CodeFile, ...]:
    file = Path(str(top.__file__))
    package = hasattr(top, "__path__")
    files, base = (sorted(file.parent.rglob("*.py")), file.parent.parent) if package else ([file], file.parent)
    texts = [(f.relative_to(base).as_posix(), f.read_bytes().decode("utf-8-sig")) for f in files]
    return tuple(CodeFile(path, text, content_hash(text)) for path, text in texts)


def content_hash(text: str) -> str:
    """Return the SHA-256 of a text as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
