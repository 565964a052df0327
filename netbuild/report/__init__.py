"""What a network is and costs: summary, tables, textbook; diagram/ draws it."""
