"""The origin of a value is the command line, else the environment, else ini. A wrong value ends the run before it begins."""

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


def test_a_seed_that_is_not_given_is_drawn_and_printed(project: pytest.Pytester) -> None:
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
    ("arguments", "message"),
    [
        (
            ["--resilience-backend=dokcer"],
            "--resilience-backend must be one of auto, embedded, docker, external, got 'dokcer'; did you mean 'docker'?",
        ),
        (
            ["--resilience-leaks=eror"],
            "--resilience-leaks must be one of report, error, off, got 'eror'; did you mean 'error'?",
        ),
        (["--resilience-seed=soon"], "--resilience-seed must be an integer, got 'soon'"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_names_the_allowed_ones(
    project: pytest.Pytester, arguments: list[str], message: str
) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: " + message.replace("[", "[[]").replace("?", "[?]") + "*"])


def test_the_error_of_a_wrong_value_names_its_origin(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_binaries_an_error_of_one_line_names_the_packages_to_install(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_RESILIENCE_POSTGRES_BIN", "/nonexistent")
    project.makepyfile("def test_it(resilience): pass", test_other="def test_other(): pass")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: the environment's PYTEST_RESILIENCE_BACKEND=embedded: PYTEST_RESILIENCE_POSTGRES_BIN is '/nonexistent'*"
        ]
    )
    assert len(result.errlines) < 4


WRONG_MARKERS = [
    (
        '"redis.refuze"',
        "UnknownFault: no fault named 'redis.refuze'; did you mean 'redis.refuse'*; there are: *redis.refuse*",
    ),
    (
        '"redis.starve"',
        "UnknownFault: no fault named 'redis.starve'; did you mean 'postgres.starve'?; there are: *",
    ),
    ('"postgers.refuse"', "UnknownFault: *; did you mean 'postgres.refuse'*"),
    ('"Redis.Refuse"', "UnknownFault: *; did you mean 'redis.refuse'*"),
    ('"refuse"', "UnknownFault: *; did you mean 'postgres.refuse' or 'redis.refuse'*"),
    ('"redis"', "UnknownFault: *'redis', which is a target: add the name of a fault, such as 'redis.*"),
    (
        '"redis.latency"',
        "SetupError: fault('redis.latency'): missing a required argument: 'seconds'; it takes seconds, jitter=0.0",
    ),
    ('"redis.bandwidth"', "SetupError: *missing a required argument: 'bytes_per_s'*"),
    ('"redis.slow_close"', "SetupError: *missing a required argument: 'seconds'*"),
    ('"redis.slow_accept"', "SetupError: *missing a required argument: 'seconds'*"),
    ('"redis.limit_data"', "SetupError: *missing a required argument: 'bytes'*"),
    ('"postgres.slow_queries"', "SetupError: *missing a required argument: 'seconds'*"),
    (
        '"redis.latency", second=1',
        "SetupError: fault('redis.latency'): there is no setting 'second'; did you mean 'seconds'?; it takes seconds, jitter=0.0",
    ),
    (
        '"redis.latency", seconds=-1',
        "SetupError: seconds must be at least 0.001*got -1; in fault('redis.latency', seconds=-1)",
    ),
    ('"redis.latency", seconds="soon"', "SetupError: seconds must be at least 0.001*got 'soon'; in fault(*"),
    ('"redis.refuse", 3', "SetupError: fault('redis.refuse'): too many positional arguments; it takes no settings"),
    ("5", "SetupError: fault(*) needs the name of a fault, such as *; got 5"),
    ('"service.kill"', "NoService: *no resilience_service fixture*"),
    ("", "SetupError: *fault(*) needs the name*"),
]


def test_a_wrong_marker_is_an_error_of_its_test_alone(project: pytest.Pytester) -> None:
    tests = [
        f"@pytest.mark.fault({marker})\ndef test_{number}():\n    assert False, 'it must not run'\n"
        for number, (marker, _) in enumerate(WRONG_MARKERS)
    ]
    project.makepyfile("\n".join(["import pytest", *tests, "def test_other(): pass"]))
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=len(WRONG_MARKERS), passed=1)
    for marker, message in WRONG_MARKERS:
        result.stdout.fnmatch_lines([f">   @pytest.mark.fault({marker})".replace("[", "[[]"), f"E *{message}*"])
    result.stdout.no_fnmatch_line("*pytest_resilience/*")


def test_a_wrong_marker_ends_neither_the_session_nor_the_collection(project: pytest.Pytester) -> None:
    markers = [
        ("leaks()", "SetupError: the marker leaks needs the name of a resource that the test may leak, such as *"),
        ("leaks", "SetupError: the marker leaks needs the name of a resource that the test may leak, such as *"),
        ('leaks("thraed:x")', "SetupError: the marker leaks takes names *; got 'thraed:x'; did you mean 'thread'?"),
        ("fault", "SetupError: fault(*) needs the name of a fault*"),
    ]
    texts = [
        "@pytest.mark.{}\ndef test_it(): assert False, 'it must not run'",
        "@pytest.mark.{}\nclass TestIt:\n    def test_it(self): assert False, 'it must not run'",
        "pytestmark = [pytest.mark.{}]\ndef test_it(): assert False, 'it must not run'",
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.{})])\ndef test_it(x): assert False",
    ]
    project.makepyfile(test_other="def test_other(): pass")
    for each, (marker, _) in enumerate(markers):
        for which, text in enumerate(texts):
            project.makepyfile(**{f"test_{each}{which}": f"import pytest\n{text.format(marker)}"})
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=len(markers) * len(texts), passed=1)
    result.stdout.fnmatch_lines([f"E *{message}*" for _, message in markers for _ in texts])
    result.stdout.no_fnmatch_line("*pytest_resilience/*")


def test_a_wrong_marker_of_a_skipped_test_is_no_error(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest\n@pytest.mark.skip\n@pytest.mark.leaks()\ndef test_it(): pass")
    project.runpytest_subprocess().assert_outcomes(skipped=1)


def test_a_wrong_attribute_suggests_the_right_one(project: pytest.Pytester) -> None:
    wrong = {
        "resilience.redis.refus()": "refuse",
        "resilience.postgers": "postgres",
        "resilience.redis.refuse().recept": "receipt",
        "resilience.redis.proxi": "proxy",
        "resilience_stack.toxyproxy": "toxiproxy",
        "pytest_resilience.eventualy": "eventually",
        "pytest_resilience.factories.postgress": "postgres",
    }
    tests = [f"def test_{number}(resilience, resilience_stack):\n    {text}\n" for number, text in enumerate(wrong)]
    project.makepyfile("\n".join(["import pytest_resilience, pytest_resilience.factories", *tests]))
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=len(wrong))
    for text, meant in wrong.items():
        result.stdout.fnmatch_lines(
            [f">  *{text}", f"E  *AttributeError: *has no attribute *; did you mean '{meant}'[?]"]
        )
    result.stdout.no_fnmatch_line("*raise no_attribute*")


def test_the_name_of_a_server_from_a_factory_is_suggested_too(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_resilience import factories

        replica = factories.redis("replica")

        @pytest.mark.fault("replcia.refuse")
        def test_it(replica): pass

        @pytest.mark.parametrize("name", [5, None, "Replica"])
        def test_names(resilience, name):
            resilience.add_redis(name)
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1, failed=3)
    result.stdout.fnmatch_lines(
        ["E *did you mean 'replica.refuse'*", "E *SetupError: 5 can't be the name of a server*"]
    )


def test_a_variable_with_a_misspelt_name_gives_a_warning(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile("def test_it(): pass")
    monkeypatch.setenv("PYTEST_RESILIENCE_STRICTT", "true")
    monkeypatch.setenv("PYTEST_RESILIENCE_CHILD", "of a session's process")
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        ["*the environment's PYTEST_RESILIENCE_STRICTT is not read; did you mean 'PYTEST_RESILIENCE_STRICT'[?]*"]
    )
    result.stdout.no_fnmatch_line("*CHILD*")
