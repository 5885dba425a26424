"""The contents of the wheel, and a plugin that loads from it once."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import pytest_resilience

ROOT = Path(__file__).resolve().parent.parent
CHECKS_THE_LOADED_PLUGIN = """
    import pytest_resilience

    def test_loaded_once(request):
        plugins = request.config.pluginmanager.get_plugins()
        hooks = [p for p in plugins if getattr(p, "__name__", "") == "pytest_resilience.plugin"]
        assert len(hooks) == 1
        assert __file__.rsplit("/", 1)[0] not in pytest_resilience.__file__
        print("LOADED FROM", pytest_resilience.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel, names):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def make_python(home: Path) -> tuple[Path, Path]:
    """Make an environment without the plugin, and return its interpreter and site-packages. Dependencies are links to this environment's."""
    venv.create(home, symlinks=True)
    linked = home / "linked"
    linked.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "pytest_resilience" not in entry.name and entry.suffix != ".pth":
            (linked / entry.name).symlink_to(entry)
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "linked.pth").write_text(f"{linked}\n")
    return home / "bin" / "python", site


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python without the plugin."""
    return make_python(tmp_path_factory.mktemp("bare"))[0]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A Python with the wheel installed."""
    python, site = make_python(tmp_path_factory.mktemp("installed"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # equals an installation, since the wheel is pure and has no scripts
    return python


def run_pytest(python: Path, cwd: Path, *arguments: str, **environment: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV"))}
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
    completed = subprocess.run(
        command, cwd=cwd, env={**environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    return completed.stdout + completed.stderr


def test_only_the_package_is_in_the_wheel(names):
    assert {name.split("/")[0] for name in names} == {
        "pytest_resilience",
        f"pytest_resilience-{pytest_resilience.__version__}.dist-info",
    }


def test_every_module_and_the_typing_mark_are_in_the_wheel(names):
    package = ROOT / "pytest_resilience"
    sources = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    assert sources | {"pytest_resilience/py.typed"} <= set(names)


def test_the_licence_is_in_the_wheel(names):
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_version_has_one_home(metadata):
    assert metadata["Version"] == pytest_resilience.__version__


def test_the_extras_are_embedded_sequences_service_and_dev(metadata):
    assert set(metadata.get_all("Provides-Extra")) == {"embedded", "sequences", "service", "dev"}


@pytest.mark.parametrize("arguments", [(), ("-p", "pytest_resilience")], ids=["entry point", "and -p"])
def test_the_installed_plugin_loads_once(installed, pytester, arguments):
    pytester.makepyfile(CHECKS_THE_LOADED_PLUGIN)
    output = run_pytest(installed, pytester.path, *arguments, "--resilience-seed=7")  # with an option there is a header
    assert "1 passed" in output, output
    assert f"LOADED FROM {installed.parent.parent}" in output
    assert output.count("\nresilience: ") == 1, output


def test_dash_p_no_disables_it_cleanly(installed, pytester):
    pytester.makepyfile(
        "def test_without(request):\n    assert not request.config.pluginmanager.has_plugin('pytest_resilience.plugin')"
    )
    output = run_pytest(installed, pytester.path, "-p", "no:pytest_resilience")
    assert "1 passed" in output, output
    assert "resilience:" not in output


def test_the_plugin_works_from_a_checkout_that_is_not_installed(bare, pytester):
    """Without an entry point, -p names the plugin, and the checkout is on the path."""
    pytester.makepyfile(CHECKS_THE_LOADED_PLUGIN)
    output = run_pytest(bare, pytester.path, "-p", "pytest_resilience", PYTHONPATH=str(ROOT))
    assert "1 passed" in output, output
    assert f"LOADED FROM {ROOT}" in output


def test_the_readme_of_the_wheel_has_absolute_links_to_existing_files(metadata):
    """A package index shows the README without the files of the repository, so its links must be absolute."""
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links, text
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    repository = f"{metadata['Project-URL'].removeprefix('Repository, ')}/blob/main/"
    files = {link.removeprefix(repository).partition("#")[0] for link in links if link.startswith(repository)}
    assert "docs/fixtures.md" in files
    assert [file for file in files if not (ROOT / file).exists()] == []
