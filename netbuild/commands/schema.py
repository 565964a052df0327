"""netbuild schema."""
