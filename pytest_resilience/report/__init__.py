"""The results of a run in the terminal, in JUnit properties and in files."""
