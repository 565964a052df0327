"""``python -m netbuild``."""

from netbuild.cli.application import entry

entry()
