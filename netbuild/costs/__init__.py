"""Costs of a network, observed in a run on torch's meta device: shapes, receptive fields, multiply-adds, memory."""

from netbuild.costs import field_rules, rules_arranging, rules_windows  # noqa: F401  importing them registers their rules
