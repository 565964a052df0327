"""Training and validation: `start` sets up a run, `resume` one that was stopped, `validate` measures a network."""

from typing import TYPE_CHECKING

from netbuild.system.plugins import lazy_attributes

if TYPE_CHECKING:
    from netbuild.system.files import new_folder as new_folder
    from netbuild.training.run import resume as resume
    from netbuild.training.run import start as start
    from netbuild.training.validation import validate as validate

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "start": "training.run",
        "resume": "training.run",
        "validate": "training.validation",
        "new_folder": "system.files",
    },
)
