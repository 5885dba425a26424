"""The limits of requests that are no limits of fields. The checks use them, and so does the description of the API."""

from __future__ import annotations

MAX_BODY_BYTES = 1 << 20
PAGE, MAX_PAGE = 50, 200  # campaigns on a page
