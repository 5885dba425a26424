"""The process of an HTTP stub: an upstream that answers as a test has scripted it, and records the requests.

It runs by `isolated_command`, so its modules import only the standard library, h11 and each other.
"""

HOST = "127.0.0.1"
TOKEN_VARIABLE = "RESILIENCE_STUB_TOKEN"  # the name of the variable
CONTROL = "/.pytest-resilience/"  # the beginning of the secret path of the control interface
