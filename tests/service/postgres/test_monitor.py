"""The monitor of Postgres, which creates and checks several tables."""

import pytest

from pytest_resilience import eventually

from ..support import sql

LACK = "Postgres lacks what contacts and jobs need:"
RESOLVED = "Postgres has what contacts and jobs need"
CSV = {"content": b"name,email,phone\nAda,ada@example.com,\n", "headers": {"Content-Type": "text/csv"}}


@pytest.mark.parametrize("table", ["contacts", "deliveries", "cadences"])
def test_a_dropped_table_is_created_again(resilience, service, table):
    sql(resilience, f"DROP TABLE {table}")
    eventually(lambda: sql(resilience, f"SELECT to_regclass('{table}') IS NOT NULL")[0][0], within=3)
    assert service.get("/readyz").status_code == 200


def test_a_table_that_is_not_essential_leaves_the_service_ready_and_is_logged_once(resilience, service, log):
    sql(resilience, "ALTER TABLE contacts DROP COLUMN phone")
    eventually(lambda: LACK in log(), within=3)
    (line,) = [line for line in log().splitlines() if LACK in line]
    assert "columns of contacts that are missing or of another type: phone" in line
    assert service.get("/readyz").json()["status"] == "ready"
    assert service.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201
    assert service.post("/api/contacts/import", **CSV).status_code == 503
    sql(resilience, "DROP TABLE contacts")
    eventually(lambda: RESOLVED in log(), within=3)
    assert log().count(LACK) == 1
    assert service.post("/api/contacts/import", **CSV).status_code == 200


def test_a_campaign_with_deliveries_can_be_deleted(resilience, service, campaign):
    insert = "INSERT INTO deliveries (campaign_id, step, contact_id) SELECT $1, 0, generate_series(1, 100)"
    sql(resilience, insert, campaign["id"])
    assert service.delete(f"/api/campaigns/{campaign['id']}").status_code == 204
