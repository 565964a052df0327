"""The command line. A command is one small file, which registers with `netbuild.cli.flags.app` when it is imported."""

from netbuild.cli.application import entry, main

__all__ = ["entry", "main"]
