"""The first start on a machine. The template is built once for all sessions, and again when it is damaged."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from pytest_resilience.backends.embedded import binaries
from pytest_resilience.backends.embedded import cache_dir as caches
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.embedded.template_file import DataDirTemplate
from pytest_resilience.backends.session import session_dir as scratch
from pytest_resilience.errors import BackendUnavailable
from pytest_resilience.processes import SupervisorClient
from tests.support.shared_memory import SharedMemory

ROOT = str(Path(__file__).parents[2])
SESSION = """
import json, sys
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.embedded.template_builder import TemplateBuilder
built = []
create = TemplateBuilder._create
TemplateBuilder._create = lambda self: (built.append(1), create(self))
sys.stdin.readline()
with EmbeddedBackend() as backend:
    postgres = backend.servers["postgres"]
    print(json.dumps({"built": len(built), "url": postgres.url(postgres.direct_address)}), flush=True)
    sys.stdin.readline()
"""


def test_four_sessions_at_once_build_one_template(tmp_path):
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ROOT}
    sessions = [
        subprocess.Popen(
            [sys.executable, "-c", SESSION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
        )
        for _ in range(4)
    ]
    try:
        for step in range(2):
            for session in sessions:
                session.stdin.write("go\n")
                session.stdin.flush()
            if step == 0:
                facts = [json.loads(session.stdout.readline()) for session in sessions]
        assert [session.wait(10) for session in sessions] == [0] * 4
    finally:
        for session in sessions:
            session.kill()
            session.communicate()
    assert sum(fact["built"] for fact in facts) == 1
    assert len({fact["url"].split("@")[0] for fact in facts}) == 4, "one template, and a password for each session"
    assert len({fact["url"] for fact in facts}) == 4
    assert [path.suffix for path in (tmp_path / "pytest-resilience").glob("postgres*.template")] == [".template"]


@pytest.fixture(scope="module")
def cached():
    """The template of this machine."""
    with EmbeddedBackend():
        pass
    (path, *_) = sorted(caches.cache_directory().glob("postgres-*.template"), key=lambda path: -path.stat().st_mtime)
    return path


@pytest.fixture
def own_cache(cached, tmp_path, monkeypatch):
    """A copy of the cache that may be damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = caches.cache_directory() / cached.name
    path.write_bytes(cached.read_bytes())
    path.chmod(0o600)
    return path


@pytest.fixture
def spawned(monkeypatch):
    """The ids of all processes that are started."""
    pids, spawn = [], SupervisorClient.spawn

    def recording(*args, **kwargs):
        child = spawn(*args, **kwargs)
        pids.append(child.pid)
        return child

    monkeypatch.setattr(SupervisorClient, "spawn", recording)
    return pids


def test_a_damaged_template_is_built_again(own_cache, spawned):
    """Damage at the end of the file is detected while Postgres already starts."""
    memory = SharedMemory()
    with DataDirTemplate(own_cache) as opened:
        verifier = opened.metadata["verifier"]
    whole = own_cache.read_bytes()
    own_cache.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].alive()
    with DataDirTemplate(own_cache) as renewed:
        assert renewed.metadata["verifier"] != verifier
    assert list(own_cache.parent.glob(".*")) == []
    assert memory.created_by(spawned) == []


def test_without_a_cache_the_template_is_built_for_the_session(monkeypatch):
    monkeypatch.setattr(caches, "cache_directories", lambda *_: iter(()))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].alive()
        assert len(list(backend.directory.glob("*.template"))) == 1
    assert not backend.directory.exists()


def test_no_file_has_the_password_and_the_template_has_a_verifier_that_no_server_uses(own_cache):
    with EmbeddedBackend() as backend:
        postgres = backend.servers["postgres"]
        password = urlsplit(postgres.url(postgres.direct_address)).password
        assert len(password) == 36
        files = [path for path in [own_cache, *backend.directory.rglob("*")] if path.is_file()]
        assert [path for path in files if password.encode() in path.read_bytes()] == []
        with DataDirTemplate(own_cache) as opened:
            verifier = opened.metadata["verifier"].encode()
        in_use = [
            path for path in (backend.directory / "postgres" / "global").iterdir() if verifier in path.read_bytes()
        ]
        assert in_use == []
        for process in psutil.Process(backend._supervisor.pid).children(recursive=True):
            words = [*process.cmdline(), *process.environ().values()]
            assert [word for word in words if password in word] == [], "any user can read command lines"
        programs = backend.directory / "binaries"  # a copy for all users, where Postgres runs as nobody by setuid
        readable_by_others = [
            path for path in files if path.stat().st_mode & 0o077 and not path.is_relative_to(programs)
        ]
        assert readable_by_others == []


def test_the_output_of_a_failed_initdb_is_in_the_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = binaries.find_postgres().path
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exec {real}/{name} --version\necho no room; exit 3\n'
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(tmp_path))
    failed = EmbeddedBackend()
    with pytest.raises(BackendUnavailable, match=r"initdb failed with exit code 3; its output:\nno room"):
        failed.start()
    assert not failed.directory.exists()


def test_a_program_that_does_not_run_is_an_error(tmp_path, monkeypatch):
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(tmp_path))
    with pytest.raises(BackendUnavailable, match=rf"{tmp_path}/postgres .* does not run here, or not now: .* code 1 "):
        EmbeddedBackend().start()


@pytest.fixture
def small(tmp_path):
    """A directory on a file system that has room for 256 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a file system: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A directory for temporary files that only this test uses."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_a_full_cache_is_skipped(small, temporary, monkeypatch):
    """The directory is writable, but the template is too large for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(small))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].alive()
        assert list(backend.directory.glob("*.template")) == []
    assert [path.suffix for path in temporary.glob("pytest-resilience-cache-*/postgres-*.template")] == [".template"]
    assert list(small.rglob("*.template*")) == []


def test_the_second_cache_directory_is_not_created_if_the_first_is_usable(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].alive()
    assert list((tmp_path / "pytest-resilience").glob("postgres-*.template"))
    assert list(temporary.glob("pytest-resilience-cache-*")) == []


def blocked_by_a_directory(cache, name):
    (cache / name).mkdir()


def blocked_by_a_lock(cache, name):
    (cache / name).with_suffix(".lock").mkdir()


def blocked_by_a_link(cache, name):
    (cache / name).with_suffix(".lock").symlink_to(cache.parent / "precious")


def blocked_by_a_pipe(cache, name):
    os.mkfifo((cache / name).with_suffix(".lock"))
    (cache / name).symlink_to(cache)


@pytest.mark.parametrize("block", [blocked_by_a_directory, blocked_by_a_lock, blocked_by_a_link, blocked_by_a_pipe])
def test_a_cache_with_other_files_in_place_of_its_own_is_skipped(cached, tmp_path, temporary, monkeypatch, block):
    (tmp_path / "precious").write_text("precious")
    cache = tmp_path / "pytest-resilience"
    cache.mkdir(mode=0o700)
    block(cache, cached.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with EmbeddedBackend() as backend:
        assert backend.servers["postgres"].alive()
    assert len(list(temporary.glob("pytest-resilience-cache-*/postgres-*.template"))) == 1
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_full_session_directory_is_named_in_the_error(small, temporary, monkeypatch):
    monkeypatch.setattr(scratch, "default_root", lambda: small)
    failed = EmbeddedBackend()
    with pytest.raises(BackendUnavailable, match=rf"{small}/pytest-resilience-.*No space left on device.*TMPDIR"):
        failed.start()
    assert list(small.iterdir()) == []


def test_initdb_in_a_full_directory_is_an_error(small, temporary, monkeypatch):
    """Nothing is cached, so initdb runs in the session directory."""
    monkeypatch.setattr(scratch, "default_root", lambda: small)
    monkeypatch.setattr(caches, "cache_directories", lambda *_: iter(()))
    with pytest.raises(BackendUnavailable, match=r"No space left on device"):
        EmbeddedBackend().start()


def test_without_any_directory_for_temporary_files_the_candidates_are_named(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(scratch, "MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(BackendUnavailable, match=r"there is no place for sessions: .*'/tmp', '/var/tmp'.* TMPDIR"):
        EmbeddedBackend().start()


def test_a_full_directory_for_the_supervisors_files_is_an_error(temporary, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(
        BackendUnavailable, match=r"the directory of this session, .*, can't be used: .*No space left on device"
    ):
        EmbeddedBackend().start()


def test_a_machine_without_free_processes_has_another_error_than_one_without_space(temporary, monkeypatch):
    def no_processes(*_arguments, **_settings):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", no_processes)
    with pytest.raises(BackendUnavailable, match=r"short of processes, .*Resource temporarily unavailable"):
        EmbeddedBackend().start()
