"""Rows to layers to a network: `resolve` gives a `Graph` of `Layer`s."""
