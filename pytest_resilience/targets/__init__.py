"""The systems that a test strikes and asks, as the `resilience` fixture hands them out."""
