"""Weights: checkpoints, and tensors carried from one network to another."""
