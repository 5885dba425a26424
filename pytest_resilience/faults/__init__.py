"""What can break."""
