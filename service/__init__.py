"""The bundled campaign service: a small, honest one that survives what the chaos suite does to it."""
