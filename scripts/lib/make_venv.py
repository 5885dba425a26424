"""Makes the environment that the scripts run in: `make_venv.py DIRECTORY`, run by the Python that it shall be made from.

Standard library only: it runs before anything is installed. Two that start at once take turns: the second finds the work done.
The lock is the operating system's, so nobody who dies holds it. The stamp that prelude.sh compares is written last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = "import sys; print(sys.implementation.name, *sys.version_info[:3], sys.base_prefix)"  # as in prelude.sh


def main(directory: Path) -> int:
    try:
        with locked(directory.with_name(directory.name + ".lock")):
            wanted = expected_stamp(sys.executable)
            if read_stamp(directory) != wanted or identity(directory / "bin" / "python") is None:
                install(directory)
    except subprocess.CalledProcessError as error:
        print(f"failed with exit code {error.returncode}: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    except (OSError, Refused) as error:
        print(f"{error}\n(RESILIENCE_VENV names another directory for the environment)", file=sys.stderr)
        return 1
    return 0


class Refused(Exception):
    """The directory holds something that is not an environment; we don't touch it."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another script that is installing", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(directory: Path) -> None:
    python = directory / "bin" / "python"
    uv = shutil.which("uv")
    (directory / "resilience-stamp").unlink(missing_ok=True)
    if directory.is_dir() and any(directory.iterdir()):
        if not (directory / "pyvenv.cfg").is_file():
            raise Refused(f"{directory} is in the way: not empty, and no virtual environment")
        if identity(python) != identity(sys.executable) or not (uv or has_pip(python)):
            print(f"{directory} was made from another Python: making it again", file=sys.stderr)
            shutil.rmtree(directory)
    if not python.exists():
        if uv:
            run([uv, "venv", "--quiet", "--python", sys.executable, directory])
        else:
            run([sys.executable, "-m", "venv", directory])
    if uv:
        run([uv, "pip", "install", "--quiet", "--python", python, "-e", ".[dev]"])
    else:
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", ".[dev]"])
    written = directory / "resilience-stamp.new"
    written.write_text(expected_stamp(str(python)) + "\n")
    written.replace(directory / "resilience-stamp")


def expected_stamp(python: str) -> str:
    """What the stamp says when all is installed; prelude.sh puts the same together."""
    with (ROOT / "pyproject.toml").open() as pyproject:
        checksum = subprocess.run(["cksum"], stdin=pyproject, capture_output=True, text=True, check=True).stdout.strip()
    return f"{checksum} {ROOT} {identity(python)}"


def read_stamp(directory: Path) -> str | None:
    try:
        return (directory / "resilience-stamp").read_text().strip()
    except OSError:
        return None


def identity(python: str | Path) -> str | None:
    try:
        answer = subprocess.run([python, "-I", "-S", "-c", IDENTITY], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def has_pip(python: Path) -> bool:
    return subprocess.run([python, "-I", "-c", "import pip"], capture_output=True, check=False).returncode == 0


def run(command: Sequence[str | Path]) -> None:
    print("+", shlex.join(map(str, command)), file=sys.stderr)
    # An activated environment or a user's PYTHONPATH must not lead the install elsewhere.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr, env=environment)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
