"""A run that uses the plugin shows one line of it. Other runs show none."""

from __future__ import annotations

import pytest

LINE = r"resilience: embedded \(.*\), Postgres \d+\.\d+.*, seed \d+"


@pytest.fixture
def unconfigured(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project without any option of the plugin, and without a Docker engine, which would be used."""
    monkeypatch.delenv("PYTEST_RESILIENCE_BACKEND", raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/engine.sock")
    return project


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-n2"], ["--collect-only"], ["-v"]], ids=" ".join)
def test_a_run_without_the_plugin_does_not_mention_it(unconfigured: pytest.Pytester, arguments: list[str]) -> None:
    unconfigured.makepyfile("def test_it(): pass")
    result = unconfigured.runpytest_subprocess(*arguments)
    assert result.ret == 0
    lines = [line for line in result.outlines if "resilience" in line.replace("resilience-", "")]
    assert [line for line in lines if not line.startswith(("plugins:", "rootdir:", "<", "test_"))] == []
    assert "seed" not in result.stdout.str()


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-n2"], ["--no-header"]], ids=" ".join)
def test_a_run_with_the_plugin_shows_backend_and_seed_once(unconfigured: pytest.Pytester, arguments: list[str]) -> None:
    unconfigured.makepyfile("def test_it(resilience): pass")
    result = unconfigured.runpytest_subprocess(*arguments)
    assert result.ret == 0
    result.stdout.re_match_lines([LINE])
    assert result.stdout.str().count(", seed ") == 1


def test_a_configured_run_shows_the_line_in_the_header(unconfigured: pytest.Pytester) -> None:
    unconfigured.makepyfile("def test_it(): pass")
    result = unconfigured.runpytest_subprocess("--resilience-seed=3")
    result.stdout.re_match_lines([LINE, "collected 1 item"])
