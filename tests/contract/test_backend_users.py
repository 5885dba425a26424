"""Sessions of root, of ordinary users and of root without user namespaces, and the Postgres of the system."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pytest_resilience.backends.embedded import binaries
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.processes import SupervisorClient
from tests.support.waiting import gone

ROOT = Path(__file__).parents[2]
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SESSION = """
import json, os
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
with EmbeddedBackend() as backend:
    postgres = backend.servers["postgres"]
    postgres.kill()
    postgres.start()
    print(json.dumps({"uid": os.getuid(), "versions": backend.versions(), "directory": str(backend.directory)}))
"""


def strike_and_restart(backend):
    for server in backend.servers.values():
        server.kill()
        server.start()
        server.pause()
        server.resume()
    return backend.servers["postgres"].processes()


def test_postgres_never_runs_as_root():
    with EmbeddedBackend() as backend:
        for pid in strike_and_restart(backend):
            namespace = Path(f"/proc/{pid}/uid_map")
            if os.geteuid() == 0 and namespace.exists():
                inside, outside, count = namespace.read_text().split()
                assert (inside, outside, count) == ("65534", "0", "1") or psutil.Process(pid).uids().real != 0
            else:
                assert psutil.Process(pid).uids().real == os.getuid() != 0


@root
def test_without_user_namespaces_postgres_runs_as_nobody(monkeypatch):
    """Docker's default profile allows no user namespaces."""
    monkeypatch.setattr(SupervisorClient, "user_namespaces", lambda _self: False)
    with EmbeddedBackend() as backend:
        pids = strike_and_restart(backend)
        assert {psutil.Process(pid).uids().effective for pid in pids} == {65534}
    assert all(gone(pid) for pid in pids)
    assert not backend.directory.exists()


@root
def test_programs_that_only_root_can_read_are_copied(monkeypatch, tmp_path):
    """The cache is empty, so initdb runs as the other user too."""
    installed = binaries.find_postgres().path.parent
    package = installed.parent
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(installed, home / package.name / installed.name, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, home / libraries.name)
    monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(home / package.name / installed.name / "bin"))
    monkeypatch.setattr(SupervisorClient, "user_namespaces", lambda _self: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with EmbeddedBackend() as backend:
        assert {psutil.Process(pid).uids().effective for pid in strike_and_restart(backend)} == {65534}


def python_for(uid):
    """Return a Python that this user can run, and the path of the packages that it needs."""
    path = os.pathsep.join([str(ROOT), *(str(Path(p).resolve()) for p in sys.path if p.endswith("site-packages"))])
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            ran = subprocess.run(
                [python, "-c", "import pytest_resilience, sys; print(*sys.version_info[:2])"],
                user=uid, group=uid, extra_groups=[], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False,
                cwd="/",
            )  # fmt: skip
        except OSError:
            continue
        if ran.returncode == 0 and tuple(map(int, ran.stdout.split())) >= (3, 11):
            return python, path
    pytest.skip("no Python >= 3.11 here that an ordinary user can run together with this checkout")


@root
def test_an_ordinary_user_needs_no_privileges():
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


def session_of(uid, *, before="", **environ):
    """Run SESSION as that user, with the root group, without HOME, and with nothing of this environment."""
    python, path = python_for(uid)
    return subprocess.run(
        [python, "-W", "error", "-c", before + SESSION],
        user=uid, group=0, extra_groups=[], env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", **environ},
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip


@pytest.fixture
def nameless():
    """The id of a user without a line in /etc/passwd, as with `docker run -u 1234`."""
    uid = 1_234_567
    yield uid
    shutil.rmtree(f"{tempfile.gettempdir()}/pytest-resilience-cache-{uid}", ignore_errors=True)


NO_NAMESPACES = """
from pytest_resilience.processes import SupervisorClient
SupervisorClient.user_namespaces = lambda self: False
"""


@root
def test_a_user_without_a_name_can_run_a_session(nameless):
    ran = session_of(nameless)
    if "user namespaces are not allowed here" in ran.stderr:
        pytest.skip("no user namespaces here")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["uid"] == nameless


@root
def test_the_error_for_a_user_without_a_name_and_user_namespaces_has_a_remedy(nameless):
    ran = session_of(nameless, before=NO_NAMESPACES)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert f"BackendUnavailable: Postgres does not start for user {nameless}" in last
    assert "docker run -u nobody" in last


@root
@pytest.mark.skipif(sys.platform != "linux", reason="needs user namespaces")
def test_root_without_other_users_is_an_error():
    """The session runs in a user namespace that has only root and allows no other namespace."""
    inside = f"""
import ctypes, os
libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
if libc.unshare(0x10000000): raise SystemExit("no namespaces")
for name, text in ("setgroups", "deny"), ("uid_map", f"0 {{uid}} 1"), ("gid_map", f"0 {{gid}} 1"):
    open("/proc/self/" + name, "w").write(text)
open("/proc/sys/user/max_user_namespaces", "w").write("0")
{SESSION}"""
    ran = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=False, cwd=ROOT)
    if "no namespaces" in ran.stderr:
        pytest.skip("no user namespaces here")
    assert ran.returncode == 1
    assert "BackendUnavailable: Postgres does not start for root" in ran.stderr.splitlines()[-1]


IN_TEMPORARY_FILES = """
import pathlib, tempfile
from pytest_resilience.backends.session import session_dir
session_dir.default_root = lambda: pathlib.Path(tempfile.gettempdir())
"""


@root
@pytest.mark.parametrize("name", ["with a space", "with 'quotes' \"and\" $signs %s", "long" * 50, "nöt äscii"])
def test_the_directory_for_temporary_files_may_have_any_name(name):
    uid = 65534
    place = Path(tempfile.mkdtemp(prefix="odd-"))
    try:
        place.chmod(0o755)
        (place / name).mkdir()
        os.chown(place / name, uid, uid)
        ran = session_of(uid, before=IN_TEMPORARY_FILES, TMPDIR=str(place / name))
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["directory"].startswith(str(place / name))
        assert [path.name for path in (place / name).iterdir()] == [f"pytest-resilience-cache-{uid}"]
    finally:
        shutil.rmtree(place)


@root
@pytest.mark.parametrize("umask", ["0o777", "0o077", "0"])
def test_the_umask_makes_no_difference(umask):
    uid = 65534
    place = Path(tempfile.mkdtemp(prefix="masked-"))
    try:
        place.chmod(0o777)
        script = """
with EmbeddedBackend() as backend:
    import pathlib
    child = backend.spawn("service", ["sh", "-c", "umask"], env={"PATH": "/usr/bin:/bin"})
    child.wait(5)
    print(json.dumps([child.log_text().strip(), [str(p) for p in pathlib.Path(backend.directory).rglob("*") if p.lstat().st_mode & 0o077]]))
"""
        python, path = python_for(uid)
        ran = subprocess.run(
            [python, "-c", f"import os; os.umask({umask}){IN_TEMPORARY_FILES}{SESSION}{script}"],
            user=uid, group=0, extra_groups=[], capture_output=True, text=True, check=False, cwd="/",
            env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        of_the_service, readable_by_others = json.loads(ran.stdout.splitlines()[-1])
        assert int(of_the_service, 8) == int(umask, 0), "the umask of the tests"
        assert readable_by_others == []
    finally:
        shutil.rmtree(place)


def system_postgres():
    found = binaries._newest_first(Path("/usr/lib/postgresql"), "*/bin")
    return next((path for path in found if (path / "initdb").exists()), None)


@pytest.mark.skipif(system_postgres() is None, reason="no Postgres of the system in /usr/lib/postgresql")
def test_the_postgres_of_the_system_is_usable(monkeypatch, tmp_path):
    monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(system_postgres()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].version.split(".")[0] == system_postgres().parent.name
        assert strike_and_restart(backend)
