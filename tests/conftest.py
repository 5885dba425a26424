"""Tests of this repository use the embedded backend unless they name another, and so does every pytest that they start."""

import os
import signal
import threading

os.environ.setdefault("PYTEST_RESILIENCE_BACKEND", "embedded")

# A shell ignores both signals for a background job, and the sessions that the tests start would inherit that.
if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
