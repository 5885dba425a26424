"""The link check of scripts/lint reports dead links and no good ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "lib" / "check_links.py"


@pytest.fixture(scope="module")
def check_links():
    spec = importlib.util.spec_from_file_location("check_links", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def page(tmp_path):
    (tmp_path / "other.md").write_text("# The first `test`, in ten\n\n## Twice\n\n## Twice\n\n<a id='here'></a>\n")
    return tmp_path / "page.md"


@pytest.mark.parametrize(
    "text",
    [
        "[ok](other.md)",
        "[ok](other.md#the-first-test-in-ten) and [again](other.md#twice-1)",
        "[ok](other.md#here)",
        "[ok](https://example.org/nowhere#at-all)",
        "`[code](nowhere.md)`",
        "```\n[code](nowhere.md)\n```",
        "[ok][ref]\n\n[ref]: other.md",
        "# Own\n[ok](#own)",
    ],
)
def test_a_good_link_passes(check_links, page, text):
    page.write_text(text)
    assert list(check_links.problems(page, page.parent)) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[dead](nowhere.md)", "no such file"),
        ("[dead](other.md#nowhere)", "no such heading"),
        ("![dead](picture.png)", "no such file"),
        ("[dead](../../etc/passwd)", "leaves the checkout"),
        ("[dead][ref]", "not defined"),
        ("[ref]: nowhere.md", "no such file"),
        ("```\ncode\n```\n[dead](nowhere.md)", "no such file"),
        ("[dead](#nowhere)", "no such heading"),
    ],
)
def test_a_dead_link_is_reported(check_links, page, text, why):
    page.write_text(text)
    assert [why in reason for _, reason in check_links.problems(page, page.parent)] == [True]
