"""No failure shows a password. Planted tests fail with --showlocals, inside libraries that hold the password in a variable."""

from __future__ import annotations

from pathlib import Path

import pytest

URL = """
import pathlib, pytest

@pytest.fixture
def url(resilience):
    url = resilience.postgres.url
    pathlib.Path("url").write_text(url.split(":")[2].partition("@")[0])
    return url
"""
PLANTED = (
    URL
    + """
import asyncio, os, sys
import asyncpg, redis

def test_the_database_is_missing(url):
    asyncio.run(asyncpg.connect(url.replace("/resilience", "/missing")))

def test_nobody_listens(resilience, url):
    resilience.postgres.refuse()
    asyncio.run(asyncpg.connect(url))

def test_it_is_cut_where_a_value_is_too_long(url):
    values = ["x" * length + url for length in range(60, 130)]
    many = {"A": "x" * 50, "URL": url, "B": "y" * 300}
    raise ValueError(f"can't use {url!r}")

def test_it_is_compared(url):
    assert url == "postgresql://"

def test_it_is_printed(url):
    print(url)
    print(url, file=sys.stderr)
    raise ValueError

def test_our_own_connection_is_refused(resilience, url):
    resilience.postgres.kill()
    resilience.postgres.admin.fetch("select 1")

def test_redis_wants_a_password(resilience, url):
    redis.Redis(host=resilience.redis.host, port=resilience.redis.port, password=url, username=url).ping()

@pytest.fixture
def broken(url):
    raise ValueError(url)

def test_its_fixture_fails(broken):
    pass
"""
)
WARNINGS = """
import threading, unittest, warnings

def test_a_thread_fails(url):
    def fail():
        raise OSError(f"cannot connect to {url}")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()

def test_it_warns(url):
    warnings.warn(UserWarning("cannot connect", url))

def test_it_is_known(url):
    pytest.xfail(f"cannot connect to {url}")

class TestSubtests(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, url):
        self.url = url

    def test_a_subtest_fails(self):
        with self.subTest(self.url, url=self.url):
            print("in the subtest", self.url)
            raise OSError(f"cannot connect to {self.url}")
"""
OPTIONS = {
    "locals": ["-l", "--tb=long"],
    "all of it": ["-l", "--tb=long", "-vv", "--full-trace", "-rA"],
    "short": ["-l", "--tb=short", "-rA"],
    "native": ["-l", "--tb=native"],
    "xdist": ["-l", "-n", "1"],
}


def pieces(password: str, size: int = 6) -> set[str]:
    return {password[at : at + size] for at in range(len(password) - size + 1)}


def leaking_lines(text: str, password: str, size: int = 6) -> list[str]:
    return [line for line in text.splitlines() if any(piece in line for piece in pieces(password, size))]


def leaking_lines_of_file(path: Path, password: str) -> list[str]:
    """Return the lines of a file that contain a part of the password. A template contains six of its digits by chance."""
    return leaking_lines(path.read_text(errors="replace"), password, 16 if path.suffix == ".template" else 6)


@pytest.mark.parametrize("how", OPTIONS)
def test_a_failure_shows_no_password_in_any_traceback_style(project: pytest.Pytester, how: str) -> None:
    project.makepyfile(PLANTED)
    result = project.runpytest_subprocess("--resilience-backend=embedded", *OPTIONS[how], "--junitxml=report.xml")
    result.assert_outcomes(failed=7, errors=1)
    password = (project.path / "url").read_text()
    assert len(password) == 36
    assert leaking_lines(result.stdout.str() + result.stderr.str(), password) == []
    files = [path for path in project.path.rglob("*") if path.is_file() and path.name != "url"]
    assert any(path.parent.name == "logs" for path in files)
    leaking = [str(path) for path in files if leaking_lines_of_file(path, password)]
    assert leaking == []
    assert "postgresql://postgres:***@127.0.0.1" in result.stdout.str()


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_warning_an_expected_failure_and_a_subtest_show_no_password(
    project: pytest.Pytester, options: list[str]
) -> None:
    project.makepyfile(URL + WARNINGS)
    result = project.runpytest_subprocess(
        "--resilience-backend=embedded", "-Walways", "-v", "-rA", "--junitxml=junit.xml", *options
    )
    password = (project.path / "url").read_text()
    assert leaking_lines(result.stdout.str() + result.stderr.str(), password) == []
    assert leaking_lines_of_file(project.path / "junit.xml", password) == []
    result.stdout.fnmatch_lines(
        [
            "*OSError: cannot connect to postgresql://postgres:[*][*][*]@*",
            "*'cannot connect', 'postgresql://postgres:[*][*][*]@*",
        ]
    )
    result.stdout.fnmatch_lines(["XFAIL * - cannot connect to postgresql://postgres:[*][*][*]@*"])


def test_a_service_that_cannot_start_does_not_show_its_environment(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENTS_KEY", "planted-for-this-test")
    project.makeconftest(
        """
        import pytest
        from pytest_resilience import Service

        @pytest.fixture(scope="session")
        def resilience_service(resilience_stack):
            return Service(["/bin/nosuchprogram"], env={"DATABASE_URL": resilience_stack.postgres.url})
        """
    )
    project.makepyfile("def test_it(resilience): pass")
    result = project.runpytest_subprocess("--resilience-backend=embedded", "-l", "--full-trace")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*CannotStart*"])
    result.stdout.no_fnmatch_line("*planted-for-this-test*")


def test_the_password_of_a_given_url_is_not_shown(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary word is replaced where it must be the password, and not in "hunter2 street"."""
    monkeypatch.setenv("PYTEST_RESILIENCE_POSTGRES_UPSTREAM", "postgresql://joe:hunter2@127.0.0.1:1/shop")
    monkeypatch.setenv("PYTEST_RESILIENCE_REDIS_UPSTREAM", "redis://:correct%20horse%2Fbattery@127.0.0.1:1/0")
    project.makepyfile(
        """
        def test_it():
            password, url, street = "hunter2", "postgresql://joe:hunter2@127.0.0.1/shop", "hunter2 street"
            redis, again = "redis://:correct%20horse%2Fbattery@127.0.0.1:1/0", "correct horse/battery"
            assert False
        """
    )
    result = project.runpytest_subprocess(
        "--resilience-backend=external", "--resilience-toxiproxy=http://127.0.0.1:1", "-l"
    )
    result.assert_outcomes(failed=1)
    lines = [line for line in result.stdout.lines if " = " in line]
    assert "street     = 'hunter2 street'" in lines
    assert [line for line in lines if "hunter2" in line and "street" not in line] == [], Path.cwd()
    assert [line for line in lines if "battery" in line] == []
