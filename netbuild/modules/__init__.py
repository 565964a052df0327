"""A name in a row to what builds it: registry, builders, own modules, trust."""
