"""Pickles of other programs, read as data: no code of theirs is run."""
