"""Tests that run more than once. Each attempt counts once, and a pass after a failure is reported."""

from __future__ import annotations

import json
import textwrap
import xml.etree.ElementTree as ET

import pytest

VACUOUS_AT_LAST = """
def test_flaky(resilience):
    attempts.append(1)
    with resilience.redis.latency(0.01):
        pass
    assert len(attempts) > {failures}
"""


def rerun(project: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    """Run a test with pytest-rerunfailures. It counts its attempts in the list `attempts`."""
    pytest.importorskip("pytest_rerunfailures")
    project.makepyfile(f"attempts = []\n{textwrap.dedent(test)}")
    return project.runpytest_subprocess("-p", "no:flaky", *arguments)


def properties(case: ET.Element) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in case.iter("property"):
        found.setdefault(str(each.get("name")), []).append(str(each.get("value")))
    return found


def junit(project: pytest.Pytester) -> list[dict[str, list[str]]]:
    return [properties(case) for case in ET.parse(project.path / "junit.xml").iter("testcase")]


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_each_attempt_counts_once_and_a_pass_after_failures_is_reported(
    project: pytest.Pytester, workers: list[str]
) -> None:
    result = rerun(project, VACUOUS_AT_LAST.format(failures=2), "--reruns=3", "--junitxml=junit.xml", *workers)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "redis.latency: 3 strikes, 3 affected nothing",
            "VACUOUS *::test_flaky: redis.latency(seconds=0.01) affected no bytes",
            "FLAKY *::test_flaky: passed at attempt 3, after 2 attempts that failed",
            "*2 rerun, 1 vacuous*",
        ]
    )
    assert result.stdout.str().count("VACUOUS ") == 1
    cases = junit(project)
    assert [len(case["resilience_strike"]) for case in cases] == [1, 1, 1]
    assert [case.get("resilience_outcome") for case in cases] == [None, None, ["vacuous"]]
    assert [case.get("resilience_attempt") for case in cases] == [None, ["2"], ["3"]]
    assert [case.get("resilience_failed_attempts") for case in cases] == [None, ["1"], ["2"]]


def test_a_vacuous_test_that_strict_runs_again_is_reported_once(project: pytest.Pytester) -> None:
    result = rerun(project, VACUOUS_AT_LAST.format(failures=0), "--reruns=2", "--resilience-strict")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["redis.latency: 3 strikes, 3 affected nothing", "*1 error*"])
    assert result.stdout.str().count("VACUOUS test_") == 1
    result.stdout.no_fnmatch_line("FLAKY*")


def test_a_fault_that_hits_at_the_second_attempt_is_not_called_vacuous(project: pytest.Pytester) -> None:
    result = rerun(
        project,
        """
        import socket

        def test_flaky(resilience):
            attempts.append(1)
            with resilience.redis.blackhole():
                if len(attempts) > 1:
                    with socket.create_connection((resilience.redis.host, resilience.redis.port), timeout=1) as client:
                        client.sendall(b"PING\\r\\n")
                        for _ in range(1000):
                            if resilience.strikes[-1].receipt.touched:
                                break
        """,
        "--reruns=2",
        "--resilience-strict",
    )
    result.stdout.fnmatch_lines(
        [
            "redis.blackhole: 2 strikes, 1 hit *1 affected nothing",
            "FLAKY *passed at attempt 2, after 1 attempt that failed",
        ]
    )
    result.stdout.no_fnmatch_line("VACUOUS test_*")


def test_an_attempt_with_a_failed_setup_has_no_results_of_the_one_before(project: pytest.Pytester) -> None:
    """The second attempt strikes nothing, so a strike or failure in its report would be that of the first."""
    result = rerun(
        project,
        """
        import pytest

        @pytest.fixture
        def before():
            attempts.append(1)
            assert len(attempts) != 2, "the second attempt"

        def test_it(before, resilience):
            resilience.redis.latency(0.01)
            assert len(attempts) == 3
        """,
        "--reruns=2",
        "--junitxml=junit.xml",
        "--resilience-strict",
    )
    result.stdout.fnmatch_lines(["redis.latency: 2 strikes, 2 affected nothing"])
    assert [len(case.get("resilience_strike", [])) for case in junit(project)] == [1, 0, 1]


def test_each_failed_attempt_keeps_its_own_logs(project: pytest.Pytester) -> None:
    rerun(
        project,
        """
        def test_it(resilience):
            attempts.append(1)
            resilience.redis.latency(seconds=len(attempts))
            assert False
        """,
        "--reruns=1",
    )
    logs = sorted((project.path / ".resilience" / "logs").iterdir())
    assert [file.name.split("::")[0].rsplit("test_it", 1)[1] for file in logs] == ["-attempt-2.log", ".log"]
    assert ["seconds=2" in file.read_text() for file in logs] == [True, False]


def test_with_the_flaky_plugin_only_the_last_attempt_is_reported(project: pytest.Pytester) -> None:
    pytest.importorskip("flaky")
    project.makepyfile(f"attempts = []\n{VACUOUS_AT_LAST.format(failures=1)}")
    result = project.runpytest_subprocess("-p", "no:rerunfailures", "--force-flaky", "--max-runs=3")
    result.stdout.fnmatch_lines(
        [
            "redis.latency: 1 strike, 1 affected nothing",
            "FLAKY *passed at attempt 2, after 1 attempt that failed",
        ]
    )


def test_repeated_tests_are_separate_tests(project: pytest.Pytester) -> None:
    pytest.importorskip("pytest_repeat")
    project.makepyfile("def test_it(resilience): resilience.redis.latency(0.01)")
    result = project.runpytest_subprocess("--count=2")
    result.stdout.fnmatch_lines(["redis.latency: 2 strikes, 2 affected nothing", "*2 vacuous*"])
    assert result.stdout.str().count("VACUOUS test_") == 2


def test_the_last_failed_run_counts_its_own_strikes(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(resilience):\n    resilience.redis.latency(0.01)\n    assert False")
    for arguments in ([], ["--lf"]):
        result = project.runpytest_subprocess(*arguments)
        result.stdout.fnmatch_lines(["redis.latency: 1 strike, 1 affected nothing"])


NOT_PASSED = """
    import pytest

    def test_failed(resilience):
        resilience.redis.latency(0.01)
        assert False

    @pytest.mark.xfail
    def test_expected_to_fail(resilience):
        resilience.redis.latency(0.01)
        assert False

    @pytest.mark.xfail(strict=True)
    def test_passes_against_all_expectation(resilience):
        resilience.redis.latency(0.01)

    def test_skipped(resilience):
        resilience.redis.latency(0.01)
        pytest.skip("halfway")

    @pytest.fixture
    def breaks(resilience):
        resilience.redis.latency(0.01)
        assert False

    def test_setup(breaks):
        pass

    @pytest.fixture
    def breaks_later(resilience):
        yield
        assert False

    def test_teardown(breaks_later, resilience):
        resilience.redis.latency(0.01)

    def test_subtests(resilience, subtests):
        resilience.redis.latency(0.01)
        with subtests.test("one"):
            pass
        with subtests.test("two"):
            assert False

    def test_passed(resilience):
        resilience.redis.latency(0.01)
    """


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_only_a_test_that_passed_is_vacuous_in_junit(project: pytest.Pytester, workers: list[str]) -> None:
    project.makepyfile(NOT_PASSED)
    project.runpytest_subprocess("--junitxml=junit.xml", *workers)
    cases = ET.parse(project.path / "junit.xml").iter("testcase")
    vacuous = {case.get("name") for case in cases if "resilience_outcome" in properties(case)}
    assert vacuous == {"test_passed"}


def test_strikes_of_a_setup_that_failed_are_counted(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def breaks(resilience):
            resilience.redis.latency(0.01)
            assert False

        def test_setup(breaks):
            pass
        """
    )
    result = project.runpytest_subprocess("--junitxml=junit.xml")
    result.stdout.fnmatch_lines(["redis.latency: 1 strike, 1 affected nothing"])
    (case,) = junit(project)
    assert json.loads(case["resilience_strike"][0])["label"] == "redis.latency(seconds=0.01)"
