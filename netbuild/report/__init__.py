"""Summaries of networks and their costs: tables, textbook layout; diagram/ draws the architecture."""
