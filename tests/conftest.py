"""Tests of this repository use the embedded backend unless they name another, and so does every pytest that they start."""

import os

os.environ.setdefault("PYTEST_RESILIENCE_BACKEND", "embedded")
