"""The public names are listed once and sorted, and importing them loads no heavy modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_resilience

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("hypothesis", "testcontainers", "asyncpg", "redis", "httpx", "psutil", "toxiproxy", "requests", "docker")
# Other plugins in this environment load some of these modules. Without autoload only this plugin remains.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def loaded_after(code: str, cwd: Path) -> set[str]:
    """Return the heavy modules that a new interpreter has loaded after running `code`."""
    program = f"import sys\n{code}\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **ALONE}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    last = result.stdout.splitlines()[-1].split()
    assert last[0] == "LOADED", result.stdout
    return set(last[1:])


def test_all_is_sorted_and_has_no_duplicates():
    assert list(pytest_resilience.__all__) == sorted(set(pytest_resilience.__all__))


def test_all_names_exist():
    assert [name for name in pytest_resilience.__all__ if getattr(pytest_resilience, name, None) is None] == []


def test_all_lists_every_name_without_an_underscore():
    """Names that only type checkers import count too."""
    tree = ast.parse(Path(pytest_resilience.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    defined = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert {name for name in imported | defined if not name.startswith("_")} == set(pytest_resilience.__all__)


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    assert loaded_after("import pytest_resilience", tmp_path) == set()


def test_a_run_without_its_fixtures_loads_nothing_heavy(tmp_path):
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    run = "import pytest\nassert pytest.main(['-q', '-p', 'pytest_resilience', '-p', 'no:cacheprovider', 'test_nothing.py']) == 0"
    assert loaded_after(run, tmp_path) == set()


def test_collecting_tests_that_use_the_fixtures_loads_nothing_heavy(tmp_path):
    (tmp_path / "test_one.py").write_text("def test_one(resilience):\n    resilience.redis.refuse()\n")
    run = "import pytest\nassert pytest.main(['-q', '-p', 'pytest_resilience', '-p', 'no:cacheprovider', '--collect-only']) == 0"
    assert loaded_after(run, tmp_path) == set()


@pytest.mark.parametrize("name", ["Service", "eventually", "recovers", "SetupError"])
def test_names_that_users_rely_on_are_public(name):
    assert name in pytest_resilience.__all__
