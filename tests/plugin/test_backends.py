"""The selection of a backend, its description, and the tests that need unsupported faults."""

from __future__ import annotations

import http.server
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

IMAGES = ("postgres:17", "redis:7", "ghcr.io/shopify/toxiproxy:2.12.0")

LIMITED = """
from pytest_resilience.backends.embedded.backend import EmbeddedBackend

class Limited(EmbeddedBackend):
    name = "limited"
    unsupported = {"postgres.kill": "it is Tuesday", "redis.latency": "no clock"}

def pytest_resilience_backends():
    return {"limited": lambda settings: Limited()}
"""


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """A Docker engine that has some images."""

    daemon_threads = True

    def __init__(self, path: Path, images: tuple[str, ...], *, silent: bool = False) -> None:
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                if silent:
                    threading.Event().wait(5)
                found = self.path == "/_ping" or any(self.path == f"/images/{image}/json" for image in images)
                self.send_response(200 if found else 404)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeEngine]]:
    """Start fake engines at the socket of DOCKER_HOST. The run selects its backend by `auto`."""
    made: list[FakeEngine] = []
    path = Path(os.path.relpath(tmp_path / "d.sock")) if len(str(tmp_path)) > 90 else tmp_path / "d.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.setenv("PYTEST_RESILIENCE_BACKEND", "auto")

    def start(images: tuple[str, ...] = IMAGES, *, silent: bool = False) -> FakeEngine:
        made.append(FakeEngine(path, images, silent=silent))
        return made[-1]

    yield start
    for each in made:
        each.shutdown()
        each.server_close()


def header(project: pytest.Pytester, *arguments: str) -> str:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess(*arguments)
    assert result.ret == 0
    return next(line for line in result.outlines if line.startswith("resilience: "))


def test_auto_takes_docker_where_an_engine_has_the_images(
    project: pytest.Pytester, engine: Callable[..., FakeEngine]
) -> None:
    engine()
    assert header(project).startswith(
        "resilience: docker (auto: an engine answers and has the images), postgres:17, redis:7, ghcr.io/shopify/toxiproxy:2.12.0"
    )


def test_auto_takes_embedded_where_an_image_is_missing(
    project: pytest.Pytester, engine: Callable[..., FakeEngine]
) -> None:
    engine(IMAGES[:1])
    assert header(project).startswith(
        "resilience: embedded (auto: no docker, Docker has no redis:7, ghcr.io/shopify/toxiproxy:2.12.0: docker pull them"
    )


def test_auto_takes_embedded_where_no_engine_answers(
    project: pytest.Pytester, engine: Callable[..., FakeEngine]
) -> None:
    assert "resilience: embedded (auto: no docker, there is no " in header(project)


def test_auto_waits_a_second_for_an_engine_and_no_longer(
    project: pytest.Pytester, engine: Callable[..., FakeEngine]
) -> None:
    engine(silent=True)
    assert "does not answer (TimeoutError)" in header(project)


def test_auto_does_not_take_an_engine_of_another_machine(
    project: pytest.Pytester, engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://builder")
    assert "embedded (auto: no docker, the engine at ssh://builder is not on this machine" in header(project)


def test_images_are_options(project: pytest.Pytester, engine: Callable[..., FakeEngine]) -> None:
    engine(("pg:1", *IMAGES))
    assert "docker (auto: " in header(project, "--resilience-postgres-image=pg:1")
    assert "Docker has no pg:2" in header(project, "--resilience-postgres-image=pg:2")


def test_an_engine_gets_few_requests(project: pytest.Pytester, engine: Callable[..., FakeEngine]) -> None:
    requests = engine().requests
    header(project)
    assert requests == ["/_ping", *(f"/images/{image}/json" for image in IMAGES)]


def test_the_table_of_backends_runs_nothing(project: pytest.Pytester, engine: Callable[..., FakeEngine]) -> None:
    project.makeconftest(LIMITED)
    project.makepyfile("assert False, 'this file must not be collected'")
    result = project.runpytest_subprocess("--resilience-backends")
    assert result.ret == 0
    result.stdout.re_match_lines(
        [
            r"backend   usable here",
            r"embedded  yes: Postgres \d.*, (Valkey|Redis) \d.*",
            r"docker    no: there is no .*/d\.sock",
            r"external  no: needs --resilience-toxiproxy=URL, --resilience-postgres-upstream, --resilience-redis-upstream",
            r"limited   yes: a plugin's",
            r"fault +embedded +docker +external +limited",
            r"postgres.refuse +yes +yes +yes +yes",
            r"postgres.kill +yes +yes +no \(\d+\) +.*",
            r"\(\d+\) external: its processes belong to its operator",
        ]
    )
    result.stdout.no_fnmatch_line("*test session starts*")


def test_a_plugins_backend_is_used_by_its_name_and_unsupported_faults_are_skipped(project: pytest.Pytester) -> None:
    project.makeconftest(LIMITED)
    project.makepyfile(
        """
        import pytest, redis

        @pytest.mark.fault("postgres.kill")
        def test_by_marker():
            assert False, "the test must not run"

        def test_by_call(resilience, resilience_stack):
            assert resilience_stack.backend == "limited"
            resilience.postgres.kill()
            assert False, "the fault must end the test"

        @pytest.mark.xfail(strict=True)
        def test_expected_to_fail(resilience):
            resilience.redis.latency(0.1)

        def test_a_supported_fault(resilience):
            with resilience.redis.refuse(), pytest.raises(redis.ConnectionError):
                redis.Redis.from_url(resilience.redis.url, retry=None).ping()

        def test_that_catches_the_error(resilience):
            from pytest_resilience import CannotInject
            with pytest.raises(CannotInject):
                resilience.postgres.kill()
        """
    )
    result = project.runpytest_subprocess("--resilience-backend=limited", "-rs", "--junitxml=out.xml")
    result.assert_outcomes(skipped=3, passed=2)
    text = result.stdout.str()
    assert "1 skipped: limited cannot redis.latency: no clock" in text
    assert "2 skipped: limited cannot postgres.kill: it is Tuesday" in text
    assert "SKIPPED [1] test_a_plugins_backend_is_used_by_its_name_and_unsupported_faults_are_skipped.py:" in text
    assert "limited cannot postgres.kill" in Path("out.xml").read_text()


def test_skips_are_counted_under_xdist_too(project: pytest.Pytester) -> None:
    project.makeconftest(LIMITED)
    project.makepyfile(
        "def test_a(resilience): resilience.postgres.kill()\ndef test_b(resilience): resilience.postgres.kill()"
    )
    result = project.runpytest_subprocess("--resilience-backend=limited", "-n2")
    assert "2 skipped: limited cannot postgres.kill: it is Tuesday" in result.stdout.str()


def test_a_plugin_cannot_take_the_name_of_another_backend(project: pytest.Pytester) -> None:
    project.makeconftest("def pytest_resilience_backends(): return {'docker': None}")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: pytest_resilience_backends: there is a backend 'docker' already"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --resilience-toxiproxy=URL, --resilience-postgres-upstream, --resilience-redis-upstream"),
        (
            ["--resilience-toxiproxy=https://h:1"],
            "--resilience-toxiproxy must be a URL such as http://127.0.0.1:8474, got 'https://h:1'",
        ),
        (
            ["--resilience-postgres-upstream=mysql://root:s3cret@h"],
            "--resilience-postgres-upstream must be host:port, or a URL*",
        ),
        (["--resilience-redis-upstream=h:port"], "--resilience-redis-upstream must be host:port, or a URL*"),
        (["--resilience-toxiproxy-ports=5"], "--resilience-toxiproxy-ports must be four ports at least*, got '5'"),
    ],
)
def test_missing_options_of_external_are_an_error_before_the_first_test(
    project: pytest.Pytester, arguments: list[str], message: str
) -> None:
    project.makepyfile("def test_it(): pass")
    complete = [
        "--resilience-toxiproxy=127.0.0.1:1",
        "--resilience-postgres-upstream=h:1",
        "--resilience-redis-upstream=h:2",
    ]
    result = project.runpytest_subprocess("--resilience-backend=external", *(complete + arguments if arguments else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --resilience-backend=external: {message}"])
    assert "s3cret" not in result.stderr.str() + result.stdout.str()


def test_a_toxiproxy_that_does_not_answer_is_an_error(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(resilience): pass")
    result = project.runpytest_subprocess(
        "--resilience-backend=external",
        "--resilience-toxiproxy=http://127.0.0.1:1",
        "--resilience-postgres-upstream=postgresql://u:s3cret@h",
        "--resilience-redis-upstream=h:2",
        "--showlocals",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *BackendUnavailable: no Toxiproxy at 127.0.0.1:1*"])
    assert "s3cret" not in result.stdout.str()


def test_docker_by_name_without_an_engine_is_a_usage_error(
    project: pytest.Pytester, engine: Callable[..., FakeEngine]
) -> None:
    project.makepyfile("def test_it(resilience): pass", test_other="def test_other(): pass")
    result = project.runpytest_subprocess("--resilience-backend=docker")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --resilience-backend=docker: no Docker engine: there is no *"])
    assert "passed" not in result.stdout.str()
    assert not any(word in result.stdout.str() + result.stderr.str() for word in ("Traceback", "INTERNALERROR", ".py:"))


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_a_configured_backend_that_is_missing_is_one_usage_error_where_a_test_needs_it(
    project: pytest.Pytester, engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    monkeypatch.delenv("PYTEST_RESILIENCE_BACKEND")
    project.makeini("[pytest]\naddopts = -p pytest_resilience\nresilience_backend = docker\n")
    project.makepyfile("def test_it(resilience): pass", test_other="def test_other(): pass")
    result = project.runpytest_subprocess(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the ini option resilience_backend=docker: no Docker engine: there is no *"])
    assert not any(
        word in result.stdout.str() + result.stderr.str() for word in ("Traceback", "INTERNALERROR", "passed")
    )
    if not workers:
        project.runpytest_subprocess("-k", "test_other").assert_outcomes(passed=1, deselected=1)


def test_a_run_on_auto_without_any_backend_fails_the_tests_that_need_one_in_a_line(
    project: pytest.Pytester, engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contributor without Docker and without the extra can still run all other tests."""
    monkeypatch.setenv("PYTEST_RESILIENCE_POSTGRES_BIN", "/nonexistent")
    project.makepyfile("def test_it(resilience): pass", test_other="def test_other(): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["E *BackendUnavailable: PYTEST_RESILIENCE_POSTGRES_BIN is '/nonexistent'*"])
    result.stdout.no_fnmatch_line("*pytest_resilience/*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--resilience-backend=embedded", "--resilience-postgres-image=pg:1", "--resilience-redis-image=r:1"],
            [
                "*--resilience-postgres-image is ignored: the backend is embedded, and docker reads it*",
                "*--resilience-redis-image is ignored: the backend is embedded, and docker reads it*",
            ],
        ),
        (
            ["--resilience-backend=auto", "--resilience-redis-upstream=h:1"],
            ["*--resilience-redis-upstream is ignored: the backend is embedded, and external reads it*"],
        ),
    ],
)
def test_an_option_that_the_backend_ignores_causes_one_warning(
    project: pytest.Pytester, engine: Callable[..., FakeEngine], arguments: list[str], message: list[str]
) -> None:
    project.makepyfile("def test_it(resilience): pass\ndef test_again(resilience): pass")
    result = project.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=2, warnings=len(message))
    result.stdout.fnmatch_lines(message)


def test_an_option_that_the_backend_ignores_is_a_usage_error_where_warnings_are_errors(
    project: pytest.Pytester,
) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess("--resilience-redis-image=r:1", "-W", "error")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *--resilience-redis-image is ignored: *"])
