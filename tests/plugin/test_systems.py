"""The factories of MySQL and RabbitMQ where no Docker is needed: their errors. tests/contract/test_system_*.py has the servers."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize("kind", ["mysql", "mariadb", "rabbitmq"])
def test_a_backend_that_cannot_start_it_is_an_error_that_names_what_to_do(pytester: pytest.Pytester, kind: str) -> None:
    pytester.makeconftest(f"from pytest_resilience import factories\nstore = factories.{kind}('store')")
    pytester.makepyfile(
        """
        import pytest

        def test_by_fixture(store):
            assert False, "the test must not run"

        def test_by_attribute(resilience):
            resilience.store.refuse()

        @pytest.mark.fault("store.refuse")
        def test_by_marker():
            assert False, "the test must not run"

        def test_by_label(resilience):
            resilience.strike("store.refuse")

        def test_without():
            pass
        """
    )
    result = pytester.runpytest_subprocess("--resilience-backend=embedded", "--tb=short")
    result.assert_outcomes(passed=1, failed=2, errors=2)
    name = {"mariadb": "mysql"}.get(kind, kind)
    text = (
        f"E   pytest_resilience.errors.SetupError: store: the embedded backend can't start {name}. Take --resilience-backend=docker, "
        "which runs it in a container, or factories.tcp('store', upstream=...) for a server that you run"
    )
    assert result.stdout.str().count(text) == 4, result.stdout.str()


def test_fixtures_read_as_documentation(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "from pytest_resilience import factories\nshop = factories.mysql('shop')\njobs = factories.rabbitmq('jobs')"
    )
    result = pytester.runpytest_subprocess("--fixtures")
    found = result.stdout.str()
    assert re.search(r"^jobs -- .*\n    A RabbitMQ, which has no queues of earlier tests", found, re.MULTILINE), found
    assert re.search(r"^shop -- .*\n    A MySQL, which is in its baseline", found, re.MULTILINE), found


def test_the_table_of_backends_has_its_faults(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--resilience-backends")
    result.stdout.re_match_lines_random(
        [
            r"mysql\.read_only +no \(\d+\) +yes +no",
            r"rabbitmq\.queue_full +no \(\d+\) +yes +no",
            r".*it can't start such a server",
        ]
    )


def test_a_wrong_name_suggests_the_right_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from pytest_resilience import factories\nstore = factories.rabitmq('store')")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*has no attribute 'rabitmq'; did you mean 'rabbitmq'?"])
