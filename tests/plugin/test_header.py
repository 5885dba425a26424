"""What a run says of the plugin: its line where the plugin is used, and nothing in other people's runs."""

from __future__ import annotations

import pytest

LINE = r"resilience: embedded \(.*\), Postgres \d+\.\d+.*, seed \d+"


@pytest.fixture
def unconfigured(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project that gives the plugin no option at all; an engine would be taken, if there was one."""
    monkeypatch.delenv("PYTEST_RESILIENCE_BACKEND", raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/engine.sock")
    return project


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-n2"], ["--collect-only"], ["-v"]], ids=" ".join)
def test_a_run_that_does_not_use_the_plugin_says_nothing_of_it(
    unconfigured: pytest.Pytester, arguments: list[str]
) -> None:
    unconfigured.makepyfile("def test_it(): pass")
    result = unconfigured.runpytest_subprocess(*arguments)
    assert result.ret == 0
    said = [line for line in result.outlines if "resilience" in line.replace("resilience-", "")]
    assert [line for line in said if not line.startswith(("plugins:", "rootdir:", "<", "test_"))] == []
    assert "seed" not in result.stdout.str()


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-n2"], ["--no-header"]], ids=" ".join)
def test_a_run_that_uses_the_plugin_says_once_which_backend_and_seed(
    unconfigured: pytest.Pytester, arguments: list[str]
) -> None:
    unconfigured.makepyfile("def test_it(resilience): pass")
    result = unconfigured.runpytest_subprocess(*arguments)
    assert result.ret == 0
    result.stdout.re_match_lines([LINE])
    assert result.stdout.str().count(", seed ") == 1


def test_a_run_that_is_configured_says_so_in_the_header(unconfigured: pytest.Pytester) -> None:
    unconfigured.makepyfile("def test_it(): pass")
    result = unconfigured.runpytest_subprocess("--resilience-seed=3")
    result.stdout.re_match_lines([LINE, "collected 1 item"])
