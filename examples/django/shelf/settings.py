"""The settings. DATABASE_URL and REDIS_URL come from the environment."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit


def database(url: str) -> dict[str, object]:
    """Return the settings of a database, given as postgresql://user:password@host:port/name."""
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.removeprefix("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 600,  # seconds: a connection serves many requests
        "CONN_HEALTH_CHECKS": True,  # and is replaced if it died between two of them
        "OPTIONS": {"connect_timeout": 2, "options": "-c statement_timeout=2s"},
    }


DATABASES = {"default": database(os.environ.get("DATABASE_URL", "postgresql:///shelf"))}
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ.get("REDIS_URL", "redis://127.0.0.1/0"),
        "TIMEOUT": 30,  # seconds, the largest age of a title after an outage of Redis
        "OPTIONS": {
            "IGNORE_EXCEPTIONS": True,  # without Redis, a read returns None and a write does nothing
            "SOCKET_CONNECT_TIMEOUT": 0.25,  # seconds
            "SOCKET_TIMEOUT": 0.25,
        },
    }
}
DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS = True

ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shelf"]
MIDDLEWARE = ["shelf.views.unavailable"]
ROOT_URLCONF = "shelf.urls"
SECRET_KEY = os.environ.get("SECRET_KEY", "for tests")
USE_TZ = True
