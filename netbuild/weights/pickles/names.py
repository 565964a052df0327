"""Which names of classes and functions a pickle may contain: a few of the standard library, and any class of others."""

import sys

# Modules under their Python 2 names, which files of pickle protocol 2 still use.
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# The names of the standard library that hold or rebuild data. They are never imported: only the names are stored.
STANDARD = {
    "builtins": "bool bytearray bytes complex dict Ellipsis float frozenset int list NotImplemented object range set"
    " slice str tuple",
    "_codecs": "encode",
    "argparse": "Namespace",
    "collections": "Counter OrderedDict defaultdict deque",
    "copyreg": "__newobj__ __newobj_ex__ _reconstructor",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "types": "SimpleNamespace",
    "uuid": "UUID",
}
_STANDARD = {(module, name) for module, names in STANDARD.items() for name in names.split()}

# Packages that run or install code when unpickled; then modules of Python 2's standard library.
_REFUSED = {"cloudpickle", "dill", "joblib", "pip", "pkg_resources", "setuptools"}
_REFUSED |= {"__builtins__", "cPickle", "commands", "exceptions", "imp", "popen2", "urllib2"}

# Functions of torch that return no tensor; their result is not needed and may stay a stub.
_TORCH_DATA = {
    ("torch", "device"),
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"),
    ("torch.serialization", "_get_layout"),
}


def may_be_named(module: str, name: str) -> bool:
    """Whether a pickle may mention a class or function, even without calling it."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in _REFUSED:
        return (module, name) in _STANDARD
    return True


def may_be_called(module: str, name: str) -> bool:
    """Whether a call may be represented as a stub; functions of torch, other than the known ones, may not.

    Classes and functions are distinguished by their capitalisation, since looking the name up would import it.
    """
    if module.partition(".")[0] != "torch" or (module, name) in _TORCH_DATA:
        return True
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()
