"""The results of a run: the terminal's summary, JUnit properties, and files."""
