"""Commands of the Python interpreter, and their parts."""

import sys

import pytest

from pytest_resilience import SetupError
from pytest_resilience.python_command import PythonCommand


@pytest.mark.parametrize(
    ("command", "interpreter", "kind", "program", "argv"),
    [
        ("python -m shop --port 80", ["python"], "m", "shop", ["-m", "--port", "80"]),
        ("python3.12 -mshop", ["python3.12"], "m", "shop", ["-m"]),
        ("python -Im shop", ["python", "-I"], "m", "shop", ["-m"]),
        (
            "python -u -X dev -W error -Xutf8 -m shop",
            ["python", "-u", "-X", "dev", "-W", "error", "-Xutf8"],
            "m",
            "shop",
            ["-m"],
        ),
        ("/venv/bin/python3 shop.py -m x", ["/venv/bin/python3"], "", "shop.py", ["shop.py", "-m", "x"]),
        ("python -c print(1) a", ["python"], "c", "print(1)", ["-c", "a"]),
        (f"{sys.executable} -OO shop.py", [sys.executable, "-OO"], "", "shop.py", ["shop.py"]),
    ],
)
def test_a_command_has_an_interpreter_a_program_and_arguments(command, interpreter, kind, program, argv):
    parsed = PythonCommand.parse(command.split())
    assert (parsed.interpreter, parsed.kind, parsed.program, parsed.argv) == (interpreter, kind, program, argv)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("uvicorn shop:app", "begins with 'uvicorn', which is no Python interpreter"),
        ("python", "starts no module"),
        ("python -u", "starts no module"),
        ("python -m", "option -m has no value"),
        ("python -", "'-' can't be combined"),
        ("python --check-hash-based-pycs always shop.py", "'--check-hash-based-pycs' can't be combined"),
    ],
)
def test_a_command_without_a_python_program_is_an_error(command, message):
    with pytest.raises(SetupError, match=message):
        PythonCommand.parse(command.split())
