"""Switches: command line, then environment, then ini; a wrong value ends the run before it begins."""

from __future__ import annotations

import pytest

SEED = "def test_it(resilience_stack): assert resilience_stack.seed == {}"


def test_the_command_line_wins_over_the_environment_and_that_over_ini(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeini(
        "[pytest]\naddopts = -p pytest_resilience\nresilience_seed = 1\nasyncio_default_fixture_loop_scope = function\n"
    )
    project.makepyfile("def test_it(): pass")
    project.runpytest_subprocess().stdout.fnmatch_lines(["resilience: *, seed 1"])
    monkeypatch.setenv("PYTEST_RESILIENCE_SEED", "2")
    project.runpytest_subprocess().stdout.fnmatch_lines(["resilience: *, seed 2"])
    project.runpytest_subprocess("--resilience-seed", "3").stdout.fnmatch_lines(["resilience: *, seed 3"])


def test_a_seed_is_drawn_and_printed_when_nobody_gives_one(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    first, second = (project.runpytest_subprocess().stdout.str().split(", seed ")[1].split()[0] for _ in range(2))
    assert first != second


def test_the_header_names_backend_reason_versions_and_seed(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess("--resilience-backend=embedded", "--resilience-seed=7")
    result.stdout.re_match_lines(
        [r"resilience: embedded \(asked for\), Postgres \d+\.\d+, (Valkey|Redis) \d+\.\d+.*, seed 7"]
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--resilience-backend=dokcer"],
            "--resilience-backend must be one of auto, embedded, docker, external, got 'dokcer'",
        ),
        (["--resilience-seed=soon"], "--resilience-seed must be an integer, got 'soon'"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_names_the_allowed_ones(
    project: pytest.Pytester, arguments: list[str], told: str
) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {told.replace('[', '[[]')}*"])


def test_a_wrong_value_of_the_environment_or_ini_says_where_it_came_from(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile("def test_it(): pass")
    monkeypatch.setenv("PYTEST_RESILIENCE_STRICT", "perhaps")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: the environment's PYTEST_RESILIENCE_STRICT must be true or false, got 'perhaps'*"]
    )
    monkeypatch.delenv("PYTEST_RESILIENCE_STRICT")
    monkeypatch.delenv("PYTEST_RESILIENCE_BACKEND")
    project.makeini("[pytest]\naddopts = -p pytest_resilience\nresilience_backend = moon\n")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the ini option resilience_backend must be one of*"])


def test_without_binaries_the_error_says_what_to_install_in_one_line(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_RESILIENCE_POSTGRES_BIN", "/nonexistent")
    project.makepyfile("def test_it(resilience): pass", test_other="def test_other(): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["E *BackendUnavailable: PYTEST_RESILIENCE_POSTGRES_BIN says '/nonexistent'*"])


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ('"redis.refuze"', "UnknownFault: no fault named 'redis.refuze'; there are: *redis.refuse*"),
        ('"redis.starve"', "UnknownFault: no fault named 'redis.starve'; there are: *postgres.starve*"),
        ('"redis.latency", secs=1', "SetupError: fault('redis.latency'): *'secs'; it takes seconds=0.0, jitter=0.0"),
        ('"redis.latency", seconds=-1', "SetupError: seconds must be at least 0.001*got -1"),
        ('"service.kill"', "NoService: *no resilience_service fixture*"),
        ("", "SetupError: *fault(*) needs the name*"),
    ],
)
def test_a_wrong_marker_is_an_error_of_its_test_alone(project: pytest.Pytester, marker: str, told: str) -> None:
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.fault({marker})
        def test_it():
            assert False, "it must not run"

        def test_other():
            pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines([f"E *{told}*"])
