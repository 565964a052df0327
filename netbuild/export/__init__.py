"""Export: networks to files that run elsewhere, each proven equal to the network before it gets its name."""
