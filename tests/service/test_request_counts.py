"""The counts of requests."""

from service.request_counts import RequestCounts, RequestKind


def test_requests_are_counted_by_method_route_and_class_of_the_status():
    counts = RequestCounts()
    for status in (200, 204, 404, 503):
        counts.add("GET", "/api/campaigns/{id}", status, 0.1)
    kinds = {(kind.method, kind.route, kind.status): times.count for kind, times in counts.by_kind.items()}
    route = "/api/campaigns/{id}"
    assert kinds == {("GET", route, "2xx"): 2, ("GET", route, "4xx"): 1, ("GET", route, "5xx"): 1}


def test_a_bucket_holds_its_upper_bound():
    counts = RequestCounts()
    for seconds in (0.0, 0.005, 0.0051, 10.0, 11.0):
        counts.add("GET", "/health", 200, seconds)
    times = counts.by_kind[RequestKind("GET", "/health", "2xx")]
    assert times.buckets == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert (times.count, times.seconds) == (5, 21.0101)


def test_clients_cannot_add_kinds():
    counts = RequestCounts()
    for method in ("BREW", "get", "PROPFIND"):
        counts.add(method, None, 404, 0.1)
    assert [*counts.by_kind] == [RequestKind("other", "unmatched", "4xx")]
