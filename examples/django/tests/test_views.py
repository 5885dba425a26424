"""The views in the test process, with the fixtures of pytest-django."""

from __future__ import annotations

import json

import pytest
from django.test import Client

from pytest_resilience import Resilience
from shelf.models import Book, Loan

LOAN = "/loans/00000000-0000-0000-0000-000000000001"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def emma() -> Book:
    return Book.objects.create(isbn="1", title="Emma", copies=1)


def test_a_loan_takes_a_copy(client: Client, emma: Book) -> None:
    assert client.put(LOAN, json.dumps({"isbn": "1"})).status_code == 201
    emma.refresh_from_db()
    assert emma.copies == 0


def test_a_loan_without_a_copy_is_409(client: Client) -> None:
    client.put(LOAN, json.dumps({"isbn": "1"}))
    assert client.put(LOAN.replace("1", "2"), json.dumps({"isbn": "1"})).status_code == 409
    assert Loan.objects.count() == 1


def test_a_book_that_is_not_there_is_404(client: Client) -> None:
    assert client.get("/books/2").status_code == 404


def test_books_come_from_postgres_without_redis(client: Client, resilience: Resilience) -> None:
    with resilience.redis.refuse():
        assert client.get("/books/1").json() == {"title": "Emma", "copies": 1}


@pytest.mark.django_db(transaction=True)
def test_without_postgres_a_loan_is_503(client: Client, resilience: Resilience) -> None:
    with resilience.postgres.refuse():
        assert client.put(LOAN, json.dumps({"isbn": "1"})).status_code == 503
