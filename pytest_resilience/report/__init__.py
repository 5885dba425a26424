"""A history and its verdicts, drawn."""
