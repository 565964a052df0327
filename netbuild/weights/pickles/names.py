"""Which names a checkpoint may use: a few of the standard library, as data, and any class from elsewhere."""

import sys

# Python 2 called these otherwise; files of pickle protocol 2 still do.
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# Of the standard library, what holds or rebuilds data. Nothing of it is looked up: the names alone are kept.
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

# Packages whose pickles carry code, or that install some; and modules that Python 2 had.
_ACTING = {"cloudpickle", "dill", "joblib", "pip", "pkg_resources", "setuptools"}
_ACTING |= {"__builtins__", "cPickle", "commands", "exceptions", "imp", "popen2", "urllib2"}

# Functions of torch that give no tensor, and whose result may stay unknown.
_TORCH_DATA = {
    ("torch", "device"),
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"),
    ("torch.serialization", "_get_layout"),
}


def may_be_named(module: str, name: str) -> bool:
    """Whether a file may mention a class or function at all, even without calling it."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in _ACTING:
        return (module, name) in _STANDARD
    return True


def may_be_called(module: str, name: str) -> bool:
    """Whether a call of it may be kept as data: a function of torch outside the known ones may not.

    By their spelling classes and functions are told apart, since looking one up would import it.
    """
    if module.partition(".")[0] != "torch" or (module, name) in _TORCH_DATA:
        return True
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()
