"""``python -m netbuild``."""

from netbuild.cli import entry

entry()
