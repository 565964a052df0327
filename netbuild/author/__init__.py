"""Help for people who write network files."""
