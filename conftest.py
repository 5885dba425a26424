"""The plugin and pytest's fixture for testing plugins, for all suites, also in a checkout that is not installed.

pytest loads a plugin once, whether the entry point, `-p`, this line or all of them name it. `-p no:pytest_resilience` wins over this line.
"""

pytest_plugins = ["pytester", "pytest_resilience"]

# Projects of their own, with dependencies that are not in our environment: scripts/examples runs them, in theirs.
collect_ignore = ["examples"]
