"""Custom modules: ``nn.Module`` classes of the user's Python files, for use in rows.

Loading a file or folder runs its code.
"""

import hashlib
import importlib
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
from netbuild.modules.source import FINDER, INIT, Code, read_code
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
    return load_code(read_codes(paths))


def read_codes(paths: Iterable[str | Path]) -> list[Code]:
    """Read the code of Python files, folders and packages, without running it.

    Raises:
        NetbuildError: if a path is missing or cannot be read, or has no Python file.
    """
    codes = []
    for path in map(Path, paths):
        try:
            if not path.exists():
                raise NetbuildError(f"{path}: there is no such module file or folder")
            if path.is_file() and path.suffix != ".py":
                raise NetbuildError(f"{path}: not a Python file", hint="a module file is Python source, NAME.py")
            codes.append(read_code(path))
        except (OSError, ValueError) as error:  # an invalid path, or one without permission
            raise NetbuildError(
                f"{shorten(path)}: cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
    return codes


def load_code(codes: Iterable[Code]) -> dict[str, Factory]:
    """Run code that was read, and return its module classes by the name that rows use.

    Raises:
        NetbuildError: if the code fails, has no module class, or two paths define the same name.
    """
    found: dict[str, Factory] = {}
    for code in codes:
        for name, factory in _load_one(code).items():
            # One class under two paths, such as a file and its folder, is no conflict.
            if name in found and found[name].make is not factory.make:
                raise NetbuildError(f"'{name}' is defined twice: in {found[name].file} and in {factory.file}")
            found[name] = factory
    return found


def _load_one(code: Code) -> dict[str, Factory]:
    path = code.path
    files = _imported_files(code)
    if not files:
        raise NetbuildError(f"{path}: no Python file in it")
    modules = [_import_code(file, code) for file in files]
    factories = {name: f for module in modules for name, f in _find_classes(module)}
    has_plugins = [register_again(module.__name__) for module in modules]
    if not factories and not any(has_plugins):
        hint = "decorators register a task (netbuild.tasks.task), target (netbuild.export.base.target) or data format"
        raise NetbuildError(f"{path}: no nn.Module class in it", hint=hint)
    return factories


def _imported_files(code: Code) -> list[Path]:
    """The files that loading a path imports: the file, the package's ``__init__.py``, or all directly in the folder."""
    package = code.path / INIT
    if package in code.files:
        return [package]
    return [file for file in code.files if file == code.path or file.parent == code.path]


def import_file(file: Path) -> ModuleType:
    """Import a Python file under a unique name, once.

    The module stays in ``sys.modules``, so that its classes can be pickled and relative imports of a package work.

    Raises:
        NetbuildError: at the line of the file that fails.
    """
    (code,) = read_codes([file])
    return _import_code(_imported_files(code)[0], code)


def _import_code(file: Path, code: Code) -> ModuleType:
    is_package = file.name == INIT
    # Only the bytes that were read run: a package's all, of any other file its own.
    code = code if is_package else Code(file, {file: code.files[file]})
    stem = file.parent.name if is_package else file.stem
    # The fingerprint tells files of the same name apart, and a file from its earlier versions.
    prints = code.fingerprints()
    digest = content_hash(repr(sorted(prints.items()))) if is_package else prints[str(file)]
    name = f"{PREFIX}_{re.sub(r'[^0-9a-zA-Z]+', '_', stem)}_{digest[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    FINDER.register(name, [file.parent if is_package else file], code)
    try:
        return importlib.import_module(name)
    except BaseException as error:  # SystemExit, too: a module file must not end the program
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _code_error(file, error) from error


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
    FINDER.forget(PREFIX)


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
    # The text that runs: the files may have changed since.
    code = FINDER.codes[top.__name__]
    base = code.path.parent
    texts = [(file.relative_to(base).as_posix(), data.decode("utf-8-sig")) for file, data in code.files.items()]
    return tuple(CodeFile(path, text, content_hash(text)) for path, text in texts)


def content_hash(text: str) -> str:
    """Return the SHA-256 of a text as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
