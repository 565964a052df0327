"""``python -m netbuild``."""

from netbuild.cli import main

main()
