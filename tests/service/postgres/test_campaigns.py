"""The checks of client input and the cached form of a campaign."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from service.postgres.campaigns import Campaign, ValidationFailed, validate_change, validate_creation

GOOD = {"name": "n", "message": "m"}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"name", "message"}),
        ([], {"body"}),
        (None, {"body"}),
        ({**GOOD, "name": ""}, {"name"}),
        ({**GOOD, "name": "n" * 201}, {"name"}),
        ({**GOOD, "message": "m" * 10_001}, {"message"}),
        ({**GOOD, "name": 5}, {"name"}),
        ({**GOOD, "name": None}, {"name"}),
        ({**GOOD, "name": "a\0b"}, {"name"}),
        ({**GOOD, "message": "\ud800"}, {"message"}),
        ({**GOOD, "nmae": "x"}, {"nmae"}),
        ({**GOOD, "status": "sent"}, {"status"}),
    ],
)
def test_an_invalid_new_campaign_names_the_fields(body, wrong):
    with pytest.raises(ValidationFailed) as caught:
        validate_creation(body)
    assert set(caught.value.problems) == wrong


@pytest.mark.parametrize(
    "body", [GOOD, {"name": "n" * 200, "message": "m" * 10_000}, {"name": "😀" * 200, "message": "ä"}]
)
def test_a_valid_new_campaign_passes(body):
    assert validate_creation(body) == body


@pytest.mark.parametrize(
    ("body", "wrong"),
    [({}, {"body"}), ({"status": "gone"}, {"status"}), ({"status": ["sent"]}, {"status"}), ({"id": 1}, {"id"})],
)
def test_an_invalid_change_names_the_fields(body, wrong):
    with pytest.raises(ValidationFailed) as caught:
        validate_change(body)
    assert set(caught.value.problems) == wrong


def test_any_field_may_be_changed_alone():
    for body in ({"name": "x"}, {"message": "x"}, *({"status": s} for s in ("draft", "scheduled", "sending", "sent"))):
        assert validate_change(body) == body


def test_a_cache_entry_has_times_in_utc_and_a_stamp_from_its_creation():
    created = datetime(2025, 11, 24, 9, 9, 45, 634000, timezone(timedelta(hours=1)))
    entry = Campaign(1, "n", "ä", "draft", 3, created, created.astimezone(UTC)).cache_entry()
    assert json.loads(entry.body) == {
        "id": 1,
        "name": "n",
        "message": "ä",
        "status": "draft",
        "version": 3,
        "created_at": "2025-11-24T08:09:45.634000Z",
        "updated_at": "2025-11-24T08:09:45.634000Z",
    }
    assert entry.stamp == (1763971785634000, 3)
