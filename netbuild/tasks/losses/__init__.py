"""Losses of heads, a file for each kind of output that a head learns from."""
