"""The plugin is loaded once, however it is named, and can be switched off."""

from __future__ import annotations

import pytest

COUNT = """
def test_it(pytestconfig):
    loaded = [plugin.__name__ for plugin in pytestconfig.pluginmanager.get_plugins()
              if getattr(plugin, "__name__", "").startswith("pytest_resilience")]
    assert loaded.count("pytest_resilience.plugin") == 1
    assert set(loaded) <= {"pytest_resilience", "pytest_resilience.plugin"}
"""


@pytest.mark.parametrize("how", ["entry point", "option", "both", "conftest too"])
def test_it_is_loaded_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(COUNT)
    arguments = [] if how == "entry point" else ["-p", "pytest_resilience"]
    if how == "conftest too":
        pytester.makeconftest("pytest_plugins = ['pytest_resilience']")
    if how == "option":  # a checkout that is not installed has no entry points
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)


def test_it_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(resilience): pass", test_other="def test_other(): pass")
    result = pytester.runpytest_subprocess("-p", "no:pytest_resilience")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*fixture 'resilience' not found*"])
    result.stdout.no_fnmatch_line("resilience:*")


def test_fixtures_read_as_documentation(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--fixtures", "-p", "pytest_resilience")
    result.stdout.fnmatch_lines(
        [
            "resilience_stack [[]session scope[]] -- *",
            "    Postgres and Redis behind a Toxiproxy*",
            "resilience_service [[]session scope[]] -- *",
            "    Override this to describe how your service starts*",
            "resilience -- *",
            "    Targets for faults*",
        ]
    )


def test_the_marker_is_registered_with_its_signature(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.fault(name, ?*settings): strike before the test*"]
    )


def test_markers_strike_class_before_function_and_heal(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.fault("postgres.refuse")
        class TestIt:
            @pytest.mark.fault("redis.latency", seconds=0.2)
            def test_one(self, resilience):
                assert [s.label for s in resilience.strikes] == ["postgres.refuse", "redis.latency(seconds=0.2)"]
                assert not any(s.healed for s in resilience.strikes)

        def test_two(resilience):
            assert resilience.strikes == []
        """
    )
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*1 passed, 1 vacuous*"])
