"""A safe reader for the pickles of other programs: it decodes them as data and never runs their code."""
