"""One file a format of data sets."""
