"""Weights in files: foreign checkpoints read as data, and fitted to a network."""
