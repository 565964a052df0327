"""From samples to batches: augmentation, targets, and the batch loader."""
