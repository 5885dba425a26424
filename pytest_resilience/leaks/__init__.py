"""What a test leaves behind: looked at when its body begins and when all its fixtures are gone, and compared."""
