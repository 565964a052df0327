"""Draws annotated pictures (`Drawing`), contact sheets and charts."""

from netbuild.drawing.annotated import Drawing as Drawing
