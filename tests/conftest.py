"""Our own tests say which backend they are about; what doesn't say, and what pytest they start, is about the embedded one."""

import os

os.environ.setdefault("PYTEST_RESILIENCE_BACKEND", "embedded")
