"""The resources that are there when a test has ended and were not when its body began."""
