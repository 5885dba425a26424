"""Root, an ordinary user, and a root without user namespaces; the system's Postgres, too."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pytest_resilience.backends import binaries
from pytest_resilience.backends.embedded import EmbeddedBackend
from pytest_resilience.processes import Keeper
from tests.support.waiting import gone

ROOT = Path(__file__).parents[2]
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SESSION = """
import json, os
from pytest_resilience.backends.embedded import EmbeddedBackend
with EmbeddedBackend() as backend:
    postgres = backend.servers["postgres"]
    postgres.kill()
    postgres.start()
    print(json.dumps({"uid": os.getuid(), "versions": backend.versions(), "directory": str(backend.directory)}))
"""


def struck_and_back(backend):
    for server in backend.servers.values():
        server.kill()
        server.start()
        server.pause()
        server.resume()
    return backend.servers["postgres"].processes()


def test_postgres_never_runs_as_root():
    with EmbeddedBackend() as backend:
        for pid in struck_and_back(backend):
            namespace = Path(f"/proc/{pid}/uid_map")
            if os.geteuid() == 0 and namespace.exists():
                inside, outside, count = namespace.read_text().split()
                assert (inside, outside, count) == ("65534", "0", "1") or psutil.Process(pid).uids().real != 0
            else:
                assert psutil.Process(pid).uids().real == os.getuid() != 0


@root
def test_without_user_namespaces_postgres_runs_as_nobody(monkeypatch):
    """As in Docker's default profile."""
    monkeypatch.setattr(Keeper, "user_namespaces", lambda _self: False)
    with EmbeddedBackend() as backend:
        pids = struck_and_back(backend)
        assert {psutil.Process(pid).uids().effective for pid in pids} == {65534}
    assert all(gone(pid) for pid in pids)
    assert not backend.directory.exists()


@root
def test_programs_that_only_root_reaches_are_copied_for_nobody(monkeypatch, tmp_path):
    """The cache is empty, so initdb runs as nobody too."""
    installed = binaries.find_postgres().path.parent
    package = installed.parent
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(installed, home / package.name / installed.name, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, home / libraries.name)
    monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(home / package.name / installed.name / "bin"))
    monkeypatch.setattr(Keeper, "user_namespaces", lambda _self: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with EmbeddedBackend() as backend:
        assert {psutil.Process(pid).uids().effective for pid in struck_and_back(backend)} == {65534}


def python_for(uid):
    """A Python that this user can run, and where the packages are that it needs."""
    path = os.pathsep.join([str(ROOT), *(str(Path(p).resolve()) for p in sys.path if p.endswith("site-packages"))])
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            asked = subprocess.run(
                [python, "-c", "import pytest_resilience, sys; print(*sys.version_info[:2])"],
                user=uid, group=uid, extra_groups=[], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False,
                cwd="/",
            )  # fmt: skip
        except OSError:
            continue
        if asked.returncode == 0 and tuple(map(int, asked.stdout.split())) >= (3, 11):
            return python, path
    pytest.skip("no Python >= 3.11 here that an ordinary user can run together with this checkout")


@root
def test_an_ordinary_user_needs_no_rights():
    uid = 65534
    python, path = python_for(uid)
    home = Path(tempfile.mkdtemp(prefix="home-"))
    try:
        os.chown(home, uid, uid)
        ran = subprocess.run(
            [python, "-W", "error", "-c", SESSION],
            user=uid, group=uid, extra_groups=[], env={"PYTHONPATH": path, "HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        facts = json.loads(ran.stdout)
        assert facts["uid"] == uid
        assert not Path(facts["directory"]).exists()
        assert (home / ".cache" / "pytest-resilience").is_dir()
    finally:
        shutil.rmtree(home)


def system_postgres():
    found = binaries._newest(Path("/usr/lib/postgresql"), "*/bin")
    return next((path for path in found if (path / "initdb").exists()), None)


@pytest.mark.skipif(system_postgres() is None, reason="no Postgres of the system in /usr/lib/postgresql")
def test_the_systems_postgres_will_do(monkeypatch, tmp_path):
    monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(system_postgres()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].version.split(".")[0] == system_postgres().parent.name
        assert struck_and_back(backend)
