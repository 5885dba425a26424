"""scripts/*: install once, install again after a change, and pass arguments on.

These tests use the uv of this checkout without a network. A `pytest` in the working directory prints the arguments that it got.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from pytest_resilience import eventually

ROOT = Path(__file__).resolve().parent.parent
UV_VERSION = re.search(r"^uv_version=(.*)$", (ROOT / "scripts/lib/prelude.sh").read_text(), re.MULTILINE)[1]
UV = ROOT / ".venv-uv" / UV_VERSION / "uv"
pytestmark = pytest.mark.skipif(not UV.exists(), reason="no script has installed uv in this checkout yet")

FAKE_PYTEST = """\
import importlib.util, json, os, sys
spec = importlib.util.find_spec("pytest_resilience")
print(json.dumps({"arguments": sys.argv[1:], "plugin": spec and spec.origin,
                  "backend": os.environ.get("PYTEST_RESILIENCE_BACKEND")}))
"""
# Everything that uv installs here is a folder with this build backend, which needs no other package.
BACKEND = """\
import pathlib, tomllib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    name = project["name"].replace("-", "_")
    metadata = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 0\\n"
    for extra, requirements in project.get("optional-dependencies", {}).items():
        metadata += f"Provides-Extra: {extra}\\n"
        metadata += "".join(f"Requires-Dist: {each} ; extra == '{extra}'\\n" for each in requirements)
    with zipfile.ZipFile(f"{directory}/{name}-0-py3-none-any.whl", "w") as wheel:
        for source in pathlib.Path(name).glob("*.py"):
            wheel.write(source, source.as_posix())
        wheel.writestr(f"{name}-0.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{name}-0.dist-info/RECORD", "")
    return f"{name}-0-py3-none-any.whl"

build_editable = build_wheel
"""


def write_project(folder: Path, name: str, **extras: list[str]) -> Path:
    """Write a project that uv can build."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backend.py").write_text(BACKEND)
    lines = [f'[project]\nname = "{name}"\nversion = "0"\nrequires-python = ">=3.11"\n[project.optional-dependencies]']
    lines += [f"{extra} = {json.dumps(requirements)}" for extra, requirements in extras.items()]
    lines += ['[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n']
    (folder / "pyproject.toml").write_text("\n".join(lines))
    (folder / name.replace("-", "_")).mkdir(exist_ok=True)
    (folder / name.replace("-", "_") / "__init__.py").touch()
    return folder


class Checkout:
    """A checkout with a copy of the scripts and one development dependency."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root / "a check out"  # the space finds missing quotes
        self.venv = self.root / ".venv"
        self.things = root / "things"
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        (self.root / ".venv-uv" / UV_VERSION).mkdir(parents=True)
        (self.root / ".venv-uv" / UV_VERSION / "uv").symlink_to(UV)
        (self.root / "pytest.py").write_text(FAKE_PYTEST)
        self.require("first")
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "HOME": str(root),
            "UV_OFFLINE": "1",
            "UV_CACHE_DIR": str(cache),
        }

    def require(self, *names: str, exist: bool = True) -> None:
        """Make `names` the development dependencies."""
        if exist:
            for name in names:
                write_project(self.things / name, name)
        dev = [f"{name} @ {(self.things / name).as_uri()}" for name in names]
        write_project(self.root, "pytest-resilience", embedded=[], dev=dev)

    @property
    def installed(self) -> set[str]:
        """The packages in the environment."""
        return {path.name.partition("-")[0] for path in self.venv.glob("lib/python*/site-packages/*.dist-info")}

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [self.root / "scripts" / script, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd="/", env={**self.environment, **environment}, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture
def checkout(tmp_path, uv_cache):
    return Checkout(tmp_path, uv_cache)


def arguments_of(out: str) -> list[str]:
    return json.loads(out)["arguments"]


def test_arguments_reach_pytest_as_they_were_given(checkout):
    code, out, err = checkout.run("test", "-k", "a or b", "--junitxml=x.xml")
    assert code == 0, err
    assert arguments_of(out) == ["-n", "auto", "--dist=worksteal", "tests/", "-k", "a or b", "--junitxml=x.xml"]
    assert "-m pytest -n auto --dist=worksteal tests/ -k 'a or b' --junitxml=x.xml" in err, "it prints its commands"


def test_chaos_is_strict(checkout):
    code, out, err = checkout.run("chaos")
    assert code == 0, err
    assert arguments_of(out) == ["-n", "6", "--dist=worksteal", "chaos/", "--resilience-strict"]


def test_a_path_takes_the_place_of_the_whole_suite(checkout):
    _, out, _ = checkout.run("chaos", "chaos/test_redis_gone.py::test_it", "-x")
    assert arguments_of(out) == [
        "-n",
        "6",
        "--dist=worksteal",
        "--resilience-strict",
        "chaos/test_redis_gone.py::test_it",
        "-x",
    ]


def test_the_first_run_installs_the_development_dependencies(checkout):
    code, _, err = checkout.run("test")
    assert code == 0, err
    assert checkout.installed == {"pytest_resilience", "first"}


def test_the_second_run_installs_nothing(checkout):
    checkout.run("test")
    installed = [path.stat().st_ctime_ns for path in checkout.venv.glob("lib/python*/site-packages/*.dist-info/*")]
    code, _, err = checkout.run("test")
    assert code == 0, err
    assert installed
    assert installed == [
        path.stat().st_ctime_ns for path in checkout.venv.glob("lib/python*/site-packages/*.dist-info/*")
    ]


def test_a_changed_pyproject_installs_again(checkout):
    checkout.run("test")
    checkout.require("first", "second")
    code, _, err = checkout.run("test")
    assert code == 0, err
    assert checkout.installed == {"pytest_resilience", "first", "second"}


def test_a_failed_install_is_reported_and_tried_again(checkout):
    checkout.require("missing", exist=False)
    code, out, err = checkout.run("test")
    assert (code, out) == (2, "")
    assert "missing" in err
    assert "could not be made" in err
    checkout.require("missing")
    code, _, err = checkout.run("test")
    assert code == 0, err
    assert checkout.installed == {"pytest_resilience", "missing"}


def test_two_at_once_install_once(checkout):
    both = [checkout.start("test"), checkout.start("chaos")]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert checkout.installed == {"pytest_resilience", "first"}


def test_a_folder_that_is_no_environment_is_not_touched(checkout, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    code, _, err = checkout.run("test", RESILIENCE_VENV=str(precious))
    assert code == 2
    assert "not a valid Python environment" in err
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]


def test_an_old_python_is_refused_in_one_line(checkout, tmp_path):
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    code, _, err = checkout.run("test", PYTHON=str(old))
    assert code == 2
    assert err == f"test: PYTHON={old} is no Python 3.11 or later with venv and ensurepip\n"


def test_a_wrapper_of_python_makes_the_environment_once(checkout, tmp_path):
    wrapper = tmp_path / "shim"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    for _ in range(2):
        code, _, err = checkout.run("test", PYTHON=str(wrapper))
        assert code == 0, err
        (checkout.venv / "mark").touch()
    checkout.run("test", PYTHON=str(wrapper))
    assert (checkout.venv / "mark").exists()


@pytest.fixture
def without_uv(checkout, tmp_path):
    """The checkout has no uv yet, and pip finds the pinned version in a folder."""
    shutil.rmtree(checkout.root / ".venv-uv")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / f"uv-{UV_VERSION}-py3-none-any.whl", "w") as wheel:
        program = zipfile.ZipInfo(f"uv-{UV_VERSION}.data/scripts/uv")
        program.external_attr = 0o100755 << 16
        wheel.writestr(program, f'#!/bin/sh\nexec "{UV}" "$@"\n')
        wheel.writestr(
            f"uv-{UV_VERSION}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: uv\nVersion: {UV_VERSION}\n"
        )
        wheel.writestr(
            f"uv-{UV_VERSION}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"uv-{UV_VERSION}.dist-info/RECORD", "")
    checkout.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    return checkout


def test_the_pinned_uv_is_installed_once_and_a_uv_of_this_machine_is_not_used(without_uv, tmp_path):
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "uv").chmod(0o755)
    outputs = [without_uv.run("test", PATH=f"{tmp_path}:{os.environ['PATH']}") for _ in range(2)]
    assert [code for code, _, _ in outputs] == [0, 0], outputs
    assert [err.count(f"uv=={UV_VERSION}") for _, _, err in outputs] == [1, 0]
    assert [path.name for path in (without_uv.root / ".venv-uv").iterdir()] == [UV_VERSION]


def test_two_at_once_install_uv_without_harm(without_uv):
    both = [without_uv.start("test"), without_uv.start("chaos")]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs


def test_a_failed_install_of_uv_is_reported_and_leaves_nothing(without_uv):
    code, out, err = without_uv.run("test", PIP_FIND_LINKS="")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "test: uv could not be installed from PyPI; see above"
    assert not list((without_uv.root / ".venv-uv").glob("*/*"))


@pytest.fixture
def with_example(checkout):
    """The checkout has an example."""
    example = write_project(checkout.root / "examples" / "shop", "shop", test=["pytest-resilience[embedded]"])
    (example / "pytest.py").write_text(FAKE_PYTEST)
    return checkout


def test_examples_are_strict_and_use_the_wheel(with_example):
    for _ in range(2):
        code, out, err = with_example.run("examples", "-k", "a or b")
        assert code == 0, err
        assert arguments_of(out) == ["--resilience-strict", "-k", "a or b"]
        assert json.loads(out)["plugin"].startswith(str(with_example.root / ".venv-examples" / "shop" / "lib"))


def test_examples_print_a_table_with_results_and_times(with_example):
    write_project(with_example.root / "examples" / "empty", "empty", test=["pytest-resilience[embedded]"])
    (with_example.root / "examples" / "empty" / "pytest.py").write_text("raise SystemExit(1)\n")
    code, _, err = with_example.run("examples")
    assert code == 1
    table = [line.split() for line in err.splitlines()[-4:-1]]
    assert table[0] == ["example", "result", "install", "(s)", "run", "(s)"]
    assert [row[:2] for row in table[1:]] == [["empty", "failed"], ["shop", "passed"]]
    assert all(cell.isdigit() for row in table[1:] for cell in row[2:])


@pytest.fixture
def npm(with_example):
    """The example has packages for Node. Return an npm that writes a line in `installed` for each installation."""
    example = with_example.root / "examples" / "shop"
    (example / "package-lock.json").write_text("{}")
    npm = with_example.root.parent / "npm"
    npm.write_text('#!/bin/sh\necho "$@" >>installed\nmkdir -p node_modules\ntouch node_modules/.package-lock.json\n')
    npm.chmod(0o755)
    return npm


def test_the_packages_of_an_example_for_node_are_installed_again_after_a_change(with_example, npm):
    example = with_example.root / "examples" / "shop"
    for _ in range(2):
        code, _, err = with_example.run("examples", NPM=str(npm))
        assert code == 0, err
    assert (example / "installed").read_text() == "ci --no-audit --no-fund\n"
    os.utime(example / "node_modules" / ".package-lock.json", (0, 0))
    with_example.run("examples", NPM=str(npm))
    assert (example / "installed").read_text().count("ci") == 2


def test_an_example_for_node_is_left_out_with_the_reason_where_there_is_no_npm(with_example, npm):
    code, out, err = with_example.run("examples", NPM="no-npm")
    assert (code, out) == (0, "")
    assert "examples: left out: shop, because no-npm is not installed" in err.splitlines()


def test_an_example_that_needs_docker_runs_if_it_is_named(with_example):
    example = with_example.root / "examples" / "shop"
    project = example / "pyproject.toml"
    project.write_text(project.read_text() + '[tool.resilience-example]\nbackend = "docker"  # why\n')
    code, out, _ = with_example.run("examples")
    assert code == 0
    assert out == ""
    code, out, _ = with_example.run("examples", "shop")
    assert json.loads(out)["backend"] == "docker"


def test_a_changed_package_gives_an_example_a_new_wheel(with_example):
    with_example.run("examples")
    (with_example.root / "pytest_resilience" / "__init__.py").write_text("changed = True\n")
    _, out, _ = with_example.run("examples", "shop")
    assert Path(json.loads(out)["plugin"]).read_text() == "changed = True\n"


def test_a_package_that_an_example_no_longer_needs_is_removed(with_example):
    shop = with_example.root / "examples" / "shop"
    first = f"first @ {(with_example.things / 'first').as_uri()}"
    write_project(shop, "shop", test=["pytest-resilience[embedded]", first])
    with_example.run("examples")
    site = with_example.root / ".venv-examples" / "shop"
    assert list(site.glob("lib/python*/site-packages/first"))
    write_project(shop, "shop", test=["pytest-resilience[embedded]"])
    code, _, err = with_example.run("examples")
    assert code == 0, err
    assert not list(site.glob("lib/python*/site-packages/first"))


@pytest.mark.parametrize(
    "script", [path for path in (ROOT / "scripts").iterdir() if path.is_file()], ids=lambda path: path.name
)
def test_each_command_is_executable_posix_shell(script):
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def run_plants(*arguments):
    script = ROOT / "scripts" / "lib" / "run_plants.py"
    return subprocess.run([sys.executable, "-S", script, *arguments], capture_output=True, text=True, check=False)


def test_plants_are_selected_by_names_and_patterns():
    rows = run_plants("--table", "incident-*", "redis-no-breaker").stdout.splitlines()[2:]
    names = [row.split("`")[1] for row in rows]
    assert "redis-no-breaker" in names
    assert len(names) > 3
    assert all(name.startswith("incident-") for name in names if name != "redis-no-breaker")
    unknown = run_plants("--table", "incident-*", "nothing-*")
    assert unknown.returncode == 2
    assert "no plants named nothing-*" in unknown.stderr


def test_plants_end_their_tests_when_they_are_terminated(tmp_path):
    script = ROOT / "scripts" / "lib" / "run_plants.py"
    command = [sys.executable, script, "--jobs", "1", "incident-*"]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL) as plants:
        try:
            pytests = eventually(lambda: psutil.Process(plants.pid).children(), within=60.0)
            plants.send_signal(signal.SIGTERM)
            code = plants.wait(60.0)
        finally:
            plants.kill()
    assert code == 128 + signal.SIGTERM
    assert not psutil.wait_procs(pytests, timeout=0)[1], "a run of pytest outlives scripts/plants"
    assert not list(tmp_path.iterdir()), "the copies of the checkout are left"
