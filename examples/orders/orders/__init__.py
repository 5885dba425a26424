"""Orders that a web process takes and a worker ships."""
