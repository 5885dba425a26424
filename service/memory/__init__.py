"""Memory: use and limits, the guard, and the collection of garbage."""
