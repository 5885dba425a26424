"""scripts/*: install once, again when something changed, never half, never twice at once, and pass arguments on. Nothing is fetched:
a `uv` of ours stands in for the installer, and a `pytest` of ours says what it was given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAKE_UV = """\
#!/bin/sh
echo "$@" >>"$FAKE_UV_LOG"
case $1 in
    venv) "$4" -I -m venv --without-pip "$5" ;;
    pip)
        [ -n "${FAKE_UV_FORGETS:-}" ] || : >"$(dirname "$(dirname "$5")")/$FAKE_SITE/pytest_resilience.py"
        exit "${FAKE_UV_EXIT:-0}"
        ;;
esac
"""
FAKE_PYTEST = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"
FAKE_BUILD = """\
import sys
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--outdir") + 1])
out.mkdir(parents=True)
(out / "pytest_resilience-0-py3-none-any.whl").touch()
"""


class Checkout:
    """A checkout with our scripts and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a check out"  # a space, for those who forget quotes
        self.venv = self.root / ".venv"
        self.log = root / "uv.log"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "pyproject.toml").write_text("[project]\n")
        (self.root / "pytest.py").write_text(FAKE_PYTEST)
        tools = root / "tools"
        tools.mkdir()
        (tools / "uv").write_text(FAKE_UV)
        (tools / "uv").chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "FAKE_UV_LOG": str(self.log),
            "FAKE_SITE": f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages",
            "HOME": str(root),
        }

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [self.root / "scripts" / script, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd="/", env={**self.environment, **environment}, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    @property
    def installs(self) -> int:
        return self.log.read_text().count("pip install") if self.log.exists() else 0


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_arguments_reach_pytest_as_they_were_given(checkout):
    code, out, err = checkout.run("test", "-k", "a or b", "--junitxml=x.xml")
    assert code == 0, err
    assert json.loads(out) == ["-n", "auto", "--dist=worksteal", "tests/", "-k", "a or b", "--junitxml=x.xml"]
    assert "-m pytest -n auto --dist=worksteal tests/ -k 'a or b' --junitxml=x.xml" in err, "it prints what it does"


def test_chaos_is_strict(checkout):
    code, out, _ = checkout.run("chaos")
    assert (code, json.loads(out)) == (0, ["-n", "3", "chaos/", "--resilience-strict"])


def test_a_path_takes_the_place_of_the_whole_suite(checkout):
    _, out, _ = checkout.run("chaos", "chaos/test_redis_gone.py::test_it", "-x")
    assert json.loads(out) == [
        "-n",
        "3",
        "--resilience-strict",
        "chaos/test_redis_gone.py::test_it",
        "-x",
    ]


def test_the_second_run_installs_nothing(checkout):
    checkout.run("test")
    _, _, err = checkout.run("test")
    assert checkout.installs == 1
    assert "make_venv.py" not in err


def test_a_changed_pyproject_installs_again(checkout):
    checkout.run("test")
    (checkout.root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    checkout.run("test")
    checkout.run("test")
    assert checkout.installs == 2


def test_a_failed_install_is_said_and_tried_again(checkout):
    code, out, err = checkout.run("test", FAKE_UV_EXIT="3")
    assert (code, out) == (2, "")
    assert "failed with exit code 3" in err
    code, _, _ = checkout.run("test")
    assert (code, checkout.installs) == (0, 2)


def test_two_at_once_install_once(checkout):
    both = [checkout.start("test"), checkout.start("chaos")]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert checkout.installs == 1


def test_another_python_makes_the_environment_again(checkout, tmp_path):
    checkout.run("test")
    other = tmp_path / "other-python"
    other.write_text(f'#!/bin/sh\n[ "$2" = -S ] && echo other 3 99 0 /somewhere || exec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    _, _, err = checkout.run("test", PYTHON=str(other))
    assert "make_venv.py" in err


def test_a_folder_that_is_no_environment_is_not_touched(checkout, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    code, _, err = checkout.run("test", RESILIENCE_VENV=str(precious))
    assert code == 2
    assert "no virtual environment" in err
    assert (precious / "thesis.txt").exists()


def test_an_old_python_is_refused_in_one_line(checkout, tmp_path):
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$2" = -S ] && echo cpython 3 9 0 /usr || exit 1\n')
    old.chmod(0o755)
    code, _, err = checkout.run("test", PYTHON=str(old))
    assert code == 2
    assert "is no Python 3.11 or later" in err.splitlines()[0]


@pytest.fixture
def with_example(checkout):
    """The checkout has a package, something to build it with, and an example."""
    (checkout.root / "build.py").write_text(FAKE_BUILD)
    (checkout.root / "pytest_resilience").mkdir()
    (checkout.root / "pytest_resilience" / "__init__.py").write_text("")
    example = checkout.root / "examples" / "shop"
    example.mkdir(parents=True)
    (example / "pyproject.toml").write_text("[project]\n")
    (example / "pytest.py").write_text(FAKE_PYTEST)
    return checkout


def test_examples_are_strict_and_installed_once(with_example):
    for _ in range(2):
        code, out, err = with_example.run("examples", "-k", "a or b")
        assert (code, json.loads(out)) == (0, ["--resilience-strict", "-k", "a or b"]), err
    wheel = with_example.root / ".venv-examples" / "dist" / "pytest_resilience-0-py3-none-any.whl"
    log = with_example.log.read_text()
    assert log.count(f"pytest-resilience[embedded] @ {wheel.as_uri()} -e {with_example.root}/examples/shop[test]") == 1
    assert with_example.installs == 2, "the checkout's environment and the example's"


def test_a_changed_package_gives_an_example_a_new_wheel(with_example):
    with_example.run("examples")
    (with_example.root / "pytest_resilience" / "__init__.py").write_text("changed = True\n")
    with_example.run("examples", "shop")
    last = with_example.log.read_text().splitlines()[-1]
    assert "--force-reinstall --no-deps" in last
    assert last.endswith(".whl")


def test_what_an_example_asks_for_has_changed_so_its_environment_is_made_again(with_example):
    with_example.run("examples")
    left = with_example.root / ".venv-examples" / "shop" / "left"
    left.touch()
    (with_example.root / "examples" / "shop" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    code, _, err = with_example.run("examples")
    assert code == 0, err
    assert not left.exists()


def test_an_example_never_runs_without_the_wheel(with_example):
    code, out, err = with_example.run("examples", FAKE_UV_FORGETS="1")
    assert (code, out) == (2, "")
    assert "pytest_resilience should come out of the wheel" in err


@pytest.mark.parametrize("name", ["chaos", "test", "lint", "bench", "examples"])
def test_each_script_is_executable_posix_shell(name):
    script = ROOT / "scripts" / name
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
