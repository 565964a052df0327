"""Samples to batches: augmentation, targets, the loader."""
