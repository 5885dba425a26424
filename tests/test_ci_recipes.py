"""The files of examples/ci: their options exist, and their commands work in a project, on the backend that each names.

The servers of a job stand in for its containers, at addresses of their own. `scripts/lint recipes` compares the files with the schemas
of GitHub, GitLab, Compose and Kubernetes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_resilience.backends.backend import Backend
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.session.ports import free_port
from pytest_resilience.options import TABLE
from tests.support.backends import settings, toxiproxy, toxiproxy_server

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "examples" / "ci"
README = (ROOT / "README.md").read_text(encoding="utf-8")

TESTS = """\
def test_reads_survive_redis(resilience):
    resilience.service.put("/products/1", json={"name": "Lamp"})
    with resilience.redis.refuse():
        assert resilience.service.get("/products/1").headers["X-Source"] == "SOURCE"
"""


@dataclass
class Job:
    """The commands of one job, and what they get and leave.

    Args:
        commands: lines of a shell.
        environment: the variables that the file sets.
        results: the files and directories that the file keeps.
    """

    commands: list[str]
    environment: dict[str, str]
    results: list[str] = field(default_factory=list)

    @property
    def is_external(self) -> bool:
        return self.environment["PYTEST_RESILIENCE_BACKEND"] == "external"

    def install(self) -> list[str]:
        return [line for line in self.commands if line.startswith("pip install ")]

    def script(self) -> str:
        return "set -e\n" + "\n".join(line for line in self.commands if line not in self.install())


def read(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text(encoding="utf-8"))


def github_jobs() -> dict[str, Job]:
    found = {}
    for name, job in read("github-actions.yml")["jobs"].items():
        commands = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
        [upload] = [
            step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact@")
        ]
        assert upload["include-hidden-files"], "the action skips .resilience/ otherwise"
        found[f"github-{name}"] = Job(commands, job["env"], upload["path"].split())
    return found


def gitlab_jobs() -> dict[str, Job]:
    file = read("gitlab-ci.yml")
    artifacts = file[".resilience"]["artifacts"]
    results = [*artifacts["paths"], artifacts["reports"]["junit"]]
    return {
        f"gitlab-{name}": Job(job["script"], job["variables"], results)
        for name, job in file.items()
        if not name.startswith(".")
    }


def compose_jobs() -> dict[str, Job]:
    tests = read("compose.yaml")["services"]["tests"]
    return {"compose": Job([" ".join(tests["command"])], tests["environment"], [".resilience/"])}


def kubernetes_jobs() -> dict[str, Job]:
    [container] = read("kubernetes.yaml")["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert container["command"] == ["sh", "-c"]
    return {"kubernetes": Job(container["args"][0].splitlines(), environment, [".resilience/"])}


JOBS = github_jobs() | gitlab_jobs() | compose_jobs() | kubernetes_jobs()
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)


def test_the_names_of_options_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in FILES.iterdir() if path.is_file())
    assert set(re.findall(r"PYTEST_RESILIENCE_[A-Z_]+", text)) <= {option.variable for option in TABLE}
    assert set(re.findall(r"--resilience-[a-z-]+", text)) <= {option.flag for option in TABLE}


def test_the_jobs_with_service_containers_use_the_external_backend():
    external = {name for name, job in JOBS.items() if job.is_external}
    assert external == {"github-services", "gitlab-resilience-services", "compose"}


@each_job
def test_the_installation_is_that_of_the_readme(job):
    [requirement] = re.findall(r"^pip install ('pytest-resilience\[embedded\]')$", README, re.MULTILINE)
    expected = "pytest-resilience" if job.is_external else requirement
    assert set(job.install()) <= {f"pip install -e . {expected}"}


def test_the_image_has_the_same_installation():
    assert "pip install --no-cache-dir -e . 'pytest-resilience[embedded]'" in (FILES / "Dockerfile").read_text()


def test_the_user_of_the_pod_is_that_of_the_image():
    """Postgres refuses a user without a line in /etc/passwd."""
    [uid] = re.findall(r"useradd --uid (\d+)", (FILES / "Dockerfile").read_text())
    assert read("kubernetes.yaml")["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(uid)


@pytest.fixture
def project(tmp_path):
    """Return the directory of a project with a service and one test, which passes."""
    tests = tmp_path / "tests" / "resilience"
    tests.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "examples" / "shop.py", tmp_path)
    [conftest] = re.findall(r"^```python\n(# conftest\.py\n.*?)```", README, re.MULTILINE | re.DOTALL)
    (tests / "conftest.py").write_text(conftest)
    (tests / "test_outages.py").write_text(TESTS.replace("SOURCE", "postgres"))
    return tmp_path


@pytest.fixture(scope="module")
def servers() -> Iterator[Backend]:
    """Return the servers that stand in for the containers of a job."""
    with EmbeddedBackend() as backend:
        yield backend


def environment_of(job: Job, servers: Backend) -> dict[str, str]:
    """Return the environment of a job, with the addresses of the servers in place of those of its containers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI"))}
    inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited["PYTHONPATH"] = str(ROOT)
    found = {**inherited, "PYTEST_ADDOPTS": "-p pytest_resilience", **job.environment}
    if job.is_external:
        here = settings(servers, found["PYTEST_RESILIENCE_TOXIPROXY"])
        found |= {
            "PYTEST_RESILIENCE_POSTGRES_UPSTREAM": str(here.postgres_upstream),
            "PYTEST_RESILIENCE_REDIS_UPSTREAM": str(here.redis_upstream),
        }
    return found


def run(job: Job, project: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run the commands of a job, and kill what they have left in the background, as a runner does."""
    port = str(free_port())
    script = job.script().replace("pytest_resilience.proxy -host", f"pytest_resilience.proxy -port {port} -host")
    script = script.replace(":8474", f":{port}")
    if ".proxy " in script:
        environment = {**environment, "PYTEST_RESILIENCE_TOXIPROXY": f"http://127.0.0.1:{port}"}
    output = project / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", script], cwd=project, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return code, output.read_text()


@each_job
def test_the_commands_run_the_tests_and_leave_the_files_that_are_kept(job, project, servers):
    if "curl " in job.script() and not shutil.which("curl"):
        pytest.skip("needs curl, which the image of the job has")
    (project / "tests" / "resilience" / "test_red.py").write_text(TESTS.replace("SOURCE", "nowhere"))
    environment = environment_of(job, servers)
    with toxiproxy("external-real" if toxiproxy_server() else "external", servers) as api:
        if job.is_external and ".proxy " not in job.script():
            environment["PYTEST_RESILIENCE_TOXIPROXY"] = api
        code, output = run(job, project, environment)
    assert code == 1, output
    assert "1 failed, 1 passed" in output
    assert f"resilience: {job.environment['PYTEST_RESILIENCE_BACKEND']}" in output
    assert "redis.refuse: 2 strikes, all hit" in output
    assert [each for each in job.results if not (project / each).exists()] == []
    assert list((project / ".resilience" / "logs").iterdir())
    if ".proxy " in job.script():
        assert "Started proxy" in (project / ".resilience" / "proxy.log").read_text()


def test_the_command_of_the_pod_passes_with_the_tests_and_prints_the_logs_of_those_that_fail(project, servers):
    [job] = kubernetes_jobs().values()
    environment = environment_of(job, servers)
    code, output = run(job, project, environment)
    assert code == 0, output
    (project / "tests" / "resilience" / "test_outages.py").write_text(TESTS.replace("SOURCE", "nowhere"))
    code, output = run(job, project, environment)
    assert code == 1, output
    assert "===== postgres =====" in output.rpartition("short test summary")[2]
