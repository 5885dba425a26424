"""The plugin and pytest's fixture for testing plugins, for all suites, also in a checkout that is not installed.

pytest loads a plugin once, whether the entry point, `-p`, this line or all of them name it. `-p no:pytest_resilience` overrides this line.
"""

pytest_plugins = ["pytester", "pytest_resilience"]

# Projects with dependencies that this environment does not have. scripts/examples runs each in a separate environment.
collect_ignore = ["examples"]
