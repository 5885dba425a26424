"""Commands that run a module of this package in a Python that starts fast."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[2])
# An empty package replaces pytest_resilience, because the modules need none of its public names.
_RUN = """
import sys
package = type(sys)("pytest_resilience")
package.__path__ = [{package!r}]
sys.modules["pytest_resilience"] = package
sys.path[:0] = {import_paths!r}
from pytest_resilience.{module} import main
sys.exit(main(*sys.argv[1:]))
"""


def isolated_command(module: str, *arguments: str, import_paths: tuple[str, ...] = ()) -> list[str]:
    """Return the command that runs `main` of a module without `site` and without the environment's settings of Python.

    Args:
        module: its name in the package, such as "backends.docker.engine". It may import the standard library, and those modules of
            the package that need no more than that and `import_paths`.
        arguments: for its `main`. All users of the machine can read them.
        import_paths: directories to import from, before those of the standard library.
    """
    run = _RUN.format(package=_PACKAGE, import_paths=list(import_paths), module=module)
    return [sys.executable, "-I", "-S", "-c", run, *arguments]
