"""Systems with faults and a clean state of their own, which a backend starts when a test first uses one. One package for each."""
