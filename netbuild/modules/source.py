"""Read the Python files of custom modules once, so that the bytes that are hashed for trust are the bytes that run.

Python's own import reads byte code from ``__pycache__``, follows links and reads a file again when it is imported.
`CodeFinder` imports from the bytes of a `Code` instead, and writes no byte code.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import linecache
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.grammar.checkpoint_header import CheckpointInfo, is_checkpoint, read_info

# These limits keep a mistyped import, such as the root folder, from being read for hours.
MAX_FILES = 20_000
MAX_ENTRIES = 200_000  # files of any kind in all folders
MAX_BYTES = 256 * 2**20  # of all files together

INIT = "__init__.py"


@dataclass(frozen=True)
class Code:
    """The Python code that importing a path may run, as it was when it was read.

    Attributes:
        path: the file, the folder, or the checkpoint that carries the code.
        files: the bytes of each file, by its path below ``path``; links are followed.
        compiled: extension modules of an installed package, which Python loads from the file.
    """

    path: Path
    files: Mapping[Path, bytes]
    compiled: Sequence[Path] = ()

    def fingerprints(self) -> dict[str, str]:
        """Return the SHA-256 of each file's path and bytes as hexadecimal digits, by path."""
        found = {str(file): fingerprint(file, data) for file, data in self.files.items()}
        return {**found, **{str(file): fingerprint(file, file.read_bytes()) for file in self.compiled}}

    def is_covered_by(self, others: Sequence["Code"]) -> bool:
        """Whether every file of it is, with the same bytes, among the files of others."""
        known = {file: data for other in others for file, data in other.files.items()}
        return not self.compiled and bool(self.files) and all(known.get(f) == data for f, data in self.files.items())


def fingerprint(file: Path, data: bytes) -> str:
    """Return the SHA-256 of a file's path and content as hexadecimal digits."""
    return hashlib.sha256(str(file).encode(errors="surrogateescape") + b"\0" + data).hexdigest()


# The code that the user is being asked about: reading its path again gives the same bytes.
_held: ContextVar[Code | None] = ContextVar("held_code", default=None)


@contextmanager
def holding(code: Code) -> Iterator[None]:
    """Let `read_code` return this code for its path, so that a decision is about the bytes that will run."""
    token = _held.set(code)
    try:
        yield
    finally:
        _held.reset(token)


def read_code(path: Path) -> Code:
    """Read the code that importing a path may run: a file, a folder and all below it, or what a checkpoint carries.

    Raises:
        NetbuildError: for a link that leads back to a folder above it, or too much code.
        OSError: if a file cannot be read.
    """
    path = _import_root(path)
    held = _held.get()
    if held is not None and held.path == path:
        return held
    if is_checkpoint(path):
        return carried_code(path, read_info(path))
    return Code(path, _read_files(code_files(path)))


def carried_code(checkpoint: Path, info: CheckpointInfo) -> Code:
    """The code that a checkpoint carries, as JSON text: trust is in the code, whatever the weights are."""
    carried = [[vars(file) for file in files] for files in info.modules]
    checkpoint = checkpoint.resolve()
    return Code(checkpoint, {checkpoint: json.dumps(carried).encode()})


def read_package(roots: Sequence[Path]) -> Code:
    """Read the code of an installed package: its folders, or its only file.

    Raises:
        NetbuildError: as `read_code`.
        OSError: if a file cannot be read.
    """
    found = [file for root in roots for file in _walk(root.resolve(), (".py", *EXTENSION_SUFFIXES))]
    sources = [file for file in found if file.suffix == ".py"]
    compiled = [file for file in found if file.suffix != ".py"]
    return Code(roots[0].resolve(), _read_files(sources), tuple(compiled))


def code_files(path: Path) -> list[Path]:
    """List the Python files that importing a path may run: the file itself, or all in the folder and below.

    An ``__init__.py`` stands for its whole package. Links are followed.

    Raises:
        NetbuildError: for a link that leads back to a folder above it, or too many files.
    """
    return list(_walk(_import_root(path), (".py",)))


def _import_root(path: Path) -> Path:
    """The file or folder that an import of a path reads; importing a package's ``__init__.py`` reads its folder."""
    path = path.resolve()
    return path.parent if path.name == INIT and path.is_file() else path


def _walk(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not root.is_dir():
        return [root]
    found: list[Path] = []
    entries = 0
    pending = [(root, frozenset((os.path.realpath(root),)))]
    while pending:
        folder, above = pending.pop()
        for name in sorted(os.listdir(folder)):
            entries += 1
            if entries > MAX_ENTRIES or len(found) > MAX_FILES:
                raise NetbuildError(f"{root}: too many files to be a package of modules", hint="name a folder of code")
            file = folder / name
            if file.is_dir() and name.isidentifier() and name != "__pycache__":  # no other folder can be imported
                real = os.path.realpath(file)
                if real in above:
                    raise NetbuildError(f"{file}: a link that leads back to {real}", hint="remove the link")
                pending.append((file, above | {real}))
            elif name.endswith(suffixes) and file.is_file():  # neither a dangling link nor a pipe
                found.append(file)
    return sorted(found)


def _read_files(files: Sequence[Path]) -> dict[Path, bytes]:
    data: dict[Path, bytes] = {}
    left = MAX_BYTES
    for file in files:
        # Opening a pipe would wait for somebody who writes to it.
        if not stat.S_ISREG(file.stat().st_mode):
            raise NetbuildError(f"{file}: not a regular file")
        with file.open("rb") as stream:
            data[file] = stream.read(left + 1)
        left -= len(data[file])
        if left < 0:
            raise NetbuildError(f"{file}: more than {MAX_BYTES >> 20} MiB of code", hint="name a folder of code")
    return data


class CodeLoader(SourceFileLoader):
    """Load a module from bytes that were read before: compiled now, without ``__pycache__``."""

    def __init__(self, fullname: str, file: Path, data: bytes) -> None:
        super().__init__(fullname, str(file))
        self.data = data

    def get_data(self, path: Any) -> bytes:
        """Return the bytes that were read, for the module's own path; other files are read from the disk."""
        return self.data if str(path) == self.path else super().get_data(path)

    def get_code(self, fullname: str) -> Any:
        """Compile the module's bytes."""
        return self.source_to_code(self.data, self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; tracebacks and `inspect` show the text that runs, even if the file changes."""
        lines = importlib.util.decode_source(self.data).splitlines(keepends=True) if self._is_text() else []
        linecache.cache[self.path] = (len(self.data), None, lines, self.path)
        super().exec_module(module)

    def _is_text(self) -> bool:
        try:
            importlib.util.decode_source(self.data)
        except (SyntaxError, UnicodeDecodeError):
            return False  # compiling it reports the mistake
        return True


@dataclass
class CodeFinder(MetaPathFinder):
    """Find the modules of registered top-level names in the code that was read for them, and nowhere else.

    Attributes:
        roots: the file, or the folders, that a top-level name stands for.
        codes: the code of a top-level name.
        installed: names of installed packages, whose extension modules are loaded by Python.
    """

    roots: dict[str, Sequence[Path]] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    installed: set[str] = field(default_factory=set)

    def register(self, name: str, roots: Sequence[Path], code: Code, installed: bool = False) -> None:
        """Let a top-level name be imported from code."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self.roots[name], self.codes[name] = roots, code
        if installed:
            self.installed.add(name)

    def forget(self, prefix: str) -> None:
        """Forget the top-level names that begin with a prefix."""
        for name in [name for name in self.codes if name.startswith(prefix)]:
            del self.roots[name], self.codes[name]
            self.installed.discard(name)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module in the code of its top-level name; None for names that are not registered.

        Raises:
            ModuleNotFoundError: for a module of a registered name that was not read.
        """
        top, *parts = fullname.split(".")
        if top not in self.codes:
            return None
        files = self.codes[top].files
        for root in self.roots[top]:
            home = root.joinpath(*parts)
            file = home if not parts else home.with_name(f"{home.name}.py")
            if home / INIT in files:
                return _make_spec(fullname, home / INIT, files[home / INIT], [str(home)])
            if file in files:
                return _make_spec(fullname, file, files[file], None)
            if any(home in known.parents for known in files):
                spec = ModuleSpec(fullname, None, is_package=True)  # a namespace package
                spec.submodule_search_locations = [str(home)]
                return spec
        return self._find_elsewhere(top, fullname, path)

    def _find_elsewhere(self, top: str, fullname: str, path: Any) -> ModuleSpec | None:
        if top in self.installed:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is None or not isinstance(spec.loader, (SourceFileLoader, SourcelessFileLoader)):
                return spec
        message = f"no Python file of {fullname} was read from {self.codes[top].path} (compiled files are not imported)"
        raise ModuleNotFoundError(message, name=fullname)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


def _make_spec(fullname: str, file: Path, data: bytes, locations: list[str] | None) -> ModuleSpec:
    loader = CodeLoader(fullname, file, data)
    spec = importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=locations)
    assert spec is not None  # there is a loader
    spec.cached = None  # no __cached__ that code could read instead
    return spec


FINDER = CodeFinder()
