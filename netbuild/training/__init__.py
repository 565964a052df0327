"""A run: put together, trained, validated, saved and resumed."""
