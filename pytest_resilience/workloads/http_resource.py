"""The workload of an HTTP service that has resources: create, read, update, delete and list."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ..clock import SYSTEM
from ..errors import SetupError
from ..history import NOTHING, Client, History, Invocation, struck
from ..redaction import scrubbed
from ..wording import counted
from .pattern import pattern, slot

if TYPE_CHECKING:
    import httpx

    from ..operation import Operation

KINDS = (
    "delete",
    "create",
    "read",
    "update",
    "list",
)  # in the order of the liveness phase: what is deleted is created again
PATTERN = (
    *("update", "read", "update", "read"),
    *("create", "read", "update", "list"),
    *("delete", "read", "create", "list"),
)
WRITES = ("create", "update", "delete")
MAX_PAGES = 1000  # of one list
MAX_SHOWN_CHARS = 200  # of a response in a message
MAX_LAST_READS = 100  # of resources at the end of an episode, the newest ones

Body = Callable[[str], Any] | Mapping[str, Any]


@dataclass
class _Slot:
    """An object that clients share. A create puts a new resource into it.

    Attributes:
        id: the id of the resource; None before the first create has succeeded.
        version: the version that was seen last; None without versions.
    """

    id: str | None = None
    version: int | None = None


class HttpResource:
    """Clients that create, read, update, delete and list the resources of a path, by the HTTP client of `resilience.service`.

    Args:
        path: the path of the collection, such as "/api/campaigns": POST creates, GET lists. A resource is at path + "/" + id.
        create: the body of a POST: a function of the unique text to write, or an object in which "{value}" stands for it.
        change: the body of a PUT; as `create`. None for one that equals that of `create`.
        kinds: the kinds of operation, in the order in which the liveness phase performs them.
        keys: the number of resources that clients share.
        list_path: path and query of the first page; None for `path`.
        items: the field of a page that has the resources; None for a page that is a list.
        next_field: the field of a page with the value of `after` for the next page, or with its URL; absent or null at the end.
        after: the query parameter for the next page.
        id_field: the field of a resource with its id. Without the field, the last segment of Location is the id.
        value_field: the field of a resource with the unique text; None for the one that has it in the body of `change`.
        version_field: the field of a resource with its version, an integer, for an answer without a numeric ETag.
        source_header: the header of a read with what answered it.
        state_header: the header of a read with the state of the cache.
        conditional: send If-Match with the last known version in half of the updates.
        timeout: seconds for each request.
        headers: headers of each request, such as those of a login.
    """

    def __init__(
        self,
        path: str,
        create: Body,
        change: Body | None = None,
        *,
        kinds: Sequence[str] = KINDS,
        keys: int = 3,
        list_path: str | None = None,
        items: str | None = "items",
        next_field: str = "next",
        after: str = "after",
        id_field: str = "id",
        value_field: str | None = None,
        version_field: str = "version",
        source_header: str = "X-Cache-Source",
        state_header: str = "X-Cache",
        conditional: bool = True,
        timeout: float = 2.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise SetupError(f"HttpResource(kinds=...) takes some of {', '.join(KINDS)}, got {kinds!r}")
        if not path.startswith("/"):
            raise SetupError(f"HttpResource(path) is a path such as '/items', got {path!r}")
        if keys < 1:
            raise SetupError(f"HttpResource(keys=...) is a number of 1 or more, got {keys!r}")
        if _filled(create, SAMPLE) == _filled(create, OTHER_SAMPLE):
            raise SetupError(
                "HttpResource(create=...) has no unique text, so no checker could tell one resource from another: write "
                f'"{{value}}" where the text is to be, as in create={{"name": "{{value}}"}}; got {create!r}'
            )
        self.kinds = tuple(kinds)
        self.name = path
        self._pattern = pattern(self.kinds, PATTERN)
        self._path = path.rstrip("/")
        self._list_path = list_path or path
        self._create = create
        self._change = create if change is None else change
        self._keys = keys
        self._items, self._next_field, self._after = items, next_field, after
        self._id_field, self._version_field = id_field, version_field
        self._source_header, self._state_header = source_header, state_header
        self._conditional = conditional
        self._timeout = timeout
        self._headers = dict(headers or {})
        self._value_field = value_field or _field_with_value(self._change) or _field_with_value(self._create)
        self._service: Any = None
        self._slots: list[_Slot] = []
        self._own_slot = (
            _Slot()
        )  # of the one client in the phases without faults, so that it replaces no resource of the others
        self._created: list[str] = []
        self._texts = itertools.count(1)
        self._refusal = ""  # the last response that was no success

    def begin(self, resilience: Any) -> None:
        """Forget the resources of earlier plays, and create the first ones, which is recorded.

        Raises:
            SetupError: none could be created, or none has an id, although nothing has struck.
        """
        self._service = resilience.service
        self._slots = [_Slot() for _ in range(self._keys)]
        self._own_slot = _Slot()
        self._created = []
        client = resilience.history.client()
        begun = SYSTEM.now()
        for place in (*self._slots, self._own_slot):
            self._perform_create(client, place)
        if not self._created and struck(begun, SYSTEM.now()) == NOTHING:
            self._report_no_resource(resilience.history, client)

    def _report_no_resource(self, history: History, client: Client) -> NoReturn:
        created = [each for each in history.operations if each.client == client.number]
        if any(each.type == "ok" for each in created):
            raise SetupError(
                f"HttpResource({self._path!r}): the answer to POST has no id, neither in the field {self._id_field!r} nor as the "
                "last segment of Location; id_field= names another field"
            )
        raise SetupError(
            f"HttpResource({self._path!r}): POST {self._path} has created nothing, although nothing has struck; the last of "
            f"{counted(len(created), 'attempts')}: {self._refusal or created[-1].error}"
        )

    def end(self) -> None:
        """Forget the service."""
        self._service = None

    def kind(self, n: int) -> str:
        """Return the kind of operation `n`."""
        return self._pattern[n % len(self._pattern)]

    def perform(self, client: Client, kind: str, n: int) -> None:
        """Perform and record one operation."""
        place = self._slots[slot(n, self._keys)] if client.history.phase == "run" else self._own_slot
        match kind:
            case "create":
                self._perform_create(client, place)
            case "list":
                self._perform_list(client)
            case _ if place.id is None:
                self._perform_create(client, place)  # there is nothing yet to read, change or delete
            case "read":
                self._perform_read(client, place, place.id)
            case "update":
                expected = place.version if self._conditional and n % GROUP_OF_CONDITIONS == CONDITIONAL_ONE else None
                self._perform_update(client, place, place.id, expected)
            case _:
                self._perform_delete(client, place.id)

    def read_all(self, client: Client) -> None:
        """Read every resource that was created, so that a lost or resurrected one is seen."""
        for key in self._created[-MAX_LAST_READS:]:
            self.read(client, key)

    def add(self, client: Client, key: str, value: Any, version: int | None = None) -> None:
        """Record a resource that was created around the service, such as a row that `begin` of a subclass has inserted.

        No layer of the service has it in a cache. The clients do not change it, and it is read at the end of each episode.

        Args:
            client: the client that records the create.
            key: the id of the resource.
            value: its unique text.
            version: its version; None without versions.
        """
        client.invoke("create", value=value).ok(key=key, version=version)
        self._created.append(key)

    def read(self, client: Client, key: str) -> None:
        """Read a resource, and record that.

        Args:
            client: the client that reads.
            key: the id of the resource.
        """
        self._perform_read(client, None, key)

    def _perform_create(self, client: Client, place: _Slot) -> None:
        body, value = self._body(self._create, client)
        invocation = client.invoke("create", value=value)
        response = self._send(invocation, "POST", self._path, json=body)
        if response is None:
            return
        created = _json(response)
        key = self._id_of(created, response)
        version = self._version_of(created, response)
        if key is not None:
            place.id, place.version = key, version
            self._created.append(key)
        invocation.ok(key=key, version=version)

    def _perform_read(self, client: Client, place: _Slot | None, key: str) -> None:
        invocation = client.invoke("read", key=key)
        response = self._send(invocation, "GET", f"{self._path}/{key}", missing_is_ok=True)
        if response is None:
            return
        headers = response.headers
        seen = {"source": headers.get(self._source_header), "state": headers.get(self._state_header)}
        if response.status_code == 404:
            invocation.ok(value=None, **seen)
            return
        resource = _json(response)
        version = self._version_of(resource, response)
        if place is not None and place.id == key:
            place.version = version
        invocation.ok(value=self._value_of(resource), version=version, **seen)

    def _perform_update(self, client: Client, place: _Slot, key: str, expected: int | None) -> None:
        body, value = self._body(self._change, client)
        invocation = client.invoke("update", key=key, value=value, expected=expected)
        condition = {"If-Match": f'"{expected}"'} if expected is not None else {}
        response = self._send(invocation, "PUT", f"{self._path}/{key}", json=body, headers=condition)
        if response is None:
            return
        version = self._version_of(_json(response), response)
        if place.id == key:
            place.version = version
        invocation.ok(version=version)

    def _perform_delete(self, client: Client, key: str) -> None:
        invocation = client.invoke("delete", key=key)
        if self._send(invocation, "DELETE", f"{self._path}/{key}") is not None:
            invocation.ok()

    def _perform_list(self, client: Client) -> None:
        invocation = client.invoke("list")
        found: dict[str, Any] = {}
        path = self._list_path
        for _ in range(MAX_PAGES):
            response = self._send(invocation, "GET", path)
            if response is None:
                return
            page = _json(response)
            resources = page.get(self._items, []) if isinstance(page, dict) and self._items else page
            for each in resources if isinstance(resources, list) else []:
                found[str(each.get(self._id_field))] = self._value_of(each)
            following = self._next_page(page)
            if following is None:
                invocation.ok(value=found)
                return
            path = following
        invocation.fail(f"more than {MAX_PAGES} pages")

    def _next_page(self, page: Any) -> str | None:
        following = page.get(self._next_field) if isinstance(page, dict) else None
        if following is None:
            return None
        if isinstance(following, str) and following.startswith(("/", "http://", "https://")):
            return following
        return f"{self._list_path}{'&' if '?' in self._list_path else '?'}{self._after}={following}"

    def _send(
        self,
        invocation: Invocation,
        method: str,
        path: str,
        *,
        missing_is_ok: bool = False,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response | None:
        """Send a request. Return its response if the operation has succeeded; else record the outcome, and return None."""
        import httpx

        body = {"json": json} if json is not None else {}
        try:
            response: httpx.Response = self._service.client.request(
                method, path, headers={**self._headers, **(headers or {})}, timeout=self._timeout, **body
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            invocation.fail(type(error).__name__)  # nothing was sent
            return None
        except httpx.HTTPError as error:
            _unknown(invocation, method, type(error).__name__)
            return None
        status = response.status_code
        if response.is_success or (missing_is_ok and status == 404):
            return response
        self._refusal = f"{status} {scrubbed(response.text[:MAX_SHOWN_CHARS])}".strip()
        if status >= 500:
            _unknown(invocation, method, str(status))
        else:
            invocation.fail(str(status))
        return None

    def _body(self, body: Body, client: Client) -> tuple[Any, Any]:
        """Return the body of a write with a unique text, and the value that it writes."""
        text = f"w{client.process}.{next(self._texts)}"
        filled = _filled(body, text)
        field = self._value_field
        return filled, filled.get(field, text) if field is not None and isinstance(filled, Mapping) else text

    def _value_of(self, resource: Any) -> Any:
        if not isinstance(resource, Mapping) or self._value_field is None:
            return resource
        return resource.get(self._value_field)

    def _id_of(self, resource: Any, response: httpx.Response) -> str | None:
        if isinstance(resource, Mapping) and resource.get(self._id_field) is not None:
            return str(resource[self._id_field])
        return response.headers.get("Location", "").rstrip("/").rpartition("/")[2] or None

    def _version_of(self, resource: Any, response: httpx.Response) -> int | None:
        tag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
        if tag.isdigit():
            return int(tag)
        version = resource.get(self._version_field) if isinstance(resource, Mapping) else None
        return version if isinstance(version, int) else None


GROUP_OF_CONDITIONS = 4
CONDITIONAL_ONE = 2  # of four operations in a row, which are about one object


def _unknown(invocation: Invocation, method: str, error: str) -> Operation:
    """Record a request that was sent and not answered by the service. A write may have happened, and a read has failed."""
    return invocation.fail(error) if method == "GET" else invocation.info(error)


def _filled(body: Any, text: str) -> Any:
    """Return a body with the text in place of each "{value}"."""
    if callable(body):
        return body(text)
    if isinstance(body, Mapping):
        return {key: _filled(value, text) for key, value in body.items()}
    if isinstance(body, list | tuple):
        return [_filled(each, text) for each in body]
    return body.replace("{value}", text) if isinstance(body, str) else body


def _field_with_value(body: Body) -> str | None:
    """Return the first field of a body that has the unique text."""
    filled = _filled(body, SAMPLE)
    if not isinstance(filled, Mapping):
        return None
    return next((name for name, value in filled.items() if isinstance(value, str) and SAMPLE in value), None)


SAMPLE = "w0.0"
OTHER_SAMPLE = "w0.1"


def _json(response: httpx.Response) -> Any:
    """Return the body of a response, or None if it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None
