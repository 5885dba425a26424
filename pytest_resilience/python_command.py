"""The parts of a command line of the Python interpreter."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple

from .errors import SetupError

_INTERPRETER = re.compile(r"(python|pypy)[\d.]*t?(\.exe)?")
_WITH_VALUE = ("X", "W")


class PythonCommand(NamedTuple):
    """A command that starts a Python program.

    Source: "Command line and environment" in the documentation of Python.

    Attributes:
        interpreter: the interpreter with its options.
        kind: "m" for a module, "c" for code, "" for a script.
        program: the module, the code or the script.
        arguments: the arguments of the program.
    """

    interpreter: list[str]
    kind: Literal["m", "c", ""]
    program: str
    arguments: list[str]

    @property
    def argv(self) -> list[str]:
        """The value of `sys.argv` at the start of the program."""
        return [f"-{self.kind}" if self.kind else self.program, *self.arguments]

    @classmethod
    def parse(cls, command: Sequence[str]) -> PythonCommand:
        """Return the parts of a command.

        Raises:
            SetupError: the command does not start a Python program.
        """
        words = [str(word) for word in command]
        if words[0] != sys.executable and not _INTERPRETER.fullmatch(PurePath(words[0]).name):
            raise SetupError(
                f"it begins with {words[0]!r}, which is no Python interpreter; a console script such as uvicorn starts with "
                "[sys.executable, '-m', 'uvicorn', ...]"
            )
        position = 1
        while position < len(words):
            word, rest = words[position], words[position + 1 :]
            if not word.startswith("-"):
                return cls(words[:position], "", word, rest)
            option, value = _last_option(word)
            if option in ("m", "c"):
                return cls._of_program(words[:position], word, option, value, rest)
            position += 1 if option not in _WITH_VALUE or value else 2
        raise SetupError("it starts no module (-m), code (-c) or script")

    @classmethod
    def _of_program(cls, interpreter: list[str], word: str, option: str, value: str, rest: list[str]) -> PythonCommand:
        flags = word[1 : len(word) - len(value) - 1]  # of "-Im shop": the options before the last
        interpreter = [*interpreter, f"-{flags}"] if flags else interpreter
        kind: Literal["m", "c"] = "m" if option == "m" else "c"
        if value:
            return cls(interpreter, kind, value, rest)
        if not rest:
            raise SetupError(f"its option -{kind} has no value")
        return cls(interpreter, kind, rest[0], rest[1:])


def _last_option(word: str) -> tuple[str, str]:
    """Return the last option of a word such as "-Im", and the value that follows in the same word."""
    if word.startswith("--") or word == "-":
        raise SetupError(f"{word!r} can't be combined with preload")
    for position, letter in enumerate(word[1:], 1):
        if letter in ("m", "c", *_WITH_VALUE):
            return letter, word[position + 1 :]
    return word[-1], ""
