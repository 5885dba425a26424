"""The ids of jobs."""

import pytest

from service.jobs.job import Job


def test_the_id_has_the_campaign_and_the_step():
    assert Job(7).id == "campaign-7-0"
    assert Job.from_id("campaign-7-3") == Job(7, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "campaign",
        "campaign-7",
        "campaign-7-",
        "campaign--1",
        "campaign-07-0",
        "campaign-7-0-1",
        "x-7-0",
        "campaign-²-0",
    ],
)
def test_another_text_is_no_job(text):
    assert Job.from_id(text) is None
