"""The routes of cadences."""

import pytest

GOOD = {"every_seconds": 3600, "repeat": 3}


def test_a_cadence_is_put_read_and_deleted(service, campaign):
    path = f"/api/campaigns/{campaign['id']}/cadence"
    assert service.get(path).status_code == 404
    put = service.put(path, json=GOOD)
    assert (put.status_code, put.json()) == (200, GOOD)
    assert service.put(path, json={**GOOD, "every_seconds": 0.5, "repeat": 10_000}).status_code == 200
    got = service.get(path)
    assert (got.status_code, got.json()) == (200, {"every_seconds": 0.5, "repeat": 10_000})
    assert service.delete(path).status_code == 204
    assert service.delete(path).status_code == 404
    assert service.get(path).status_code == 404


@pytest.mark.parametrize("campaign_id", ["999999999", "0", "x", "1e3", "99999999999999999999"])
def test_a_campaign_that_does_not_exist_has_no_cadence(service, campaign_id):
    path = f"/api/campaigns/{campaign_id}/cadence"
    replies = [service.put(path, json=GOOD), service.get(path), service.delete(path)]
    assert [reply.status_code for reply in replies] == [404] * 3


def test_an_invalid_cadence_is_a_422_that_names_the_fields(service, campaign):
    reply = service.put(f"/api/campaigns/{campaign['id']}/cadence", json={"every_seconds": 0, "repeat": 1.5})
    assert (reply.status_code, set(reply.json()["errors"])) == (422, {"every_seconds", "repeat"})


def test_readyz_names_the_cadence(service):
    assert service.get("/readyz").json()["checks"]["cadence"] == "ok"
