"""Marks on pictures (`Drawing`), sheets of pictures, charts."""

from netbuild.drawing.annotated import Drawing as Drawing
