"""The user at the other end of a loopback TCP connection, which Linux reports without privileges.

One exact query of sock_diag(7) for the client's socket, about 20 microseconds. The kernel answers with the uid that made the
socket, as this process' user namespace sees it. Two traps are avoided:

- a socket that its process has closed already (an orphan, TIME_WAIT) is reported with uid 0: only a socket that a process still
  holds (its inode is not 0) is believed;
- the look-up falls back to a socket that listens at the client's address: the answer must name both ends.
"""

from __future__ import annotations

import _socket as so
from struct import Struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .log import Log

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1  # NLM_F_REQUEST
_HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, sender
_QUERY = Struct(
    "=BBBBI"
)  # struct inet_diag_req_v2: family, protocol, extensions, padding, states; then the socket's id
_ID = Struct(">HH16s16s")  # struct inet_diag_sockid: ports and addresses of both ends; then interface and cookie
_ANY_COOKIE = Struct("=III").pack(0, 0xFFFFFFFF, 0xFFFFFFFF)
_ALL_STATES = 0xFFFFFFFF
_OWNER = Struct("=II")  # uid and inode, the last two fields of struct inet_diag_msg
_OWNER_AT = _HEADER.size + 64
_ID_AT = _HEADER.size + 4
_V4_MAPPED = bytes(10) + b"\xff\xff"


class PeerUserLookup:
    """A look-up of the user that owns the client's end of a connection.

    Attributes:
        available: False where the kernel does not report users (macOS, or Linux without sock_diag).
    """

    def __init__(self, listener: so.socket) -> None:
        """Query the listener itself once, to set `available`.

        Args:
            listener: a TCP socket that listens.
        """
        self._sequence = 0
        self._socket: so.socket | None = None
        self.available = False
        if hasattr(so, "AF_NETLINK") and listener.family in (so.AF_INET, so.AF_INET6):
            try:
                self._socket = so.socket(so.AF_NETLINK, so.SOCK_RAW, _NETLINK_SOCK_DIAG)
                self._socket.setblocking(False)
                own = listener.getsockname()
                unset = "::" if ":" in own[0] else "0.0.0.0"
                self.available = self._query(own, (unset, 0)) is not None
            except OSError:
                self.available = False

    def uid_of(self, connection: so.socket) -> int | None:
        """Return the uid of the process that made the client's socket, or None if no local process holds such a socket."""
        try:
            return self._query(connection.getpeername(), connection.getsockname())
        except OSError:
            return None

    def close(self) -> None:
        """Close the netlink socket."""
        if self._socket is not None:
            self._socket.close()

    def _query(self, near: Any, far: Any) -> int | None:
        """Return the uid of the socket that has `near` as its own address and `far` as its peer's."""
        if self._socket is None:
            return None
        family, source = _packed(near[0])
        _, destination = _packed(far[0])
        wanted = _ID.pack(near[1], far[1], source, destination)
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        query = _QUERY.pack(family, so.IPPROTO_TCP, 0, 0, _ALL_STATES) + wanted + _ANY_COOKIE
        length = _HEADER.size + len(query)
        self._socket.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _REQUEST, sequence, 0) + query)
        while True:  # skip replies to earlier queries that failed
            answer = self._socket.recv(8192)  # the reply is there when send returns
            if _HEADER.unpack_from(answer)[3] == sequence:
                break
        if len(answer) < _OWNER_AT + _OWNER.size:  # an error: there is no such socket
            return None
        ports_and_addresses = _ID.unpack_from(answer, _ID_AT)
        uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
        if inode == 0 or ports_and_addresses[:2] != (near[1], far[1]):
            return None
        return int(uid)


def _packed(host: str) -> tuple[int, bytes]:
    """Return the family to query, and 16 bytes of address. An IPv4 address inside IPv6 is queried as IPv4."""
    if ":" not in host:
        return so.AF_INET, so.inet_pton(so.AF_INET, host) + bytes(12)
    data = so.inet_pton(so.AF_INET6, host.partition("%")[0])
    if data.startswith(_V4_MAPPED):
        return so.AF_INET, data[12:] + bytes(12)
    return so.AF_INET6, data


class OwnerOnlyAccess:
    """Access control that admits clients of this process' own user and of root only.

    Args:
        listener: the socket that accepts the clients.
        owner: this process' effective uid.
        log: gets one line for each other user, and one line where the kernel does not report users.
    """

    MAX_LOGGED_UIDS = 20

    def __init__(self, listener: so.socket, owner: int, log: Log) -> None:
        self._users = PeerUserLookup(listener)
        self._allowed = (owner, 0)
        self._log = log
        self._logged: set[int | None] = set()
        if not self._users.available:
            log.warning("the kernel does not report users: all users of this machine are served")

    def admits(self, connection: so.socket) -> bool:
        """True if the client may use the API."""
        if not self._users.available:
            return True
        uid = self._users.uid_of(connection)
        if uid in self._allowed:
            return True
        if uid not in self._logged and len(self._logged) < self.MAX_LOGGED_UIDS:
            self._logged.add(uid)
            self._log.warning("refused a client of another user", uid="unknown" if uid is None else str(uid))
        return False

    def close(self) -> None:
        """Close the netlink socket."""
        self._users.close()
