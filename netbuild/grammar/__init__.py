"""The files that users write, read with their places; imports no torch."""
