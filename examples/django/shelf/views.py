"""The views. A client that got no answer repeats its request with the same key, which lends one copy at most."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from uuid import UUID

from django.core.cache import cache
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404

from shelf.models import Book, Loan

log = logging.getLogger("shelf")


def unavailable(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Return a middleware that answers 503 while Postgres is away, because a later attempt may succeed."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    def process_exception(request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, OperationalError | InterfaceError):
            return None
        log.warning("%s %s: %r", request.method, request.path, error)
        return JsonResponse(
            {"error": f"try again later: {type(error).__name__}"}, status=503, headers={"Retry-After": "1"}
        )

    middleware.process_exception = process_exception
    return middleware


def book(request: HttpRequest, isbn: str) -> HttpResponse:
    """Store a book, or return its title and copies, which may be some seconds old."""
    if request.method == "PUT":
        given = json.loads(request.body)
        Book.objects.update_or_create(isbn=isbn, defaults={"title": given["title"], "copies": given["copies"]})
        cache.delete(isbn)
        return JsonResponse(given, status=201)
    found = cache.get(isbn)
    if found is None:
        stored = get_object_or_404(Book, isbn=isbn)
        found = {"title": stored.title, "copies": stored.copies}
        cache.set(isbn, found)
    return JsonResponse(found)


def loan(request: HttpRequest, key: UUID) -> HttpResponse:
    """Lend a copy, unless this key has lent one before. 409 if there is none."""
    isbn = json.loads(request.body)["isbn"]
    with transaction.atomic():
        _, created = Loan.objects.get_or_create(key=key, defaults={"book_id": isbn})
        if created and not Book.objects.filter(isbn=isbn, copies__gt=0).update(copies=F("copies") - 1):
            transaction.set_rollback(True)
            return JsonResponse({"error": "no copy"}, status=409)
    cache.delete(isbn)
    return JsonResponse({"isbn": isbn}, status=201)


def ready(request: HttpRequest) -> HttpResponse:
    """Report that the service can lend, for which it does not need Redis."""
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    return JsonResponse({"status": "ready"})


def health(request: HttpRequest) -> HttpResponse:
    """Report that the process is alive. No server is queried."""
    return JsonResponse({"status": "alive"})
